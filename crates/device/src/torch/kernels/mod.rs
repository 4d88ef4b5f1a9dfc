//! Kernels of ours in place of composed ops, where the device can run them.
//!
//! When a device is opened, each family of kernels is compared with the definitions of its ops on a few
//! shapes of the conformance suite, in f32 and in bf16. One that differs is left out, and `lingot devices -v`
//! says why. A kernel reads and writes tensors of either kind as they are and computes in f32, so its ops
//! need no f32 twins.
//!
//! To add a family: its source in `crates/device/kernels` and in the list of `kernels/source.rs`, a line in
//! [`FAMILIES`], a file here that builds its launches, and the arms of [`run`].
#![allow(unsafe_code)]

mod adamw;
mod balance_bias;
mod call;
mod cross_entropy;
pub(super) mod elementwise;
mod embedding;
mod norm;
mod norm_head;
mod rope;
mod route;
mod rows;
mod sort_by_expert;
mod sums;
mod swiglu;

use super::Torch;
use super::library::Symbols;
use super::refusal::Refusal;
use crate::conformance;
use crate::device::Device;
use crate::kernels::{Gpu, Kernels, Maker};
use crate::op::{self, Op};
use crate::precision::Precision;
use crate::tensor::Kind;
use call::{Call, Started};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Ops that are served by kernels together or not at all.
struct Family {
    /// What people call it.
    what: &'static str,
    /// The op whose cases of the conformance suite try all of its kernels.
    tried_by: &'static str,
    /// The names of its ops.
    ops: &'static [&'static str],
}

const FAMILIES: &[Family] = &[
    Family { what: "SwiGLU", tried_by: op::Swiglu::NAME, ops: &[op::Swiglu::NAME, op::SwigluGrad::NAME] },
    Family {
        what: "dispatch and combine",
        tried_by: op::Dispatch::NAME,
        ops: &[op::Dispatch::NAME, op::Combine::NAME],
    },
    Family {
        what: "RMSNorm and its gradient",
        tried_by: op::RmsNorm::NAME,
        ops: &[op::RmsNorm::NAME, op::RmsNormGrad::NAME],
    },
    Family { what: "rotary positions", tried_by: op::Rope::NAME, ops: &[op::Rope::NAME] },
    Family { what: "addition and casts", tried_by: op::Add::NAME, ops: &[op::Add::NAME, op::Copy::NAME] },
    Family { what: "sums", tried_by: op::Moments::NAME, ops: &[op::SumOfSquares::NAME, op::Moments::NAME] },
    Family { what: "AdamW in one pass", tried_by: op::AdamW::NAME, ops: &[op::AdamW::NAME] },
    Family { what: "routing", tried_by: op::Route::NAME, ops: &[op::Route::NAME, op::RouteGrad::NAME] },
    Family { what: "sort by expert", tried_by: op::Dispatch::NAME, ops: &[op::SortByExpert::NAME] },
    Family {
        what: "the head's loss",
        tried_by: op::CrossEntropy::NAME,
        ops: &[op::CrossEntropy::NAME, op::CrossEntropyGrad::NAME],
    },
    Family { what: "embedding's gradient", tried_by: op::Embedding::NAME, ops: &[op::EmbeddingGrad::NAME] },
    Family {
        what: "NormHead",
        tried_by: op::ScaleColumns::NAME,
        ops: &[op::ColumnScales::NAME, op::ScaleColumns::NAME],
    },
    Family { what: "balance bias", tried_by: op::BalanceBias::NAME, ops: &[op::BalanceBias::NAME] },
];

/// What launches leave for the next ones, on the device.
#[derive(Default)]
pub(super) struct OwnState {
    rope: rope::Turns,
    adamw: adamw::Spans,
}

/// Runs an op by a kernel of ours; returns whether there was one for it.
pub(super) fn run(torch: &Torch, op: &Op<'_>) -> Result<bool, Refusal> {
    let Some(started) = torch.own.serving(op.name()) else { return Ok(false) };
    if op.operands().any(|operand| operand.tensor.kind() == Kind::F64) {
        return Ok(false);
    }
    let call = Call { torch, started };
    match op {
        Op::Swiglu(op) => swiglu::swiglu(&call, op),
        Op::SwigluGrad(op) => swiglu::grad(&call, op),
        Op::Dispatch(op) => rows::dispatch(&call, op),
        Op::Combine(op) => rows::combine(&call, op),
        Op::RmsNorm(op) => norm::rms_norm(&call, op),
        Op::RmsNormGrad(op) if norm::takes(&call, op)? => norm::grad(&call, op),
        Op::Rope(op) => rope::rope(&call, op),
        Op::Add(op) => elementwise::add(&call, op),
        Op::Copy(op) if op.x.kind() != op.out.kind() => elementwise::cast(&call, op),
        Op::SumOfSquares(op) => sums::sum_of_squares(&call, op),
        Op::Moments(op) => sums::moments(&call, op),
        Op::AdamW(op) => adamw::adamw(&call, op),
        Op::Route(op) if route::takes(op.logits_te, op.rule) => route::route(&call, op),
        Op::RouteGrad(op) if route::takes(op.logits_te, op.rule) => route::grad(&call, op),
        Op::SortByExpert(op) if sort_by_expert::takes(op) => sort_by_expert::sort_by_expert(&call, op),
        Op::CrossEntropy(op) => cross_entropy::cross_entropy(&call, op),
        Op::CrossEntropyGrad(op) => cross_entropy::grad(&call, op),
        Op::EmbeddingGrad(op) if embedding::takes(op) => embedding::grad(&call, op),
        Op::ColumnScales(op) => norm_head::column_scales(&call, op),
        Op::ScaleColumns(op) => norm_head::scale_columns(&call, op),
        Op::BalanceBias(op) => balance_bias::balance_bias(&call, op),
        _ => return Ok(false),
    }
    .map(|()| true)
}

