//! Pure verdicts with their reasons: whether a run stops, what is due, what cannot be applied, what leapt,
//! what can be rescued.

pub(crate) mod due;
pub(crate) mod finite;
pub(crate) mod rescue;
pub mod spikes;
pub mod stop;
