//! The model of time and memory, one file per concern.
