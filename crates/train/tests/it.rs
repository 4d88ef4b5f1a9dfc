//! The training floor, from outside.

mod it {
    mod checkpoint;
    mod config;
    mod log;
    mod random;
    mod schedule;
}
