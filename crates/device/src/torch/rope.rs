//! Rotary positions, by a table of cosines and sines that is made on the host in f64 and kept.

use super::Torch;
use super::refusal::Refusal;
use super::value::Value;
use crate::op::Rope;
use crate::tensor::Tensor;
use std::sync::Arc;

/// Cosines and sines of the positions below `positions`, [positions, rotary / 2].
pub(super) struct RopeTable {
    positions: usize,
    cosines: Value,
    sines: Value,
}

/// `(left, right)` becomes `(left cos - right sin, right cos + left sin)`; `back` turns the sine's sign.
pub(super) fn rope(torch: &Torch, op: &Rope<'_>) -> Result<(), Refusal> {
    let Rope { x_thc, positions_t, rotary_width, theta, back } = *op;
    let [t, heads, width] = x_thc.dims();
    if rotary_width == 0 || t * heads == 0 {
        return Ok(());
    }
    let aten = torch.aten();
    let table = table(torch, positions_t, rotary_width, theta)?;
    let half = rotary_width / 2;
    let indices = torch.indices(positions_t, &[t as i64])?;
    let of = |values: &Value| aten.index_select(values, 0, &indices)?.shaped(&[t as i64, 1, half as i64], 0);
    let (cosines, sines) = (of(&table.cosines)?, of(&table.sines)?);
    let part = |first: usize| {
        let sizes = [t as i64, heads as i64, half as i64];
        torch.strided(x_thc, &sizes, &[(heads * width) as i64, width as i64, 1], first)
    };
    let (left, right) = (part(0)?, part(half)?);
    let sign = if back { -1.0 } else { 1.0 };
    let turned_left = aten.mul(&left, &cosines)?.minus(&aten.mul(&right, &sines)?, sign)?;
    let turned_right = aten.mul(&right, &cosines)?.minus(&aten.mul(&left, &sines)?, -sign)?;
    left.set(&turned_left)?;
    right.set(&turned_right)
}

/// The table for these angles, made anew where a position lies beyond it.
fn table(
    torch: &Torch,
    positions_t: &Tensor,
    rotary_width: usize,
    theta: f64,
) -> Result<Arc<RopeTable>, Refusal> {
    let most = torch.integers(positions_t)?.iter().copied().max().unwrap_or(0);
    let needed =
        usize::try_from(most).map_err(|_| format!("a position is {most}, but must be at least 0"))? + 1;
    let key = (rotary_width, theta.to_bits());
    if let Some(table) = torch.state().rope.get(&key).filter(|table| table.positions >= needed) {
        return Ok(table.clone());
    }
    let (positions, half) = (needed.next_power_of_two(), rotary_width / 2);
    let angle = |index: usize| {
        let exponent = -2.0 * (index % half) as f64 / rotary_width as f64;
        (index / half) as f64 * theta.powf(exponent)
    };
    let made = |of: fn(f64) -> f64| {
        let values: Vec<f32> = (0..positions * half).map(|index| of(angle(index)) as f32).collect();
        torch.hosted(&values, &[positions as i64, half as i64])
    };
    let table = Arc::new(RopeTable { positions, cosines: made(f64::cos)?, sines: made(f64::sin)? });
    torch.state().rope.insert(key, table.clone());
    Ok(table)
}
