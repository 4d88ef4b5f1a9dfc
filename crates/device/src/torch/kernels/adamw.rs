//! Launches of `kernels/adamw.cu`.

use super::super::refusal::Refusal;
use super::super::value::Value;
use super::call::{CHUNK, Call, of_kind, thread_per};
use crate::kernels::Argument;
use crate::op::{AdamRule, AdamW};
use crate::tensor::Kind;
use std::ops::Range;
use std::sync::Arc;

/// The spans of the last update, on the host and on the device: a bundle's never change.
pub(super) type Spans = Option<(Vec<Range<usize>>, Arc<Value>)>;

pub(super) fn adamw(call: &Call<'_>, op: &AdamW<'_>) -> Result<(), Refusal> {
    let AdamRule { rate, beta1, beta2, epsilon, decay, step, clip } = op.rule;
    let (count, spans) = (op.parameter.len(), spans(call, op.decayed)?);
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    let arguments = [
        call.tensor(op.parameter)?,
        call.tensor(op.gradient)?,
        call.tensor(op.first)?,
        call.tensor(op.second)?,
        call.tensor(op.squares_1)?,
        call.optional(op.working)?,
        spans.as_deref().map_or(Ok(Argument::NULL), |spans| call.value(spans))?,
        count.into(),
        op.decayed.len().into(),
        clip.into(),
        beta1.into(),
        beta2.into(),
        epsilon.into(),
        (rate / correction(beta1)).into(),
        (1.0 / correction(beta2).sqrt()).into(),
        (1.0 - rate * decay).into(),
    ];
    let kind = op.working.map_or(Kind::F32, |working| working.kind());
    call.launch(of_kind!(kind, "adamw"), thread_per(count.div_ceil(CHUNK)), &arguments)
}

/// First elements and ends of the spans on the device; none where there are none.
fn spans(call: &Call<'_>, decayed: &[Range<usize>]) -> Result<Option<Arc<Value>>, Refusal> {
    if decayed.is_empty() {
        return Ok(None);
    }
    if let Some((known, spans)) = &call.torch.state().own.adamw
        && known == decayed
    {
        return Ok(Some(spans.clone()));
    }
    let words: Vec<u64> = decayed.iter().flat_map(|span| [span.start as u64, span.end as u64]).collect();
    let spans = Arc::new(call.words(&words)?);
    call.torch.state().own.adamw = Some((decayed.to_vec(), spans.clone()));
    Ok(Some(spans))
}
