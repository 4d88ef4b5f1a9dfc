//! How ops reach the device: by an operator of torch's that does it all where the device has one, else composed.
//!
//! Each is tried on a few numbers when the device is opened. What refuses, or computes something else, is not used.

use super::aten::Dtype;
use super::value::Words;
use super::{Torch, adamw};
use crate::precision::Precision;

/// What the device has.
#[derive(Clone, Copy, Default)]
pub(super) struct Routes {
    /// Attention with its log-sum-exp, and its gradient.
    pub(super) attention: bool,
    pub(super) adamw: bool,
    /// Rows of a table, looked up and added up.
    pub(super) sums_of_rows: bool,
    /// Products of bf16 whose sums come out in f32.
    pub(super) f32_sums: bool,
}

impl Routes {
    /// Tries all.
    pub(super) fn of(torch: &Torch) -> Routes {
        let works = |tried: Result<bool, Words>| tried.unwrap_or(false);
        Routes {
            // In bf16 the weights of attention are operands too, and the fused operator does not round them.
            attention: torch.on_cpu() && torch.options.precision == Precision::F32 && works(attention(torch)),
            adamw: works(adamw::try_fused(torch)),
            sums_of_rows: works(sums_of_rows(torch)),
            f32_sums: torch.options.precision == Precision::Bf16 && !torch.on_cpu() && works(f32_sums(torch)),
        }
    }

    /// For people.
    pub(super) fn text(self, torch: &Torch) -> Vec<String> {
        let by =
            |is_fused, what: &str| format!("{what}: {}", if is_fused { "one operator" } else { "composed" });
        let mut lines = vec![
            format!("at {}", torch.torch.path.display()),
            by(self.attention, "attention"),
            by(self.adamw, "AdamW"),
            by(self.sums_of_rows, "combine"),
            "products per expert: one after the other".into(),
            format!("f64: {}", if torch.has_f64 { "yes" } else { "no" }),
        ];
        if torch.options.precision == Precision::Bf16 && !torch.on_cpu() {
            lines.push(format!("sums of bf16 products: {}", if self.f32_sums { "f32" } else { "bf16" }));
        }
        lines
    }
}

/// One query of zeros over one key gives the key's value, and a softmax over one score has no gradient.
fn attention(torch: &Torch) -> Result<bool, Words> {
    let aten = torch.aten();
    let of = |value: f64| torch.full(&[1, 1, 1, 8], torch.torch.dtypes.f32, value);
    let (q, k, v) = (of(0.0)?, of(2.0)?, of(3.0)?);
    let (out, lse) = aten.flash_cpu(&q, &k, &v, 0.0, false, None, Some(1.0))?;
    let grads = aten.flash_cpu_backward(&v, &q, &k, &v, &out, &lse, 0.0, false, None, Some(1.0))?;
    let first = |value| torch.first(value);
    Ok(first(&out)? == 3.0 && first(&lse)? == 0.0 && first(&grads.0)? == 0.0 && first(&grads.2)? == 3.0)
}

fn sums_of_rows(torch: &Torch) -> Result<bool, Words> {
    let table = torch.hosted(&[1.0, 10.0, 100.0, 1000.0], &[4, 1])?;
    let (places, firsts) = (torch.counting(4)?.shaped(&[4], 0)?, torch.counting(1)?.shaped(&[1], 0)?);
    let sums = torch.aten().embedding_bag(&table, &places, &firsts, false, 0, false, None, false, -1)?.0;
    Ok(torch.first(&sums)? == 1111.0)
}

/// 1 + 2^-9 needs more digits than bf16 has.
fn f32_sums(torch: &Torch) -> Result<bool, Words> {
    let dtypes = torch.torch.dtypes;
    let small = 1.0 / 512.0;
    let a = torch.converted(&torch.hosted(&[1.0, small], &[1, 2])?, &[1, 2], dtypes.bf16)?;
    let b = torch.full(&[2, 1], dtypes.bf16, 1.0)?;
    Ok(torch.first(&torch.aten().mm_dtype(&a, &b, Dtype(dtypes.f32))?)? == 1.0 + small)
}
