//! The proof that two devices compute the same thing.
