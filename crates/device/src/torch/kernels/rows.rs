//! Launches of `kernels/rows.cu`.

use super::super::refusal::Refusal;
use super::call::{CHUNK, Call, of_kind, thread_per};
use crate::op::{Combine, Dispatch};

pub(super) fn dispatch(call: &Call<'_>, op: &Dispatch<'_>) -> Result<(), Refusal> {
    let Dispatch { x_td, order_r, out_rd, choices } = *op;
    let [rows, width] = out_rd.dims();
    let [x, out] = [call.tensor(x_td)?, call.tensor(out_rd)?];
    let row_bytes = width * x_td.kind().bytes();
    let fits = |unit: usize| {
        row_bytes.is_multiple_of(unit) && [x, out].iter().all(|address| address.is_multiple_of(unit as u64))
    };
    let (name, unit) = match () {
        () if fits(16) => ("dispatch_16", 16),
        () if fits(4) => ("dispatch_4", 4),
        () => ("dispatch_2", 2),
    };
    let units = row_bytes / unit;
    let lanes = lanes(units);
    let arguments = [x, call.tensor(order_r)?, out, rows.into(), units.into(), choices.into(), lanes.into()];
    call.launch(name, thread_per(rows * lanes), &arguments)
}

pub(super) fn combine(call: &Call<'_>, op: &Combine<'_>) -> Result<(), Refusal> {
    let Combine { x_rd, places_tk, out_td, add } = *op;
    let ([tokens, width], choices) = (out_td.dims(), places_tk.rows_and_width().1);
    let lanes = lanes(width.div_ceil(CHUNK));
    let arguments = [
        call.tensor(x_rd)?,
        call.tensor(places_tk)?,
        call.tensor(out_td)?,
        tokens.into(),
        width.into(),
        choices.into(),
        add.into(),
        lanes.into(),
    ];
    call.launch(of_kind!(x_rd.kind(), "combine"), thread_per(tokens * lanes), &arguments)
}

/// Threads that share a row: a power of two, at most 32.
fn lanes(items: usize) -> usize {
    items.next_power_of_two().min(32)
}
