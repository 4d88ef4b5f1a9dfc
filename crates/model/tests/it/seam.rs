//! What passes the seam, in which order, and that nothing else is read.

use crate::{NOTHING, Text, configurations, shaken};
use lingot_device::reference::Reference;
use lingot_device::{Device, Error, Kind, Result, Tensor};
use lingot_model::random::Stream;
use lingot_model::{Bundle, Cache, Gradients, Inputs, Model, Noise, Pass, Seam, Totals, Warmth};
use lingot_spec::ModelSpec;
use lingot_spec::run::Recompute;
use lingot_spec::tensors::{Layer, layers};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

const SEQUENCES: usize = 2;
const SEQUENCE: usize = 7;
const MICROS: usize = 2;
/// Every policy for all layers, then layers that differ.
const POLICIES: &[&[Recompute]] =
    &[NOTHING, &[Recompute::Experts], &[Recompute::Block], &[Recompute::Block, Recompute::Experts]];

/// The architectures in miniature, and those whose layers share tensors in other ways.
fn all_configurations() -> Vec<(&'static str, ModelSpec)> {
    let mut all = configurations();
    let named = |name: &str| all.iter().find(|(found, _)| *found == name).unwrap().1.clone();
    let (v1, mtp) = (named("v1"), named("v2, multi-token prediction"));
    all.push(("v1, NormHead", ModelSpec { norm_head: true, ..v1.clone() }));
    all.push(("v1, NormHead, tied", ModelSpec { norm_head: true, tied: true, ..v1 }));
    all.push(("v2, multi-token prediction, tied", ModelSpec { tied: true, ..mtp.clone() }));
    all.push((
        "v2, multi-token prediction, tied, NormHead",
        ModelSpec { tied: true, norm_head: true, ..mtp.clone() },
    ));
    all.push(("dense, multi-token prediction", ModelSpec { dense_layers: 2, ..mtp }));
    all
}

fn model(spec: &ModelSpec) -> Model {
    shaken(spec, &Device::new(Reference::new()), Kind::F64)
}

/// The losses and the gradients of a step of `MICROS` micro-batches through `seam`, as bits.
fn step(model: &Model, gradients: &Gradients, seam: &dyn Seam, recompute: &[Recompute]) -> Result<Vec<u64>> {
    let spec = &model.spec;
    let text = Text::new(spec, SEQUENCES, SEQUENCE);
    let has_mtp = spec.mtp_layers > 0;
    let mut totals = Totals::default();
    (0..MICROS).for_each(|_| totals.add(&text.rows(), has_mtp));
    let count = SEQUENCES * SEQUENCE * spec.experts as usize;
    let noise = |layer: usize| Stream::new(&[11, layer as u64]).normal_values(count, 1.0);
    let warmth = (spec.router.warmup_steps > 0).then_some(Warmth { keep: 0.6, noise: Noise::Drawn(&noise) });
    let inputs = Inputs::new(&model.device, text.rows(), has_mtp)?;
    for _ in 0..MICROS {
        model.through(seam).differentiate(&inputs, totals, warmth, recompute, gradients)?;
    }
    let losses = gradients.losses(spec, totals, SEQUENCE)?;
    Ok([losses.total, losses.main, losses.mtp, losses.balance, losses.z].map(f64::to_bits).to_vec())
}

fn bits(tensor: &Tensor) -> Vec<u64> {
    tensor.to_doubles().unwrap().into_iter().map(f64::to_bits).collect()
}

fn part(bundle: &Bundle, layer: &Layer) -> Tensor {
    bundle.flat.rows(layer.numbers.start, layer.numbers.len())
}

/// One window: only the layer that arrived last is there, weights and gradient; all else is not-a-number.
struct Window<'a> {
    model: &'a Model,
    /// Without gradients nothing is trained.
    gradients: Option<&'a Gradients>,
    weights: Vec<f64>,
    /// The gradients that are away, by layer.
    away: RefCell<HashMap<String, Vec<f64>>>,
    here: RefCell<Option<(Layer, Pass)>>,
}

impl<'a> Window<'a> {
    fn new(model: &'a Model, gradients: Option<&'a Gradients>) -> Window<'a> {
        let (weights, away) = (model.parameters.flat.to_doubles().unwrap(), RefCell::default());
        let window = Window { model, gradients, weights, away, here: RefCell::default() };
        poison(&model.parameters.flat);
        if let Some(gradients) = gradients {
            for layer in layers(&model.spec) {
                window.fetch(&layer, gradients);
            }
        }
        window
    }

    /// Brings a gradient to safety and poisons its memory.
    fn fetch(&self, layer: &Layer, gradients: &Gradients) {
        let gradient = part(&gradients.bundle, layer);
        self.away.borrow_mut().insert(layer.name.clone(), gradient.to_doubles().unwrap());
        poison(&gradient);
    }

    /// Ends the span of the layer that is here.
    fn empty(&self) {
        if let Some((layer, pass)) = self.here.take() {
            poison(&part(&self.model.parameters, &layer));
            if let (Pass::Backward | Pass::Gradient, Some(gradients)) = (pass, self.gradients) {
                self.fetch(&layer, gradients);
            }
        }
    }

    /// All gradients, once the step is over.
    fn found(&self) -> Vec<u64> {
        self.empty();
        let away = self.away.borrow();
        layers(&self.model.spec)
            .iter()
            .flat_map(|layer| away[&layer.name].iter().map(|value| value.to_bits()))
            .collect()
    }
}

