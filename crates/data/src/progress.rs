//! How the progress of a preparation is told.

/// Called now and then with how far a stage has come. The caller draws.
pub type Progress<'a> = &'a dyn Fn(Stage);

/// How far one stage of the preparation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    pub name: &'static str,
    /// Bytes.
    pub done: u64,
    /// Bytes.
    pub total: u64,
}
