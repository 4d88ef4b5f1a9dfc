//! Tests of how workers agree.

mod exchange;
mod membership;
mod outer;
mod penalty;
mod shares;
mod strategy;

/// Numbers from a seed, evenly spread from -1 to 1.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