fn poison(tensor: &Tensor) {
    tensor.write_doubles(&vec![f64::NAN; tensor.len()]).unwrap();
}

impl Seam for Window<'_> {
    fn arrive(&self, layer: &Layer, pass: Pass) -> Result<()> {
        self.empty();
        if pass != Pass::Gradient {
            part(&self.model.parameters, layer).write_doubles(&self.weights[layer.numbers.clone()])?;
        }
        if let (Pass::Backward | Pass::Gradient, Some(gradients)) = (pass, self.gradients) {
            let away = self.away.borrow();
            part(&gradients.bundle, layer).write_doubles(&away[&layer.name])?;
        }
        *self.here.borrow_mut() = Some((layer.clone(), pass));
        Ok(())
    }

    fn leave(&self, _layer: &Layer) -> Result<()> {
        self.empty();
        Ok(())
    }
}

#[test]
fn no_layer_is_read_or_written_outside_of_its_span() {
    for (name, spec) in all_configurations() {
        for recompute in POLICIES {
            let (whole, windowed) = (model(&spec), model(&spec));
            let gradients = whole.gradients().unwrap();
            let losses = step(&whole, &gradients, &lingot_model::Resident, recompute).unwrap();

            let others = windowed.gradients().unwrap();
            let window = Window::new(&windowed, Some(&others));
            let found = step(&windowed, &others, &window, recompute).unwrap();
            assert!(losses == found, "{name}, {recompute:?}: the losses");
            assert!(bits(&gradients.bundle.flat) == window.found(), "{name}, {recompute:?}: the gradients");
        }
    }
}

#[test]
fn evaluation_and_decoding_read_a_layer_within_its_span_only() {
    for (name, spec) in all_configurations() {
        let (whole, windowed) = (model(&spec), model(&spec));
        let window = Window::new(&windowed, None);
        let through = windowed.through(&window);
        let text = Text::new(&spec, SEQUENCES, SEQUENCE);
        let inputs = |model: &Model| Inputs::new(&model.device, text.rows(), false).unwrap();
        let expected = whole.evaluate(&inputs(&whole)).unwrap();
        assert!(expected == through.evaluate(&inputs(&windowed)).unwrap(), "{name}: evaluate");
        let logits = through.logits(&inputs(&windowed)).unwrap();
        assert!(bits(&whole.logits(&inputs(&whole)).unwrap()) == bits(&logits), "{name}: logits");
        let [mut cache, mut other] = [&whole, &windowed].map(|model| Cache::new(model, SEQUENCE).unwrap());
        for tokens in text.tokens[..SEQUENCE].chunks(3) {
            let expected = whole.read(&mut cache, tokens).unwrap();
            assert!(expected == through.read(&mut other, tokens).unwrap(), "{name}: read");
        }
    }
}

/// Writes down every call.
#[derive(Default)]
struct Record(RefCell<Vec<String>>);

impl Seam for Record {
    fn arrive(&self, layer: &Layer, pass: Pass) -> Result<()> {
        self.0.borrow_mut().push(format!("{} {pass:?}", layer.name));
        Ok(())
    }

    fn leave(&self, layer: &Layer) -> Result<()> {
        self.0.borrow_mut().push(format!("{} leaves", layer.name));
        Ok(())
    }
}

const TRUNK: &[&str] = &["embedding Forward", "layers.0 Forward", "layers.1 Forward", "final_norm Forward"];
const BACKWARD: &[&str] = &[
    "layers.1 Backward",
    "layers.1 leaves",
    "layers.0 Backward",
    "layers.0 leaves",
    "embedding Gradient",
    "embedding leaves",
];
const MTP: &[&str] = &["embedding Forward", "final_norm Forward", "mtp Forward"];
const MTP_BACKWARD: &[&str] =
    &["mtp Backward", "mtp leaves", "embedding Gradient", "final_norm Backward", "final_norm leaves"];

