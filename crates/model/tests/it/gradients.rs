//! Every gradient of the whole model against finite differences in f64, and what may not change it.

use crate::{NOTHING, Text, configurations, shaken};
use lingot_device::reference::Reference;
use lingot_device::{Device, Kind};
use lingot_model::random::Stream;
use lingot_model::{Inputs, Model, Noise, Rows, Totals, Warmth};
use lingot_spec::ModelSpec;
use lingot_spec::run::Recompute;

const SEQUENCES: usize = 2;
const SEQUENCE: usize = 7;

/// The total loss, and the gradients of all tensors one after the other.
fn differentiate(model: &Model, parts: &[Rows<'_>], recompute: &[Recompute]) -> (f64, Vec<f64>) {
    let spec = &model.spec;
    let mut totals = Totals::default();
    parts.iter().for_each(|rows| totals.add(rows, spec.mtp_layers > 0));
    let gradients = model.gradients().unwrap();
    let mut tokens_before = 0;
    for rows in parts {
        let inputs = Inputs::new(&model.device, *rows, spec.mtp_layers > 0).unwrap();
        let (from, count) =
            (tokens_before * spec.experts as usize, rows.tokens_t.len() * spec.experts as usize);
        let noise =
            |layer: usize| Stream::new(&[11, layer as u64]).normal_values(from + count, 1.0)[from..].to_vec();
        let warmth =
            (spec.router.warmup_steps > 0).then_some(Warmth { keep: 0.6, noise: Noise::Drawn(&noise) });
        model.differentiate(&inputs, totals, warmth, recompute, &gradients).unwrap();
        tokens_before += rows.tokens_t.len();
    }
    let losses = gradients.losses(spec, totals, parts[0].sequence).unwrap();
    (losses.total, gradients.bundle.flat.to_doubles().unwrap())
}

fn model(spec: &ModelSpec) -> Model {
    shaken(spec, &Device::new(Reference::new()), Kind::F64)
}

#[test]
fn gradients_agree_with_finite_differences() {
    for (name, spec) in configurations() {
        let model = model(&spec);
        let text = Text::new(&spec, SEQUENCES, SEQUENCE);
        let (_, gradient) = differentiate(&model, &[text.rows()], NOTHING);
        let largest = gradient.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        let mut stream = Stream::new(&[13]);
        let mut from = 0;
        for (tensor, of) in model.parameters.tensors.iter().zip(&model.parameters.specs) {
            let values = tensor.to_doubles().unwrap();
            for _ in 0..4 {
                let index = (stream.bits() % values.len() as u64) as usize;
                let step = 1e-5;
                let loss_at = |offset: f64| {
                    let mut moved = values.clone();
                    moved[index] += offset;
                    tensor.write_doubles(&moved).unwrap();
                    differentiate(&model, &[text.rows()], NOTHING).0
                };
                let numeric = (loss_at(step) - loss_at(-step)) / (2.0 * step);
                tensor.write_doubles(&values).unwrap();
                // NormHead detaches a norm that finite differences see; the golden files check it instead.
                let exact = gradient[from + index];
                let error = (numeric - exact).abs() / largest;
                assert!(error < 1e-7, "{name}: {}[{index}] is {exact}, by differences {numeric}", of.name);
            }
            from += values.len();
        }
    }
}

#[test]
fn recomputation_changes_no_bit() {
    for (name, spec) in configurations() {
        let model = model(&spec);
        let text = Text::new(&spec, SEQUENCES, SEQUENCE);
        let kept = differentiate(&model, &[text.rows()], NOTHING);
        for policy in [Recompute::Experts, Recompute::Block] {
            assert!(kept == differentiate(&model, &[text.rows()], &[policy]), "{name}, {policy:?}");
        }
        let mixed = [Recompute::Block, Recompute::Experts];
        assert!(kept == differentiate(&model, &[text.rows()], &mixed), "{name}, one policy per layer");
    }
}

#[test]
fn splitting_a_batch_changes_nothing_but_rounding() {
    for (name, spec) in configurations() {
        let model = model(&spec);
        let text = Text::new(&spec, 4, SEQUENCE);
        let (loss, gradient) = differentiate(&model, &[text.rows()], NOTHING);
        let scope = spec.router.balance_sequences as usize;
        let parts: Vec<Rows<'_>> = (0..4 / scope).map(|part| text.part(part * scope, scope)).collect();
        // Starts count from the micro-batch's first token.
        let moved: Vec<Vec<i32>> = parts
            .iter()
            .enumerate()
            .map(|(part, rows)| {
                rows.starts_t.iter().map(|start| start - (part * scope * SEQUENCE) as i32).collect()
            })
            .collect();
        let parts: Vec<Rows<'_>> =
            parts.iter().zip(&moved).map(|(rows, starts_t)| Rows { starts_t, ..*rows }).collect();
        let (split_loss, split_gradient) = differentiate(&model, &parts, NOTHING);
        assert!((loss - split_loss).abs() < 1e-12 * loss.abs(), "{name}: {loss} and {split_loss}");
        for (whole, split) in gradient.iter().zip(&split_gradient) {
            assert!((whole - split).abs() < 1e-12, "{name}: {whole} and {split}");
        }
    }
}
