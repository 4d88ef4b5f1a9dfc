//! The training floor, from outside.

// Clippy's exemption for tests does not reach their helpers.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod it {
    mod apart;
    mod bf16;
    mod checkpoint;
    mod config;
    mod drills;
    mod emulated;
    mod failure;
    mod fleet;
    mod golden;
    mod guard;
    mod hugging_face;
    mod ledger;
    mod log;
    mod merge;
    mod night;
    mod overlap;
    mod promise;
    mod random;
    mod sample;
    mod schedule;
    mod step;
    mod stop;
    mod tfevents;
    mod waits;
}
