//! Launches of `kernels/swiglu.cu`.

use super::super::refusal::Refusal;
use super::call::{Call, of_kind, warp_per_row};
use crate::op::{Swiglu, SwigluGrad};

pub(super) fn swiglu(call: &Call<'_>, op: &Swiglu<'_>) -> Result<(), Refusal> {
    let Swiglu { gate_up, weights_r, out_rf } = *op;
    let [rows, width] = out_rf.dims();
    let arguments =
        [call.tensor(gate_up)?, call.optional(weights_r)?, call.tensor(out_rf)?, rows.into(), width.into()];
    call.launch(of_kind!(gate_up.kind(), "swiglu"), warp_per_row(rows), &arguments)
}

pub(super) fn grad(call: &Call<'_>, op: &SwigluGrad<'_>) -> Result<(), Refusal> {
    let SwigluGrad { gate_up, weights_r, d_out_rf, d_weights_r } = *op;
    let [rows, width] = d_out_rf.dims();
    let arguments = [
        call.tensor(gate_up)?,
        call.optional(weights_r)?,
        call.tensor(d_out_rf)?,
        call.optional(d_weights_r)?,
        rows.into(),
        width.into(),
    ];
    call.launch(of_kind!(gate_up.kind(), "swiglu_grad"), warp_per_row(rows), &arguments)
}
