//! A recording of what one device does, op by op, and a comparison of another device with it.
//!
//! The reference device records. The candidate follows: before each op its inputs are overwritten with the
//! recorded ones, so that an op is judged by its own error and not by errors before it; afterwards its
//! outputs are compared. The first op with another name, other arguments or other outputs is the one at
//! fault.
//!
//! Both may hold their values in different kinds: the candidate's inputs are then the reference's, rounded.

use lingot_device::intercepted::Intercepted;
use lingot_device::op::{Access, Operand};
use lingot_device::precision::{epsilon, is_of_products};
use lingot_device::{Backend, Bf16, Device, Kind, Op, Place, Precision, Result, Tensor};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The first difference between two devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// The module, as far as it is known.
    pub module: String,
    /// The op at fault.
    pub op: String,
    /// The output or argument that differs.
    pub what: String,
    /// BLAKE3 of the op's inputs on the reference.
    pub inputs_hash: String,
    /// The value on the reference.
    pub reference: String,
    /// The value on the candidate.
    pub candidate: String,
}

/// The modules that reports distinguish.
pub const MODULES: [&str; 6] = ["embedding", "attention", "router", "MoE block", "head", "loss"];

/// The worst error of one module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModuleError {
    /// One of [`MODULES`].
    pub module: String,
    /// Outputs that were compared.
    pub ops: u64,
    /// Largest error over its bound in the forward pass: at most 1 passes.
    pub forward: f64,
    /// The same in the backward pass.
    pub backward: f64,
}

/// The largest difference of an output that passes: a part of the element itself and one of the output's
/// largest element.
#[derive(Clone, Copy)]
struct Bound {
    element: f64,
    size: f64,
}

/// The bound of an op's output in a step. A real step has cancellation that the suite's shapes do not; the
/// error of a wrong op is far larger.
///
/// * In f32, 1,024 units.
/// * What both sides round to bf16 once may be one number of bf16 apart, beside that.
/// * Ops with products inside may be off by four units of bf16 on each side, as in the suite; and so may all
///   ops where one side's operands are rounded and the other's are not.
fn bound(op: &str, [reference, candidate]: [&[Kind]; 2], output: usize) -> Bound {
    let [wide, narrow] = [Precision::F32, Precision::Bf16].map(epsilon);
    let none = Bound { element: 0.0, size: 1024.0 * wide };
    let within_products = Bound { size: 8.0 * narrow, ..none };
    match candidate[output] {
        Kind::I32 => Bound { element: 0.0, size: 0.0 },
        _ if reference != candidate => within_products,
        _ if is_of_products(op) && candidate.contains(&Kind::Bf16) => within_products,
        Kind::Bf16 => Bound { element: narrow, ..none },
        Kind::F32 | Kind::F64 => none,
    }
}

/// One op on the reference: its arguments, and its tensors before and after it.
struct Entry {
    op: &'static str,
    arguments: String,
    kinds: Vec<Kind>,
    before: Vec<Vec<u8>>,
    after: Vec<Vec<u8>>,
}

/// The ops that a device recorded, in order.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Vec<Entry>>>);

/// The result of following a recording.
#[derive(Default)]
pub struct Found {
    /// The first op at fault.
    pub fault: Option<Fault>,
    /// The worst error of each module.
    pub modules: Vec<ModuleError>,
    /// The index of the next op.
    next: usize,
    /// The module of the latest op.
    module: &'static str,
    is_backward: bool,
    named: Vec<Named>,
    is_active: bool,
}

/// A tensor's place on the device, and its name.
struct Named {
    name: String,
    place: Place,
}

/// A device that records, or follows a recording.
struct Watched {
    inner: Device,
    trace: Trace,
    follows: bool,
    found: Arc<Mutex<Found>>,
}

/// Starts and stops the recording or comparison of a device.
#[derive(Clone)]
pub struct Watch(Arc<Mutex<Found>>);

impl Watch {
    /// Starts with the next op; the names tell modules apart.
    pub fn start(&self, named: Vec<(String, Tensor)>) {
        let mut found = lock(&self.0);
        found.is_active = true;
        found.module = MODULES[0];
        found.named = named.into_iter().map(|(name, tensor)| Named { name, place: tensor.place() }).collect();
    }

    /// Ends the comparison and returns its result; missing ops at the end are a fault.
    pub fn stop(&self, trace: &Trace) -> Found {
        let mut found = std::mem::take(&mut *lock(&self.0));
        let entries = lock(&trace.0);
        if found.fault.is_none()
            && let Some(entry) = entries.get(found.next)
        {
            found.fault = Some(entry.fault("end of the step", "op", entry.op, "nothing"));
        }
        found
    }
}

