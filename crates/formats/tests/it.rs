//! The crate from outside: folders written, read, refused and damaged.

// Helpers of tests fail loudly, like tests.
#![allow(clippy::unwrap_used)]

mod it {
    mod damage;
    mod gguf;
    mod imports;
    mod made;
    mod refusals;
    mod round_trips;
}
