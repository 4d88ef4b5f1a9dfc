//! The program `lingot`.
fn main() {}
