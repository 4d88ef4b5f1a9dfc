//! Progress of a preparation.

/// Called from time to time with the progress of a stage.
pub type Progress<'a> = &'a dyn Fn(Stage);

/// Progress of one stage of the preparation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// `reading`, `tokenizer`, `encoding` or `checking`.
    pub name: &'static str,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}
