//! The model: embedding, blocks, head; the loss, and every gradient written out by hand.

use crate::block::{self, BlockSaved, Pass, Routed};
use crate::bundle::Bundle;
use crate::head::Head;
use crate::inputs::{Inputs, Totals, Warmth};
use crate::mtp;
use crate::tally::{Losses, Tally};
use crate::weights::Weights;
use lingot_device::{Device, Kind, Result, Tensor, ops};
use lingot_spec::ModelSpec;
use lingot_spec::run::Recompute;
use lingot_spec::tensors::buffers;

/// How the names of selection biases end.
const SELECTION_BIAS: &str = "selection_bias";

/// Called with the name of a layer before it is first read.
pub type Reach<'a> = &'a dyn Fn(&str) -> Result<()>;

/// A model on a device: its parameters, and the routers' state that no gradient trains.
pub struct Model {
    pub spec: ModelSpec,
    pub device: Device,
    pub parameters: Bundle,
    /// Selection biases, one per routed layer, the multi-token-prediction layer last; empty where the router has none.
    pub biases: Vec<Tensor>,
    /// Running mean and deviation of each routed layer's logits, while routing warms up.
    pub statistics: Vec<[f64; 2]>,
    weights: Weights,
}

/// What a step adds up: gradients, losses and loads.
pub struct Gradients {
    pub bundle: Bundle,
    pub tally: Tally,
    weights: Weights,
}

impl Model {
    /// Initial parameters from `seed`. `kind` is f32 to train, f64 to check gradients.
    pub fn new(spec: &ModelSpec, device: &Device, kind: Kind, seed: u64) -> Result<Model> {
        Model::with(spec, device, Bundle::initial(spec, device, kind, seed)?, kind)
    }

    /// Parameters of zero, to be overwritten by a checkpoint's.
    pub fn blank(spec: &ModelSpec, device: &Device, kind: Kind) -> Result<Model> {
        Model::with(spec, device, Bundle::zeros(spec, device, kind)?, kind)
    }

    fn with(spec: &ModelSpec, device: &Device, parameters: Bundle, kind: Kind) -> Result<Model> {
        let routed = (spec.moe_layers() + spec.mtp_layers) as usize;
        let biases = if spec.router.selection_bias { routed } else { 0 };
        Ok(Model {
            weights: Weights::new(spec, &parameters),
            biases: (0..biases)
                .map(|_| device.zeros(&[spec.experts as usize], kind))
                .collect::<Result<Vec<Tensor>>>()?,
            statistics: vec![[0.0, 1.0]; routed],
            spec: spec.clone(),
            device: device.clone(),
            parameters,
        })
    }

    /// Room for the gradients of this model.
    pub fn gradients(&self) -> Result<Gradients> {
        let kind = self.parameters.flat.kind();
        let bundle = Bundle::zeros(&self.spec, &self.device, kind)?;
        let weights = Weights::new(&self.spec, &bundle);
        Ok(Gradients { bundle, weights, tally: Tally::new(&self.spec, &self.device, kind)? })
    }

    /// Forward and backward of one micro-batch. Adds to the gradients of the step whose totals are given, to its
    /// losses and its loads. `recompute` has one policy per layer; the multi-token-prediction layer follows the last.
    pub fn differentiate(
        &self,
        inputs: &Inputs,
        totals: Totals,
        warmth: Option<Warmth<'_>>,
        recompute: &[Recompute],
        gradients: &Gradients,
    ) -> Result<()> {
        self.differentiate_upon(&|_| Ok(()), inputs, totals, warmth, recompute, gradients)
    }

