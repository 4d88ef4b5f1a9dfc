//! What hardware can do: tensors, the op alphabet, and the backends that run it.
//!
//! An op has one name on every floor: `op/` holds its struct, which says what the op reads and writes and
//! what it costs, and its front door in [`ops`], which checks shapes and kinds; `reference/` defines it in
//! plain f64 loops; each backend has a file of the same name. This is the only crate with unsafe code. It
//! imports `spec` and never knows what a layer, a step or a peer is.
//!
//! Reading order: `tensor`, then one op, say `combine`, through `op/`, `reference/` and `cpu/`; then
//! `backend`.
#![deny(missing_docs)]

pub mod backend;
mod bf16;
mod boundary;
pub mod conformance;
pub mod cpu;
mod device;
pub mod entry;
pub mod error;
mod host;
#[cfg(unix)]
pub mod kernels;
pub mod null;
pub mod op;
pub mod open;
mod packed;
pub mod precision;
pub mod reference;
pub mod reserve;
mod slot;
pub mod tensor;
#[cfg(unix)]
pub mod torch;
pub mod wrappers;

pub use backend::{Backend, DeviceInfo, MemoryUse, Wrapper};
pub use bf16::Bf16;
pub use boundary::{Boundary, Size};
pub use device::Device;
pub use error::{Error, Result};
pub use op::doors as ops;
pub use op::{Flip, Op, RouteRule};
pub use packed::Packed;
pub use precision::Precision;
pub use slot::{Owner, Slot, SlotId};
pub use tensor::{Kind, Place, Tensor};
pub use wrappers::{intercepted, throttled, timed};