/// The kernels of one device, and which of them serve ops.
pub(super) struct OwnKernels {
    started: Result<Arc<Started>, String>,
    /// Names of the ops that kernels serve.
    serves: HashSet<&'static str>,
    /// Why a family is left out: what people call it, and the reason.
    left_out: Vec<(&'static str, String)>,
}

impl Default for OwnKernels {
    fn default() -> OwnKernels {
        OwnKernels::none("not tried".into())
    }
}

impl OwnKernels {
    fn none(why: String) -> OwnKernels {
        OwnKernels { started: Err(why), serves: HashSet::new(), left_out: vec![] }
    }

    /// Compiles and loads the kernels for a device, and tries them.
    pub(super) fn open(torch: &Torch, gpu: Result<Gpu, String>) -> OwnKernels {
        let beside_torch = torch.torch.path.parent().unwrap_or(Path::new(""));
        let kernels = match torch.options.stand_in {
            Some(library) => Kernels::on_host(library),
            None => gpu.and_then(|gpu| Kernels::compile(gpu, beside_torch)),
        };
        let index = if torch.options.stand_in.is_some() { -1 } else { torch.place.1 };
        let started = match kernels.and_then(|kernels| Started::new(kernels, index)) {
            Ok(started) => Arc::new(started),
            Err(why) => return OwnKernels::none(why),
        };
        let mut own = OwnKernels::of(started.clone());
        for family in FAMILIES {
            match tried(torch, &started, family) {
                Ok(()) => own.serves.extend(family.ops),
                Err(why) => own.left_out.push((family.what, why)),
            }
        }
        own
    }

    /// Started kernels that serve nothing yet.
    fn of(started: Arc<Started>) -> OwnKernels {
        OwnKernels { started: Ok(started), ..OwnKernels::default() }
    }

    /// The kernels, if they serve the op of this name.
    pub(super) fn serving(&self, op: &str) -> Option<&Started> {
        let started = self.started.as_ref().ok()?;
        self.serves.contains(op).then_some(started)
    }

    /// Kernels started since the device was opened, those of its trials included.
    pub(super) fn launches(&self) -> u64 {
        self.started.as_ref().map_or(0, |started| started.launches())
    }

    /// A line on each family, for people; one on all where nothing could be started.
    pub(super) fn text(&self) -> Vec<String> {
        if let Err(why) = &self.started {
            return vec![format!("kernels of ours: none ({why})")];
        }
        let line = |family: &Family| match self.left_out.iter().find(|(what, _)| *what == family.what) {
            Some((what, why)) => format!("{what}: composed ({why})"),
            None => format!("{}: kernel of ours", family.what),
        };
        FAMILIES.iter().map(line).collect()
    }
}

/// Errors if a family of kernels refuses or computes something else than its ops' definitions.
fn tried(torch: &Torch, started: &Arc<Started>, family: &Family) -> Result<(), String> {
    let mut own = OwnKernels::of(started.clone());
    own.serves.extend(family.ops);
    let device = Device::new(torch.sibling(own).map_err(|refusal| refusal.to_string())?);
    for (kind, precision) in [(Kind::F32, torch.options.precision), (Kind::Bf16, Precision::Bf16)] {
        match conformance::trial(&device, family.tried_by, kind, precision) {
            Ok(None) => (),
            Ok(Some(difference)) => return Err(difference),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// The GPU behind a device of torch's, by torch's name for it, through its maker's driver.
///
/// # Errors
/// If the device is no GPU of NVIDIA's or AMD's, or its driver cannot be opened.
pub(super) fn gpu(torch: &Symbols, known: &str, index: i32) -> Result<Gpu, String> {
    if known.split(':').next() != Some("cuda") {
        return Err("only GPUs of NVIDIA and AMD run them".into());
    }
    let is_of_amd = torch.path.with_file_name("libtorch_hip.so").exists();
    Gpu::open(if is_of_amd { Maker::Amd } else { Maker::Nvidia }, index)
}
