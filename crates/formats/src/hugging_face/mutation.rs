//! Damaged copies of a file, for tests of the parsers.

/// A copy with a few bytes changed, removed, doubled or cut off, the same for the same seed.
pub(super) fn mutate(original: &[u8], seed: u64) -> Vec<u8> {
    let mut bytes = original.to_vec();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for _ in 0..1 + draw(4) {
        let at = draw(bytes.len());
        let end = (at + 1 + draw(12)).min(bytes.len());
        match draw(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << draw(8),
            1 if at < bytes.len() => bytes[at] = b"0123456789-eE.,:[]{}\"nt"[draw(23)],
            2 => drop(bytes.drain(at.min(end)..end)),
            3 => bytes.truncate(at),
            4 => bytes.splice(at..at, b"99999999999999999999"[..draw(20)].iter().copied()).for_each(drop),
            _ => {
                let copy = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, copy).for_each(drop);
            }
        }
    }
    bytes
}
