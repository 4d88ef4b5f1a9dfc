//! Devices that stand before another device and change some of what it does.
//!
//! Each defines only the calls that it changes; [`Wrapper`](crate::Wrapper) passes the others on.

pub mod intercepted;
mod thread_clock;
pub mod throttled;
pub mod timed;
