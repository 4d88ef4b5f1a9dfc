//! Sizes at which a backend changes how it computes an op, so that tests can try both sides of each.

/// A size of an op that a backend divides its routes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Rows of a product's result; tokens of an op that works row by row.
    Rows,
    /// Columns of a product's result; the width of an op that works row by row.
    Columns,
    /// The length of the sums of a product.
    Inner,
    /// Keys that the last query of a document sees.
    Keys,
    /// Width of an attention head.
    HeadWidth,
    /// Scores of a document: heads x queries x keys.
    Scores,
    /// Tokens x vocabulary.
    Logits,
    /// Elements of an op that works element by element.
    Elements,
}

/// A boundary between two routes of one op: below `at` and from `at` on a backend computes differently, be it
/// by another kernel, another cut into tiles or one more piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// The op's name.
    pub op: &'static str,
    /// The size that decides.
    pub size: Size,
    /// The first size of the upper route.
    pub at: usize,
}

impl Boundary {
    /// The boundary of `op` at `at`.
    pub(crate) const fn new(op: &'static str, size: Size, at: usize) -> Boundary {
        Boundary { op, size, at }
    }
}