    /// As `differentiate`, of weights that may still be on their way: before the forward pass first reads a layer it
    /// calls `reach` with the layer's name, as `spec::tensors::layers` has it and in that order.
    pub fn differentiate_upon(
        &self,
        reach: Reach<'_>,
        inputs: &Inputs,
        totals: Totals,
        warmth: Option<Warmth<'_>>,
        recompute: &[Recompute],
        gradients: &Gradients,
    ) -> Result<()> {
        let Gradients { weights: grads, tally, .. } = gradients;
        reach("embedding")?;
        let mut x_td = ops::embedding(&self.weights.embedding, &inputs.tokens_t)?;
        let mut saved: Vec<BlockSaved> = Vec::with_capacity(self.weights.blocks.len());
        for (layer, weights) in self.weights.blocks.iter().enumerate() {
            reach(&format!("layers.{layer}"))?;
            let pass = self.pass(layer, inputs, totals, warmth, recompute, tally);
            let (out_td, kept) = block::forward(&pass, weights, x_td)?;
            saved.push(kept);
            x_td = out_td;
        }
        reach("final_norm")?;
        if !self.spec.tied {
            reach("head")?;
        }
        let scale = 1.0 / (totals.targets as f64).max(1.0);
        let d_head = Head { model: &self.spec, norm_d: &grads.final_norm, weight_vd: &grads.head };
        let mut d_td = self.head().differentiate(&d_head, &x_td, &inputs.targets_t, scale, &tally.main_2)?;
        if self.spec.mtp_layers > 0 {
            reach("mtp")?;
        }
        let pass = self.pass(self.weights.blocks.len(), inputs, totals, warmth, recompute, tally);
        mtp::differentiate(&pass, &self.weights, grads, &x_td, &tally.mtp_2, &d_td)?;
        drop(x_td);
        for (layer, (weights, grads)) in self.weights.blocks.iter().zip(&grads.blocks).enumerate().rev() {
            let pass = self.pass(layer, inputs, totals, warmth, recompute, tally);
            let Some(kept) = saved.pop() else { unreachable!("one entry per layer") };
            d_td = block::backward(&pass, weights, grads, kept, d_td)?;
        }
        ops::embedding_grad(&d_td, &inputs.tokens_t, &grads.embedding)
    }

    /// Each token's loss, 0 where it has no target. No gradient, no warmup noise.
    pub fn evaluate(&self, inputs: &Inputs) -> Result<Vec<f32>> {
        let x_td = self.hidden(inputs)?;
        self.head().losses(&x_td, &inputs.targets_t)?.to_floats()
    }

    /// Each token's logits, [T, V]: for few tokens.
    pub fn logits(&self, inputs: &Inputs) -> Result<Tensor> {
        self.head().logits(&self.hidden(inputs)?)
    }

    /// Forward through all blocks.
    fn hidden(&self, inputs: &Inputs) -> Result<Tensor> {
        let tally = Tally::new(&self.spec, &self.device, self.parameters.flat.kind())?;
        let mut x_td = ops::embedding(&self.weights.embedding, &inputs.tokens_t)?;
        for (layer, weights) in self.weights.blocks.iter().enumerate() {
            let pass = self.pass(layer, inputs, Totals::default(), None, &[Recompute::Block], &tally);
            x_td = block::forward(&pass, weights, x_td)?.0;
        }
        Ok(x_td)
    }

    /// Moves the selection biases towards equal loads. To be called once per step, with the whole step's loads.
    pub fn balance(&self, tally: &Tally) -> Result<()> {
        for (bias_e, routed) in self.biases.iter().zip(&tally.routed) {
            ops::balance_bias(bias_e, &routed.loads_e, self.spec.router.bias_rate)?;
        }
        Ok(())
    }

    /// Updates the running statistics of the logits from a step's: the first step's as they are, then by a tenth.
    pub fn follow_logits(&mut self, tally: &Tally, totals: Totals, step: u64) -> Result<()> {
        let count = totals.tokens as f64 * f64::from(self.spec.experts);
        let share = if step == 0 { 1.0 } else { 0.1 };
        for (running, routed) in self.statistics.iter_mut().zip(&tally.routed) {
            let sums = routed.moments_2.to_doubles()?;
            let mean = sums[0] / count;
            let deviation = (sums[1] / count - mean * mean).max(0.0).sqrt();
            // Kept as f32, since that is what a checkpoint holds: a resumed run must see the same numbers.
            running[0] = f64::from((running[0] + share * (mean - running[0])) as f32);
            running[1] = f64::from((running[1] + share * (deviation - running[1])) as f32);
        }
        Ok(())
    }

