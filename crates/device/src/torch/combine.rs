//! The answers of each token's experts, added up.

use super::Torch;
use super::refusal::Refusal;
use super::value::Value;
use crate::op::Combine;

pub(super) fn combine(torch: &Torch, op: &Combine<'_>) -> Result<(), Refusal> {
    let Combine { x_rd, places_tk, out_td, add } = *op;
    let (tokens, choices) = places_tk.rows_and_width();
    let x = torch.floats(x_rd)?;
    let places = torch.indices(places_tk, &[places_tk.len() as i64])?;
    let sums = if torch.routes.sums_of_rows.is_found() {
        bag(torch, &x, &places, tokens, choices)?
    } else {
        let aten = torch.aten();
        let sizes = [tokens as i64, choices as i64, x_rd.rows_and_width().1 as i64];
        let answers = aten.index_select(&x, 0, &places)?.shaped(&sizes, 0)?;
        aten.sum(&answers, Some(&[1]), false, None)?
    };
    let out = torch.floats(out_td)?;
    if add { torch.accumulate(&out, &sums) } else { out.set(&sums) }
}

/// In one pass over the rows.
fn bag(torch: &Torch, x: &Value, places: &Value, tokens: usize, choices: usize) -> Result<Value, Refusal> {
    let rows = torch.counting(tokens * choices)?;
    let firsts = rows.strided(&[tokens as i64], &[choices as i64], 0)?;
    let firsts = torch.converted(&firsts, &[tokens as i64], torch.torch.dtypes.i64)?;
    let aten = torch.aten();
    Ok(aten.embedding_bag(x, places, &firsts, false, 0, false, None, false, -1)?.0)
}
