//! The head and the loss of its logits, which never exist for a whole batch.

use crate::gradients::Gradients;
use crate::weights::Weight;
use lingot_device::{Flip, Result, Tensor, ops};
use lingot_spec::ModelSpec;

/// Returns each token's cross-entropy, `[T]`, of normed hidden states `[T, D]`.
pub(crate) fn losses(
    model: &ModelSpec,
    head_vd: &Weight,
    normed_td: Tensor,
    targets_t: &Tensor,
) -> Result<Tensor> {
    ops::cross_entropy(&Features::new(model, head_vd, normed_td)?.values_td, head_vd, targets_t)
}

/// Returns each token's logits, `[T, V]`: for a few tokens only.
pub(crate) fn logits(model: &ModelSpec, head_vd: &Weight, normed_td: Tensor) -> Result<Tensor> {
    ops::matmul_sums(&Features::new(model, head_vd, normed_td)?.values_td, head_vd, Flip::B)
}

/// What is differentiated: `scale` times the sum of the tokens' losses, which are added to a tally.
pub(crate) struct Objective<'a> {
    /// `[T]`, -1 for none.
    pub(crate) targets_t: &'a Tensor,
    pub(crate) scale: f64,
    /// Sum of the losses and of their squares.
    pub(crate) tally_2: &'a Tensor,
    /// Whether the head was differentiated before in this micro-batch.
    pub(crate) is_second: bool,
}

/// Returns the gradient by the normed hidden states, `[T, D]`; adds to that of the head.
pub(crate) fn differentiate(
    model: &ModelSpec,
    head_vd: &Weight,
    gradients: &Gradients,
    normed_td: Tensor,
    objective: &Objective<'_>,
) -> Result<Tensor> {
    let Objective { targets_t, scale, tally_2, is_second } = *objective;
    let adds = is_second || gradients.adds();
    let Features { values_td, scales_d } = Features::new(model, head_vd, normed_td)?;
    let (losses_t, d_values_td) =
        ops::cross_entropy_grad(&values_td, head_vd, targets_t, scale, gradients.of(head_vd), adds)?;
    ops::moments(&losses_t, tally_2)?;
    match scales_d {
        Some(scales_d) => ops::scale_columns(&d_values_td, &scales_d),
        None => Ok(d_values_td),
    }
}

/// What the head multiplies.
struct Features {
    values_td: Tensor,
    /// NormHead's scales `[D]`, where the model has it.
    scales_d: Option<Tensor>,
}

impl Features {
    fn new(model: &ModelSpec, head_vd: &Weight, normed_td: Tensor) -> Result<Features> {
        if !model.norm_head {
            return Ok(Features { values_td: normed_td, scales_d: None });
        }
        let scales_d = ops::column_scales(head_vd)?;
        Ok(Features { values_td: ops::scale_columns(&normed_td, &scales_d)?, scales_d: Some(scales_d) })
    }
}
