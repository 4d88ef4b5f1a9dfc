//! What hardware can do: tensors, the op alphabet, and the backends that run it.
//!
//! An op has one name on every floor: its front door in `ops/` checks shapes and types, its definition in
//! `reference/` says in plain f64 loops what it means, and each backend has a file of the same name.
//! This is the only crate with unsafe code. It imports `spec` and never knows what a layer, a step or a peer is.
//! Reading order: `backend`, `tensor`, `op`, then one op, say `combine`, through `ops/`, `reference/` and `cpu/`.

pub mod backend;
pub mod conformance;
pub mod cpu;
pub mod entry;
pub mod error;
mod host;
pub mod intercepted;
pub mod null;
pub mod op;
mod op_cost;
pub mod open;
pub mod ops;
pub mod precision;
pub mod reference;
pub mod tensor;
mod thread_clock;
pub mod throttled;
pub mod timed;
#[cfg(unix)]
pub mod torch;

pub use backend::{Backend, DeviceInfo, Slot};
pub use error::{Error, Result};
pub use op::{Flip, Op, RouteRule};
pub use precision::Precision;
pub use tensor::{Device, Kind, Tensor};
