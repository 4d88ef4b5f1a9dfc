//! Launches of `kernels/rope.cu`.
//!
//! The device gets the frequencies alone, in f64, and makes the sines of the positions itself: no table has
//! to reach as far as the largest position, which the host would have to wait for.

use super::super::refusal::Refusal;
use super::super::value::Value;
use super::call::{CHUNK, Call, of_kind, thread_per};
use crate::op::Rope;
use std::collections::HashMap;
use std::f64::consts::TAU;
use std::sync::Arc;

/// Heads that share the sines of a thread: `HEADS` of the source.
const HEADS: usize = 4;

/// Full turns a position, of each pair of a head, by rotary width and base.
pub(super) type Turns = HashMap<(usize, u64), Arc<Value>>;

pub(super) fn rope(call: &Call<'_>, op: &Rope<'_>) -> Result<(), Refusal> {
    let Rope { x_thc, positions_t, rotary_width, theta, back } = *op;
    let [tokens, heads, width] = x_thc.dims();
    let half = rotary_width / 2;
    if half * tokens * heads == 0 {
        return Ok(());
    }
    let turns = turns(call, rotary_width, theta)?;
    let x = call.tensor(x_thc)?;
    let arguments = [
        x,
        call.tensor(positions_t)?,
        call.value(&turns)?,
        tokens.into(),
        heads.into(),
        width.into(),
        half.into(),
        back.into(),
    ];
    let is_in_chunks = x.is_multiple_of(16) && width.is_multiple_of(CHUNK) && half.is_multiple_of(CHUNK);
    let chunks = if is_in_chunks { half / CHUNK } else { half };
    let items = tokens * heads.div_ceil(HEADS) * chunks;
    call.launch(of_kind!(x_thc.kind(), "rope"), thread_per(items), &arguments)
}

/// `theta^(-2i/rotary) / 2 pi` of each pair, made on the host once.
fn turns(call: &Call<'_>, rotary_width: usize, theta: f64) -> Result<Arc<Value>, Refusal> {
    let key = (rotary_width, theta.to_bits());
    if let Some(turns) = call.torch.state().own.rope.get(&key) {
        return Ok(turns.clone());
    }
    let turn = |pair: usize| theta.powf(-2.0 * pair as f64 / rotary_width as f64) / TAU;
    let words: Vec<u64> = (0..rotary_width / 2).map(|pair| turn(pair).to_bits()).collect();
    let turns = Arc::new(call.words(&words)?);
    call.torch.state().own.rope.insert(key, turns.clone());
    Ok(turns)
}
