//! The largest sizes of a suite, for certificates.

use super::Shapes;

/// The largest sizes that a suite reaches, one at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Largest {
    /// Length of a product's sums.
    pub inner: usize,
    /// Rows of a product, or of all experts together.
    pub rows: usize,
    /// Experts.
    pub experts: usize,
    /// Tokens of attention.
    pub tokens: usize,
    /// Vocabulary.
    pub vocabulary: usize,
}

impl Shapes {
    /// Returns the largest sizes.
    pub fn largest(&self) -> Largest {
        let mut largest = Largest::default();
        let raise = |known: &mut usize, size: usize| *known = (*known).max(size);
        for product in &self.products {
            raise(&mut largest.inner, product.inner);
            raise(&mut largest.rows, product.rows);
        }
        for experts in &self.experts {
            raise(&mut largest.inner, experts.inner.max(experts.outer));
            raise(&mut largest.rows, experts.rows);
            raise(&mut largest.experts, experts.experts);
        }
        for routing in &self.routing {
            raise(&mut largest.experts, routing.experts);
        }
        for attention in &self.attention {
            raise(&mut largest.tokens, attention.tokens);
        }
        for head in &self.heads {
            raise(&mut largest.vocabulary, head.vocabulary);
        }
        largest
    }
}
