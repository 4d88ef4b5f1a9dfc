//! Launches of `kernels/norm_head.cu`.

use super::super::refusal::Refusal;
use super::call::{CHUNK, Call, of_kind, thread_per, warp_per_row};
use crate::kernels::THREADS;
use crate::op::{ColumnScales, ScaleColumns};

/// Parts of the sums of squares: rows that many teams share.
const PARTS: usize = 512;

/// Two launches: the parts of each column's sum of squares, and what follows from their sum.
pub(super) fn column_scales(call: &Call<'_>, op: &ColumnScales<'_>) -> Result<(), Refusal> {
    let ColumnScales { w_vd, out_d } = *op;
    let [rows, width] = w_vd.dims();
    let torch = call.torch;
    let lanes = width.div_ceil(CHUNK).next_power_of_two().min(THREADS);
    let teams = THREADS / lanes;
    let blocks = PARTS.min(rows).div_ceil(teams).max(1);
    let parts = torch.empty(&super::super::sizes(&[blocks * teams, width]), torch.torch.dtypes.f32)?;
    let arguments = [call.tensor(w_vd)?, call.value(&parts)?, rows.into(), width.into(), lanes.into()];
    call.launch(of_kind!(w_vd.kind(), "column_squares"), blocks, &arguments)?;
    let arguments = [call.value(&parts)?, call.tensor(out_d)?, (blocks * teams).into(), width.into()];
    call.launch("column_scales", warp_per_row(width), &arguments)
}

/// One launch.
pub(super) fn scale_columns(call: &Call<'_>, op: &ScaleColumns<'_>) -> Result<(), Refusal> {
    let ScaleColumns { x_td, scales_d, out_td } = *op;
    let [rows, width] = x_td.dims();
    let arguments =
        [call.tensor(x_td)?, call.tensor(scales_d)?, call.tensor(out_td)?, rows.into(), width.into()];
    let chunks = (rows * width).div_ceil(CHUNK);
    call.launch(of_kind!(x_td.kind(), "scale_columns"), thread_per(chunks), &arguments)
}
