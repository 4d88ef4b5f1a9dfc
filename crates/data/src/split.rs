//! Which documents are held out. Each document is decided on its own, so that it keeps its side when others
//! come or go.

use crate::order::share;

/// How a corpus is divided into training and validation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Split {
    /// Nothing is held out.
    Nowhere,
    /// There is one document, and what comes after this many of its bytes or tokens is held out.
    At(u64),
    /// Each document is held out with probability `validation`.
    ByDocument {
        seed: u64,
        corpus: u64,
        validation: f64,
        /// A document that changes sides, because the other side would be empty otherwise.
        moved: Option<u64>,
    },
}

impl Split {
    /// The split of a corpus of `documents` documents. `length` is that of the only document, where there is
    /// one.
    pub(crate) fn of(seed: u64, corpus: u64, documents: u64, length: u64, validation: f64) -> Split {
        if validation <= 0.0 {
            return Split::Nowhere;
        }
        if documents < 2 {
            return Split::At(length - (length as f64 * validation) as u64);
        }
        let shares = || (0..documents).map(|document| (share(&[seed, corpus, document]), document));
        let least = shares().min_by(|a, b| a.0.total_cmp(&b.0));
        let most = shares().max_by(|a, b| a.0.total_cmp(&b.0));
        let moved = match (least, most) {
            (Some((least, document)), _) if least >= validation => Some(document),
            (_, Some((most, document))) if most < validation => Some(document),
            _ => None,
        };
        Split::ByDocument { seed, corpus, validation, moved }
    }

    /// Whether a whole document is held out.
    pub(crate) fn holds_out(&self, document: u64) -> bool {
        match *self {
            Split::Nowhere | Split::At(_) => false,
            Split::ByDocument { seed, corpus, validation, moved } => {
                (share(&[seed, corpus, document]) < validation) != (moved == Some(document))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_have_a_document_as_soon_as_there_are_two() {
        for documents in 2..40 {
            for validation in [1e-6, 0.05, 0.5, 0.999] {
                let split = Split::of(3, 0, documents, 0, validation);
                let held_out = (0..documents).filter(|&document| split.holds_out(document)).count() as u64;
                assert!(held_out >= 1 && held_out < documents, "{documents} {validation} {held_out}");
            }
        }
    }

    #[test]
    fn the_share_is_met_and_a_document_keeps_its_side_when_more_come() {
        let (small, large) = (Split::of(3, 0, 10_000, 0, 0.05), Split::of(3, 0, 20_000, 0, 0.05));
        let held_out = (0..10_000).filter(|&document| small.holds_out(document)).count();
        assert!((400..600).contains(&held_out), "{held_out}");
        assert!((0..10_000).all(|document| small.holds_out(document) == large.holds_out(document)));
    }
}