/// Returns `device`, recorded, with its switch and the recording.
pub fn record(device: &Device) -> (Device, Watch, Trace) {
    let trace = Trace::default();
    let (device, watch) = watched(device, &trace, false);
    (device, watch, trace)
}

/// Returns `device`, made to follow the recording, with its switch.
pub fn follow(device: &Device, trace: &Trace) -> (Device, Watch) {
    watched(device, trace, true)
}

fn watched(device: &Device, trace: &Trace, follows: bool) -> (Device, Watch) {
    let found = Arc::new(Mutex::new(Found::default()));
    let watched = Watched { inner: device.clone(), trace: trace.clone(), follows, found: found.clone() };
    (Device::new(Intercepted::new(device.clone(), move |op| watched.run(op))), Watch(found))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watched {
    fn run(&self, op: &Op<'_>) -> Result<()> {
        let mut found = lock(&self.found);
        if !found.is_active || found.fault.is_some() {
            Backend::run(&self.inner, op)
        } else if self.follows {
            self.follow(op, &mut found)
        } else {
            self.record(op)
        }
    }

    fn bytes(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        let Place { offset_bytes, bytes, .. } = tensor.place();
        let mut bytes = vec![0; bytes];
        self.inner.read(tensor.slot(), offset_bytes, &mut bytes)?;
        Ok(bytes)
    }

    fn record(&self, op: &Op<'_>) -> Result<()> {
        let read = || op.operands().map(|operand| self.bytes(operand.tensor)).collect::<Result<Vec<_>>>();
        let before = read()?;
        Backend::run(&self.inner, op)?;
        let after = read()?;
        let kinds = op.operands().map(|operand| operand.tensor.kind()).collect();
        lock(&self.trace.0).push(Entry { op: op.name(), arguments: op.numbers(), kinds, before, after });
        Ok(())
    }

    fn follow(&self, op: &Op<'_>, found: &mut Found) -> Result<()> {
        let trace = lock(&self.trace.0);
        let Some(entry) = trace.get(found.next) else {
            found.fault = Some(Fault {
                module: found.module.into(),
                op: op.name().into(),
                what: "op".into(),
                inputs_hash: String::new(),
                reference: "nothing".into(),
                candidate: op.name().into(),
            });
            return Backend::run(&self.inner, op);
        };
        found.next += 1;
        let (name, arguments) = (op.name(), op.numbers());
        let operands: Vec<Operand<'_>> = op.operands().collect();
        found.enter(name, &operands);
        let kinds: Vec<Kind> = operands.iter().map(|operand| operand.tensor.kind()).collect();
        let counts = operands.iter().map(|operand| operand.tensor.len());
        let same_shape =
            counts.eq(entry.before.iter().zip(&entry.kinds).map(|(x, kind)| x.len() / kind.bytes()));
        if entry.op != name {
            found.fault = Some(entry.fault(found.module, "op", entry.op, name));
        } else if entry.arguments != arguments {
            found.fault = Some(entry.fault(found.module, "arguments", &entry.arguments, &arguments));
        } else if !same_shape {
            found.fault = Some(entry.fault(found.module, "shapes", "its own", "others"));
        }
        if found.fault.is_some() {
            return Backend::run(&self.inner, op);
        }
        for (index, (operand, before)) in operands.iter().zip(&entry.before).enumerate() {
            if operand.access != Access::Write {
                self.give(operand.tensor, entry.kinds[index], before)?;
            }
        }
        Backend::run(&self.inner, op)?;
        for (index, &Operand { name: what, tensor, access, .. }) in operands.iter().enumerate() {
            if access != Access::Read {
                let wanted = numbers(entry.kinds[index], &entry.after[index]);
                let bound = bound(name, [&entry.kinds, &kinds], index);
                let worst = worst(&numbers(tensor.kind(), &self.bytes(tensor)?), &wanted, bound);
                found.note(worst.share);
                // NaN is not greater than the bound, and must not pass.
                if (worst.share > 1.0 || worst.share.is_nan()) && found.fault.is_none() {
                    let what = format!("{what}[{}]", worst.index);
                    let [a, b] = worst.values.map(|value| format!("{value:e}"));
                    found.fault = Some(entry.fault(found.module, &what, &a, &b));
                }
            }
        }
        Ok(())
    }
}

impl Watched {
    /// Overwrites an input with the reference's.
    fn give(&self, tensor: &Tensor, kind: Kind, bytes: &[u8]) -> Result<()> {
        if kind == tensor.kind() {
            self.inner.write(tensor.slot(), tensor.place().offset_bytes, bytes)
        } else {
            tensor.on(&self.inner).write_doubles(&numbers(kind, bytes))
        }
    }
}

impl Entry {
    fn fault(&self, module: &str, what: &str, reference: &str, candidate: &str) -> Fault {
        Fault {
            module: module.into(),
            op: self.op.into(),
            what: what.into(),
            inputs_hash: hash(&self.before),
            reference: reference.into(),
            candidate: candidate.into(),
        }
    }
}

impl Found {
    /// Finds the module of an op by its own name, else by the names of its tensors; else it is that of the op
    /// before.
    fn enter(&mut self, op: &str, operands: &[Operand<'_>]) {
        self.is_backward |= op == "cross_entropy_grad";
        let inside = |tensor: &Tensor| self.named.iter().find(|named| named.place == tensor.place());
        let named =
            operands.iter().find_map(|operand| inside(operand.tensor)).map(|named| named.name.as_str());
        self.module = match (op, named.unwrap_or_default()) {
            ("cross_entropy" | "cross_entropy_grad", _) => "loss",
            ("attention" | "attention_grad" | "rope", _) => "attention",
            ("route" | "route_grad" | "warm_logits" | "balance_bias", _) => "router",
            ("grouped_matmul" | "grouped_matmul_weights" | "sort_by_expert" | "dispatch" | "combine", _) => {
                "MoE block"
            }
            ("swiglu" | "swiglu_grad", _) => "MoE block",
            ("embedding" | "embedding_grad", _) => "embedding",
            ("column_scales" | "scale_columns", _) => "head",
            (_, name) if name.ends_with("router") => "router",
            (_, name) if ["final_norm", "head"].iter().any(|part| name.ends_with(part)) => "head",
            (_, name)
                if ["experts", "shared", "dense", "mlp_norm"].iter().any(|part| name.contains(part)) =>
            {
                "MoE block"
            }
            (_, name)
                if ["attention", "query", "key", "value", "output"].iter().any(|p| name.contains(p)) =>
            {
                "attention"
            }
            _ => self.module,
        };
    }

    fn note(&mut self, share: f64) {
        let known = self.modules.iter().position(|module| module.module == self.module);
        let index = known.unwrap_or_else(|| {
            self.modules.push(ModuleError { module: self.module.into(), ..ModuleError::default() });
            self.modules.len() - 1
        });
        let module = &mut self.modules[index];
        module.ops += 1;
        let worst = if self.is_backward { &mut module.backward } else { &mut module.forward };
        *worst = worst.max(share);
    }
}

/// The worst element of an output: on the reference, and on the candidate.
struct Worst {
    /// Its difference over the largest that passes.
    share: f64,
    index: usize,
    values: [f64; 2],
}

/// The numbers that a tensor of `kind` holds.
fn numbers(kind: Kind, bytes: &[u8]) -> Vec<f64> {
    let number = |bytes: &[u8]| match (kind, bytes) {
        (Kind::Bf16, &[a, b]) => f64::from(Bf16::from_bits(u16::from_ne_bytes([a, b])).wide()),
        (Kind::F32, &[a, b, c, d]) => f64::from(f32::from_ne_bytes([a, b, c, d])),
        (Kind::I32, &[a, b, c, d]) => f64::from(i32::from_ne_bytes([a, b, c, d])),
        (_, &[a, b, c, d, e, f, g, h]) => f64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        _ => f64::NAN,
    };
    bytes.chunks_exact(kind.bytes()).map(number).collect()
}

/// The element whose difference is the largest part of what passes there: infinite where whole numbers
/// differ.
fn worst(found: &[f64], wanted: &[f64], bound: Bound) -> Worst {
    let size = wanted.iter().fold(0.0, |size: f64, x| size.max(x.abs()));
    let mut worst = Worst { share: 0.0, index: 0, values: [0.0; 2] };
    for (index, (&found, &wanted)) in found.iter().zip(wanted).enumerate() {
        let passes = bound.element * wanted.abs() + bound.size * size;
        let share = if found == wanted { 0.0 } else { (found - wanted).abs() / passes };
        if share.is_nan() || share > worst.share {
            worst = Worst { share, index, values: [wanted, found] };
            if share.is_nan() {
                break;
            }
        }
    }
    worst
}

/// BLAKE3 of all buffers, each after its length.
fn hash(buffers: &[Vec<u8>]) -> String {
    let mut hasher = blake3::Hasher::new();
    for buffer in buffers {
        hasher.update(&(buffer.len() as u64).to_le_bytes()).update(buffer);
    }
    hasher.finalize().to_hex().to_string()
}