    /// The routers' state by name, as `spec::tensors::buffers` lists it. Waits for the device.
    pub fn buffers(&self) -> Result<Vec<(String, Vec<f32>)>> {
        let mut biases = self.biases.iter();
        let mut statistics = self.statistics.iter();
        buffers(&self.spec)
            .into_iter()
            .map(|buffer| {
                let values = if buffer.name.ends_with(SELECTION_BIAS) {
                    biases.next().map_or(Ok(Vec::new()), |bias_e| bias_e.to_floats())?
                } else {
                    statistics.next().into_iter().flatten().map(|&value| value as f32).collect()
                };
                Ok((buffer.name, values))
            })
            .collect()
    }

    /// The routers' state in the order that `set_buffers` takes it. Waits for the device.
    pub fn buffer_values(&self) -> Result<Vec<Vec<f32>>> {
        Ok(self.buffers()?.into_iter().map(|(_, values)| values).collect())
    }

    /// Takes the routers' state from a checkpoint; the values are in the order of `spec::tensors::buffers`.
    pub fn set_buffers(&mut self, values: &[Vec<f32>]) -> Result<()> {
        let mut biases = self.biases.iter();
        let mut statistics = self.statistics.iter_mut();
        for (buffer, values) in buffers(&self.spec).iter().zip(values) {
            if buffer.name.ends_with(SELECTION_BIAS) {
                biases.next().map_or(Ok(()), |bias_e| bias_e.write_floats(values))?;
            } else if let (Some(running), [mean, deviation]) = (statistics.next(), values.as_slice()) {
                *running = [f64::from(*mean), f64::from(*deviation)];
            }
        }
        Ok(())
    }

    fn head(&self) -> Head<'_> {
        Head { model: &self.spec, norm_d: &self.weights.final_norm, weight_vd: &self.weights.head }
    }

    /// The surroundings of layer `layer`; one past the last is multi-token prediction.
    fn pass<'a>(
        &'a self,
        layer: usize,
        inputs: &'a Inputs,
        totals: Totals,
        warmth: Option<Warmth<'a>>,
        recompute: &[Recompute],
        tally: &'a Tally,
    ) -> Pass<'a> {
        let last = recompute.len().saturating_sub(1);
        let recompute = recompute.get(layer.min(last)).copied().unwrap_or(Recompute::Nothing);
        let index = layer.checked_sub(self.spec.dense_layers as usize);
        let routed = index.and_then(|index| {
            Some(Routed {
                index,
                tally: tally.routed.get(index)?,
                bias_e: self.biases.get(index),
                warmth,
                statistics: self.statistics[index],
            })
        });
        Pass { model: &self.spec, inputs, totals, recompute, routed }
    }

    pub(crate) fn parts(&self) -> (&Weights, Head<'_>) {
        (&self.weights, self.head())
    }

    pub(crate) fn decode_pass<'a>(&'a self, layer: usize, inputs: &'a Inputs, tally: &'a Tally) -> Pass<'a> {
        self.pass(layer, inputs, Totals::default(), None, &[Recompute::Block], tally)
    }
}

impl Gradients {
    /// Everything becomes zero: the beginning of a step.
    pub fn clear(&self) -> Result<()> {
        self.bundle.clear()?;
        self.tally.clear()
    }

    /// The losses of the step. Waits for the device.
    pub fn losses(&self, model: &ModelSpec, totals: Totals, sequence: usize) -> Result<Losses> {
        let tally = &self.tally;
        let tokens = totals.tokens as f64;
        let scopes = tokens / (sequence as f64 * f64::from(model.router.balance_sequences));
        let mut losses = Losses {
            main: tally.main_2.to_doubles()?[0] / (totals.targets as f64).max(1.0),
            mtp: tally.mtp_2.to_doubles()?[0] / (totals.mtp_targets as f64).max(1.0),
            ..Losses::default()
        };
        for routed in &tally.routed {
            let sums = routed.losses_2.to_doubles()?;
            losses.balance += sums[0] / scopes;
            losses.z += sums[1] / tokens;
        }
        losses.total = losses.main
            + model.mtp_weight * losses.mtp
            + model.router.balance_loss * losses.balance
            + model.router.z_loss * losses.z;
        Ok(losses)
    }
}
