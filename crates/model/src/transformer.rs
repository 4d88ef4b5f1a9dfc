//! The model: embedding, blocks, head; the loss, and every gradient written out by hand.

use crate::block;
use crate::bundle::Bundle;
use crate::context::Context;
use crate::gradients::Gradients;
use crate::head::{self, Objective};
use crate::inputs::{Inputs, Totals, Warmth};
use crate::mtp;
use crate::routers::LogitStatistics;
use crate::seam::{Pass, Resident, Seam};
use crate::tally::Tally;
use crate::weights::{BlockWeights, Weights};
use lingot_device::{Device, Kind, Result, Tensor, ops};
use lingot_spec::ModelSpec;
use lingot_spec::run::Recompute;
use std::ops::Range;

/// A model on a device: its parameters, and the routers' state that no gradient trains.
pub struct Model {
    /// The architecture.
    pub spec: ModelSpec,
    /// Where the parameters are and the ops run.
    pub device: Device,
    /// All parameters, in the order of `spec::tensors::tensors`: the master weights, in the kind of sums.
    /// After they are overwritten, [`Model::renew`] makes the working copy follow.
    pub parameters: Bundle,
    /// The copy of the parameters that a bf16 model computes with; others compute with the parameters.
    pub working: Option<Bundle>,
    /// Selection biases `[E]`, one per router, the multi-token-prediction layer's last; empty where the
    /// routers have none.
    pub biases: Vec<Tensor>,
    /// Statistics of each router's logits, while routing warms up.
    pub statistics: Vec<LogitStatistics>,
    weights: Weights,
}

/// A model whose layers arrive and leave through a seam. The methods of [`Model`] of the same names are these
/// with all layers on the device.
#[derive(Clone, Copy)]
pub struct Through<'a> {
    pub(crate) model: &'a Model,
    pub(crate) seam: &'a dyn Seam,
}

impl Model {
    /// A model with initial parameters that follow from `seed`. It computes in `kind`: f32 or bf16 to train,
    /// f64 to check gradients.
    pub fn new(spec: &ModelSpec, device: &Device, kind: Kind, seed: u64) -> Result<Model> {
        Model::with(spec, device, Bundle::initial(spec, device, kind.sums(), seed)?, kind)
    }

    /// A model with parameters of zero, to be overwritten by a checkpoint's.
    pub fn blank(spec: &ModelSpec, device: &Device, kind: Kind) -> Result<Model> {
        Model::with(spec, device, Bundle::zeros(spec, device, kind.sums())?, kind)
    }

    fn with(spec: &ModelSpec, device: &Device, parameters: Bundle, kind: Kind) -> Result<Model> {
        let has_copy = kind != kind.sums();
        let working = has_copy.then(|| Bundle::empty(spec, device, kind)).transpose()?;
        let routers = (spec.moe_layers() + spec.mtp_layers) as usize;
        let biases = if spec.router.selection_bias { routers } else { 0 };
        let model = Model {
            weights: Weights::new(spec, working.as_ref().unwrap_or(&parameters)),
            biases: (0..biases)
                .map(|_| device.zeros(&[spec.experts as usize], kind.sums()))
                .collect::<Result<Vec<Tensor>>>()?,
            statistics: vec![LogitStatistics::default(); routers],
            spec: spec.clone(),
            device: device.clone(),
            parameters,
            working,
        };
        model.renew(0..model.parameters.flat.len())?;
        Ok(model)
    }

    /// The kind that the model computes in.
    pub fn kind(&self) -> Kind {
        self.working.as_ref().unwrap_or(&self.parameters).flat.kind()
    }

    /// Copies some of the parameters, by their numbers in the flat bundle, to the working copy, if there is
    /// one.
    pub fn renew(&self, numbers: Range<usize>) -> Result<()> {
        let Some(working) = self.working.as_ref().filter(|_| !numbers.is_empty()) else { return Ok(()) };
        let [from, to] =
            [&self.parameters, working].map(|bundle| bundle.flat.rows(numbers.start, numbers.len()));
        ops::copy(&to, &from)
    }

    /// Overwrites some of the parameters, by their numbers in the flat bundle, and their working copy.
    pub fn overwrite(&self, first: usize, values: &[f32]) -> Result<()> {
        self.parameters.flat.rows(first, values.len()).write_floats(values)?;
        self.renew(first..first + values.len())
    }

    /// Allocates gradients and sums for a step of this model, all zero.
    pub fn gradients(&self) -> Result<Gradients> {
        Gradients::new(&self.spec, &self.device, self.parameters.flat.kind())
    }

    /// This model with its layers arriving and leaving through `seam`.
    pub fn through<'a>(&'a self, seam: &'a dyn Seam) -> Through<'a> {
        Through { model: self, seam }
    }

    /// Runs forward and backward of one micro-batch. Adds to the gradients of the step whose totals are
    /// given, to its losses and its loads. `recompute` has one policy per layer, the last one serving all
    /// that follow; the multi-token-prediction layer comes after the last. Errors if an op fails, or if the
    /// model predicts several tokens and the inputs were built without `mtp`.
    pub fn differentiate(
        &self,
        inputs: &Inputs,
        totals: Totals,
        warmth: Option<Warmth<'_>>,
        recompute: &[Recompute],
        gradients: &Gradients,
    ) -> Result<()> {
        self.through(&Resident).differentiate(inputs, totals, warmth, recompute, gradients)
    }

    /// Returns each token's loss, 0 where it has no target. Takes no gradient and adds no warmup noise. Waits
    /// for the device.
    pub fn evaluate(&self, inputs: &Inputs) -> Result<Vec<f32>> {
        self.through(&Resident).evaluate(inputs)
    }

