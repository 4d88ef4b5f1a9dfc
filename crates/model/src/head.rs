//! The last norm, the head and the loss, in one sweep that never makes the logits.

use lingot_device::{Flip, Result, Tensor, ops};
use lingot_spec::ModelSpec;

/// A norm and the head it feeds.
pub(crate) struct Head<'a> {
    pub(crate) model: &'a ModelSpec,
    pub(crate) norm_d: &'a Tensor,
    pub(crate) weight_vd: &'a Tensor,
}

impl Head<'_> {
    /// Each token's loss.
    pub(crate) fn losses(&self, x_td: &Tensor, targets_t: &Tensor) -> Result<Tensor> {
        ops::cross_entropy(&self.features(x_td)?.0, self.weight_vd, targets_t)
    }

    /// Each token's logits, [T, V]: for a few tokens only.
    pub(crate) fn logits(&self, x_td: &Tensor) -> Result<Tensor> {
        ops::matmul(&self.features(x_td)?.0, self.weight_vd, Flip::B)
    }

    /// Adds the losses to `tally`; returns the gradient by x of `scale` x their sum, onto `d_x` where given.
    pub(crate) fn differentiate(
        &self,
        grads: &Head<'_>,
        x_td: &Tensor,
        targets_t: &Tensor,
        scale: f64,
        tally_2: &Tensor,
    ) -> Result<Tensor> {
        let (features_td, scales_d) = self.features(x_td)?;
        let (losses_t, d_features_td) =
            ops::cross_entropy_grad(&features_td, self.weight_vd, targets_t, scale, grads.weight_vd)?;
        ops::moments(&losses_t, tally_2)?;
        let d_normed_td = match scales_d {
            Some(scales_d) => ops::scale_columns(&d_features_td, &scales_d)?,
            None => d_features_td,
        };
        let epsilon = self.model.norm_epsilon;
        ops::rms_norm_grad(&d_normed_td, x_td, self.norm_d, epsilon, None, grads.norm_d)
    }

    /// What the head multiplies, and NormHead's scales where the model has it.
    fn features(&self, x_td: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let normed_td = ops::rms_norm(x_td, self.norm_d, self.model.norm_epsilon)?;
        if !self.model.norm_head {
            return Ok((normed_td, None));
        }
        let scales_d = ops::column_scales(self.weight_vd)?;
        Ok((ops::scale_columns(&normed_td, &scales_d)?, Some(scales_d)))
    }
}
