//! config.json: the shape of a model in the words of each format.

mod habits;
mod keys;
mod read;
mod refusals;
mod rotation;
#[cfg(test)]
mod tests;
mod write;

pub(super) use read::read;
pub(super) use write::write;
