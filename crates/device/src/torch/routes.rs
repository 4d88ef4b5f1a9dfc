//! How ops reach the device: by an operator of torch's that does it all where the device has one, else
//! composed.
//!
//! Each is tried on a few numbers when the device is opened, against the composed op. An operator that
//! refuses or computes something else is not used, and `lingot devices -v` says why.

use super::aten::Dtype;
use super::attention_fused::Fused;
use super::cublas::Cublas;
use super::refusal::Refusal;
use super::value::Value;
use super::{Torch, adamw, grouped_matmul, rms_norm};
use crate::precision::Precision;

/// An operator that was found, or why there is none.
pub(super) struct Route<T = ()>(Result<T, Refusal>);

impl<T> Route<T> {
    pub(super) fn found(&self) -> Option<&T> {
        self.0.as_ref().ok()
    }

    pub(super) fn is_found(&self) -> bool {
        self.0.is_ok()
    }
}

impl<T> Default for Route<T> {
    fn default() -> Route<T> {
        Route(Err("nothing else was tried".into()))
    }
}

/// The routes of a device.
#[derive(Default)]
pub(super) struct Routes {
    /// Attention with its log-sum-exp, and its gradient.
    pub(super) attention: Route<Fused>,
    /// Products of all experts.
    pub(super) experts: Route,
    pub(super) norm: Route,
    pub(super) norm_grad: Route,
    pub(super) adamw: Route,
    /// Rows of a table, looked up and added up.
    pub(super) sums_of_rows: Route,
    /// Products of bf16 whose sums come out in f32.
    pub(super) f32_sums: Route,
    /// The same, written where they belong.
    pub(super) f32_results: Route,
    /// Products of bf16 added to f32 sums in place.
    pub(super) sums_in_place: Route<Cublas>,
    /// Copies to the device that the host does not wait for.
    pub(super) pinned: Route,
}

impl Routes {
    /// Tries all operators.
    pub(super) fn of(torch: &Torch) -> Routes {
        let not_on_cpu = |try_: fn(&Torch) -> Result<(), Refusal>| match torch.on_cpu() {
            true => Err("on a CPU that is faster".into()),
            false => try_(torch),
        };
        Routes {
            sums_in_place: Route(Cublas::find(torch)),
            pinned: Route(torch.try_pinned()),
            attention: Route(Fused::find(torch)),
            experts: Route(not_on_cpu(grouped_matmul::try_fused)),
            norm: Route(not_on_cpu(rms_norm::try_fused)),
            norm_grad: Route(not_on_cpu(rms_norm::try_fused_grad)),
            adamw: Route(adamw::try_fused(torch)),
            sums_of_rows: Route(sums_of_rows(torch)),
            f32_sums: Route(f32_sums(torch, |a, b, f32| torch.aten().mm_dtype(a, b, f32))),
            f32_results: Route(f32_sums(torch, |a, b, f32| {
                let out = torch.empty(&[1, 1], f32.0)?;
                torch.aten().mm_dtype_out(a, b, f32, &out)?;
                Ok(out)
            })),
        }
    }

    /// A line on each route, for people.
    pub(super) fn text(&self, torch: &Torch) -> Vec<String> {
        let name = self.attention.found().map_or(String::new(), Fused::name);
        let mut lines = vec![
            format!("at {}", torch.torch.path.display()),
            line("attention", &self.attention, &name),
            line("products per expert", &self.experts, "_grouped_mm"),
            line("RMSNorm", &self.norm, "_fused_rms_norm"),
            line("RMSNorm's gradient", &self.norm_grad, "_fused_rms_norm_backward"),
            line("AdamW", &self.adamw, "_fused_adamw_"),
            match &self.pinned.0 {
                Ok(()) => "copies to the device: through pinned memory".into(),
                Err(why) => format!("copies to the device: waited for ({why})"),
            },
            line("combine", &self.sums_of_rows, "_embedding_bag_forward_only"),
            format!("f64: {}", if torch.has_f64 { "yes" } else { "no" }),
        ];
        lines.splice(2..2, self.attention.found().map_or(vec![], Fused::details));
        if torch.options.precision == Precision::Bf16 && !torch.on_cpu() {
            lines.push(match &self.f32_sums.0 {
                Ok(()) => "sums of bf16 products: f32".into(),
                Err(why) => format!("sums of bf16 products: bf16 ({why})"),
            });
            lines.push(match &self.sums_in_place.0 {
                Ok(_) => "products added to f32 sums: in place, cublasGemmEx".into(),
                Err(why) => format!("products added to f32 sums: product and sum ({why})"),
            });
        }
        lines
    }
}

fn line<T>(what: &str, route: &Route<T>, operator: &str) -> String {
    match &route.0 {
        Ok(_) => format!("{what}: one operator, {operator}"),
        Err(why) => format!("{what}: composed ({why})"),
    }
}

fn sums_of_rows(torch: &Torch) -> Result<(), Refusal> {
    let table = torch.hosted(&[1.0, 10.0, 100.0, 1000.0], &[4, 1])?;
    let (places, firsts) = (torch.counting(4)?.shaped(&[4], 0)?, torch.counting(1)?.shaped(&[1], 0)?);
    let sums = torch.aten().embedding_bag(&table, &places, &firsts, false, 0, false, None, false, -1)?.0;
    let found = torch.first(&sums)?;
    if found == 1111.0 { Ok(()) } else { Err(format!("1 + 10 + 100 + 1000 is {found}").into()) }
}

/// 1 + 2^-9 needs more digits than bf16 has.
fn f32_sums(
    torch: &Torch,
    multiply: impl FnOnce(&Value, &Value, Dtype) -> Result<Value, Refusal>,
) -> Result<(), Refusal> {
    if torch.options.precision == Precision::F32 || torch.on_cpu() {
        return Err("products are not of bf16".into());
    }
    let dtypes = torch.torch.dtypes;
    let small = 1.0 / 512.0;
    let a = torch.converted(&torch.hosted(&[1.0, small], &[1, 2])?, &[1, 2], dtypes.bf16)?;
    let b = torch.full(&[2, 1], dtypes.bf16, 1.0)?;
    let found = torch.first(&multiply(&a, &b, Dtype(dtypes.f32))?)?;
    if found == 1.0 + small { Ok(()) } else { Err(format!("1 + 2^-9 is {found}").into()) }
}