#[test]
fn layers_pass_in_the_documented_order() {
    for (name, spec) in all_configurations() {
        let head = if spec.tied { "embedding Backward" } else { "head Backward" };
        let mut expected = [TRUNK, &[head, "final_norm Backward"]].concat();
        if spec.mtp_layers > 0 {
            expected.extend([MTP, &[head], MTP_BACKWARD].concat());
        } else {
            expected.push("final_norm leaves");
        }
        if !spec.tied {
            expected.push("head leaves");
        }
        expected.extend(BACKWARD);
        for recompute in POLICIES {
            let (model, record) = (model(&spec), Record::default());
            step(&model, &model.gradients().unwrap(), &record, recompute).unwrap();
            assert_eq!(record.0.take(), vec![expected.clone(); MICROS].concat(), "{name}, {recompute:?}");
            let mut firsts: Vec<&str> = Vec::new();
            for name in expected.iter().map(|call| call.split(' ').next().unwrap()) {
                if !firsts.contains(&name) {
                    firsts.push(name);
                }
            }
            let order: Vec<String> = layers(&spec).into_iter().map(|layer| layer.name).collect();
            assert_eq!(firsts, order, "{name}: layers arrive first in the order of their tensors");
        }
        let (model, record) = (model(&spec), Record::default());
        let inputs = Inputs::new(&model.device, Text::new(&spec, 1, SEQUENCE).rows(), false).unwrap();
        model.through(&record).evaluate(&inputs).unwrap();
        let head = if spec.tied { "embedding Forward" } else { "head Forward" };
        assert_eq!(record.0.take(), [TRUNK, &[head]].concat(), "{name}, evaluation");
    }
}

/// Remembers each gradient as it was when it left.
struct Left<'a> {
    gradients: &'a Gradients,
    left: RefCell<HashMap<String, Vec<u64>>>,
}

impl Seam for Left<'_> {
    fn arrive(&self, _layer: &Layer, _pass: Pass) -> Result<()> {
        Ok(())
    }

    fn leave(&self, layer: &Layer) -> Result<()> {
        let gradient = bits(&part(&self.gradients.bundle, layer));
        let before = self.left.borrow_mut().insert(layer.name.clone(), gradient);
        assert!(before.is_none(), "{} leaves twice", layer.name);
        Ok(())
    }
}

#[test]
fn a_gradient_that_has_left_changes_no_more_in_its_micro_batch() {
    for (name, spec) in all_configurations() {
        for recompute in POLICIES {
            let model = model(&spec);
            let gradients = model.gradients().unwrap();
            let text = Text::new(&spec, SEQUENCES, SEQUENCE);
            let inputs = Inputs::new(&model.device, text.rows(), spec.mtp_layers > 0).unwrap();
            let mut totals = Totals::default();
            totals.add(&text.rows(), spec.mtp_layers > 0);
            for micro in 0..MICROS {
                let seam = Left { gradients: &gradients, left: RefCell::default() };
                model.through(&seam).differentiate(&inputs, totals, None, recompute, &gradients).unwrap();
                let left = seam.left.take();
                let layers = layers(&spec);
                assert_eq!(left.len(), layers.len(), "{name}: every layer leaves");
                for layer in &layers {
                    let now = bits(&part(&gradients.bundle, layer));
                    assert!(left[&layer.name] == now, "{name}, {recompute:?}, {micro}: {}", layer.name);
                    assert!(now.iter().any(|&value| f64::from_bits(value) != 0.0), "{name}: {}", layer.name);
                }
            }
        }
    }
}

/// Lets a number of calls through and then fails.
struct Broken {
    calls_left: Cell<usize>,
}

impl Broken {
    fn call(&self) -> Result<()> {
        let lost = || Error::Lost { device: "host".into(), reason: "the exchange ended".into() };
        self.calls_left.set(self.calls_left.get().checked_sub(1).ok_or_else(lost)?);
        Ok(())
    }
}

impl Seam for Broken {
    fn arrive(&self, _layer: &Layer, _pass: Pass) -> Result<()> {
        self.call()
    }

    fn leave(&self, _layer: &Layer) -> Result<()> {
        self.call()
    }
}

#[test]
fn a_seam_that_fails_at_any_call_stops_the_step() {
    let (_, spec) = all_configurations().into_iter().find(|(name, _)| name.contains("multi-token")).unwrap();
    let (model, record) = (model(&spec), Record::default());
    let gradients = model.gradients().unwrap();
    step(&model, &gradients, &record, NOTHING).unwrap();
    let calls = record.0.take().len();
    for calls_left in 0..calls {
        let broken = Broken { calls_left: Cell::new(calls_left) };
        let failed = step(&model, &gradients, &broken, NOTHING);
        assert!(matches!(failed, Err(Error::Lost { .. })), "call {calls_left} of {calls}");
    }
}

#[test]
fn inputs_without_next_tokens_are_refused_where_several_tokens_are_predicted() {
    let (_, spec) = all_configurations().into_iter().find(|(name, _)| name.contains("multi-token")).unwrap();
    let model = model(&spec);
    let inputs = Inputs::new(&model.device, Text::new(&spec, 1, SEQUENCE).rows(), false).unwrap();
    let gradients = model.gradients().unwrap();
    let refused = model.differentiate(&inputs, Totals::default(), None, NOTHING, &gradients).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "multi-token prediction: the next token of each token is missing from the inputs, \
         but must be there: build the inputs with `mtp`"
    );
}