    /// Returns each token's logits, `[T, V]`: for few tokens.
    pub fn logits(&self, inputs: &Inputs) -> Result<Tensor> {
        self.through(&Resident).logits(inputs)
    }
}

impl Through<'_> {
    /// As [`Model::differentiate`].
    pub fn differentiate(
        &self,
        inputs: &Inputs,
        totals: Totals,
        warmth: Option<Warmth<'_>>,
        recompute: &[Recompute],
        gradients: &Gradients,
    ) -> Result<()> {
        let (seam, weights) = (self.seam, &self.model.weights);
        let context = Context { totals, warmth, recompute, ..self.context(inputs, &gradients.tally) };
        let mut x_td = ops::embedding(weights.embedding.arrive(seam, Pass::Forward)?, &inputs.tokens_t)?;
        let mut saved = Vec::with_capacity(weights.blocks.len());
        for block in &weights.blocks {
            let (out_td, of_block) = block::forward(&context, block.arrive(seam, Pass::Forward)?, x_td)?;
            saved.push(of_block);
            x_td = out_td;
        }
        let d_td = self.differentiate_head(&context, &x_td, gradients)?;
        if let Some(mtp) = &weights.mtp {
            mtp::differentiate(seam, &context, weights, mtp, gradients, &x_td, &d_td)?;
        }
        weights.final_norm.leave(seam)?;
        if !self.model.spec.tied {
            weights.head.leave(seam)?;
        }
        drop(x_td);
        for (block, saved) in weights.blocks.iter().zip(saved).rev() {
            block.arrive(seam, Pass::Backward)?;
            block::backward(&context, saved, gradients, &d_td)?;
            block.leave(seam)?;
        }
        let table_vd = weights.embedding.arrive(seam, Pass::Gradient)?;
        ops::embedding_grad(&d_td, &inputs.tokens_t, gradients.of(table_vd))?;
        gradients.end_micro_batch();
        weights.embedding.leave(seam)
    }

    /// Runs final norm, head and loss, forward and backward; returns the gradient by the last layer's output,
    /// `[T, D]`.
    fn differentiate_head(
        &self,
        context: &Context<'_>,
        x_td: &Tensor,
        gradients: &Gradients,
    ) -> Result<Tensor> {
        let (seam, weights, model) = (self.seam, &self.model.weights, context.model);
        let norm_d = weights.final_norm.arrive(seam, Pass::Forward)?;
        let normed_td = ops::rms_norm(x_td, norm_d, model.norm_epsilon)?;
        let scale = 1.0 / (context.totals.targets as f64).max(1.0);
        let (targets_t, tally_2) = (&context.inputs.targets_t, &context.tally.main_2);
        let objective = Objective { targets_t, scale, tally_2, is_second: false };
        let head_vd = weights.head.arrive(seam, Pass::Backward)?;
        let d_normed_td = head::differentiate(model, head_vd, gradients, normed_td, &objective)?;
        let norm_d = weights.final_norm.arrive(seam, Pass::Backward)?;
        ops::rms_norm_grad(&d_normed_td, x_td, norm_d, model.norm_epsilon, None, gradients.of(norm_d))
    }

    /// As [`Model::evaluate`].
    pub fn evaluate(&self, inputs: &Inputs) -> Result<Vec<f32>> {
        let normed_td = self.normed(&self.hidden(inputs)?)?;
        let head_vd = self.model.weights.head.arrive(self.seam, Pass::Forward)?;
        head::losses(&self.model.spec, head_vd, normed_td, &inputs.targets_t)?.to_floats()
    }

    /// As [`Model::logits`].
    pub fn logits(&self, inputs: &Inputs) -> Result<Tensor> {
        self.logits_of(&self.hidden(inputs)?)
    }

    /// Returns the logits, `[T, V]`, of the last layer's output.
    pub(crate) fn logits_of(&self, x_td: &Tensor) -> Result<Tensor> {
        let normed_td = self.normed(x_td)?;
        let head_vd = self.model.weights.head.arrive(self.seam, Pass::Forward)?;
        head::logits(&self.model.spec, head_vd, normed_td)
    }

    fn normed(&self, x_td: &Tensor) -> Result<Tensor> {
        let norm_d = self.model.weights.final_norm.arrive(self.seam, Pass::Forward)?;
        ops::rms_norm(x_td, norm_d, self.model.spec.norm_epsilon)
    }

    /// Runs the tokens through all blocks; returns the last one's output, `[T, D]`.
    fn hidden(&self, inputs: &Inputs) -> Result<Tensor> {
        let model = self.model;
        let tally = Tally::new(&model.spec, &model.device, model.parameters.flat.kind())?;
        let context = self.context(inputs, &tally);
        self.forward(inputs, |block, x_td| Ok(block::forward(&context, block, x_td)?.0))
    }

    /// Embeds the tokens and takes them through the blocks by `run`; returns the last one's output, `[T, D]`.
    pub(crate) fn forward(
        &self,
        inputs: &Inputs,
        run: impl Fn(&BlockWeights, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let weights = &self.model.weights;
        let table_vd = weights.embedding.arrive(self.seam, Pass::Forward)?;
        let mut x_td = ops::embedding(table_vd, &inputs.tokens_t)?;
        for block in &weights.blocks {
            x_td = run(block.arrive(self.seam, Pass::Forward)?, x_td)?;
        }
        Ok(x_td)
    }

    /// The context of an evaluation: no totals, no noise, nothing saved but the routing.
    pub(crate) fn context<'b>(&'b self, inputs: &'b Inputs, tally: &'b Tally) -> Context<'b> {
        Context {
            model: &self.model.spec,
            inputs,
            totals: Totals::default(),
            tally,
            biases: &self.model.biases,
            statistics: &self.model.statistics,
            warmth: None,
            recompute: &[Recompute::Block],
        }
    }
}
