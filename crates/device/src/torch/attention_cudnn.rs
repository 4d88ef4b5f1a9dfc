//! Attention by cuDNN, forward only: its gradient adds up in any order, whatever torch is asked for, so that
//! of FlashAttention follows, which takes the same output and log-sum-exp.
//!
//! The operator returns whole numbers among its tensors, so it cannot be called through the dispatcher. It
//! has a C function of its own, by the name of the device's type.
#![allow(unsafe_code)]

use super::Torch;
use super::attention_composed::Heads;
use super::counts::launch;
use super::library::Handle;
use super::refusal::Refusal;
use super::value::Value;
use libloading::os::unix::Library;
use std::ptr::null_mut;

type Code = i32;
/// Query, key, value, a bias that may be null, whether the log-sum-exp is wanted, dropout, whether attention
/// is causal, whether a mask is wanted for debugging, the scale; then what comes back: output, log-sum-exp,
/// two bounds of documents, two lengths, seed, offset, mask.
type Forward = unsafe extern "C" fn(
    Handle,
    Handle,
    Handle,
    *mut Handle,
    i32,
    f64,
    i32,
    i32,
    *const f64,
    *mut Handle,
    *mut Handle,
    *mut Handle,
    *mut Handle,
    *mut i64,
    *mut i64,
    *mut Handle,
    *mut Handle,
    *mut Handle,
) -> Code;

/// cuDNN's attention, where this torch has it.
pub(super) struct Cudnn {
    forward: Forward,
}

impl Cudnn {
    /// The operator's name in torch.
    pub(super) const NAME: &'static str = "_scaled_dot_product_cudnn_attention";

    /// Heads wider than this are left to other operators.
    const WIDEST: usize = 128;

    /// The function for devices of this one's type, if a library that is open has it.
    pub(super) fn find(torch: &Torch) -> Result<Cudnn, Refusal> {
        let kind = torch.device_type();
        let name = format!("aoti_torch_{kind}_{}", Cudnn::NAME);
        // SAFETY: the function has the type that torch's C header for cuda gives it, the same from 2.10 to
        // 2.15. Torch's libraries stay open.
        let found = unsafe { Library::this().get::<Forward>(name.as_bytes()).map(|symbol| *symbol) };
        let forward = found.map_err(|_| format!("torch {} has no {name}", torch.torch.version()))?;
        Ok(Cudnn { forward })
    }

    /// Whether it takes heads of this width, where queries and keys are the same tokens.
    pub(super) fn takes(&self, given: &Heads<'_>) -> bool {
        given.queries == given.keys && given.queries > 1 && given.width <= Cudnn::WIDEST
    }

    /// The output [B, H, t, C], and the logarithm of each softmax's denominator [B, H, t].
    pub(super) fn forward(
        &self,
        given: &Heads<'_>,
        [q, k, v]: &[Value; 3],
    ) -> Result<(Value, Value), Refusal> {
        let torch = given.torch.torch;
        let mut tensors: [Handle; 7] = [null_mut(); 7];
        let mut lengths = [0_i64; 2];
        launch();
        // SAFETY: live tensors, no bias, and a place for each result.
        let code = unsafe {
            let [out, lse, ends_q, ends_k, seed, offset, mask] =
                tensors.each_mut().map(|place| &raw mut *place);
            let [most_q, most_k] = lengths.each_mut().map(|place| &raw mut *place);
            (self.forward)(
                q.handle(),
                k.handle(),
                v.handle(),
                null_mut(),
                1,
                0.0,
                1,
                0,
                &raw const given.scale,
                out,
                lse,
                ends_q,
                ends_k,
                most_q,
                most_k,
                seed,
                offset,
                mask,
            )
        };
        torch
            .check(code)
            .map_err(|refusal| refusal.explained(|words| format!("{}: {words}", Cudnn::NAME)))?;
        // All results are owned here, so that those that are not wanted are given back.
        let [out, lse, ..] = tensors.map(|handle| (!handle.is_null()).then(|| Value::owning(torch, handle)));
        let (Some(out), Some(lse)) = (out, lse) else { return Err("no output, or no log-sum-exp".into()) };
        let rows = [given.documents, given.heads, given.queries].map(|size| size as i64);
        match lse.sizes()?.as_slice() {
            [b, h, t] | [b, h, t, 1] if [*b, *h, *t] == rows => Ok((out, lse.first_axes(3)?)),
            sizes => Err(format!("the log-sum-exp is {sizes:?}, not {rows:?}").into()),
        }
    }
}
