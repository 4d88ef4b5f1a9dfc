//! Bytes that strategies exchange: what the planner predicts, and what `exchange` counts to the byte.

/// Bytes of a number on the wire: sums are f32, and so is what is summed.
pub const NUMBER_BYTES: u64 = 4;

/// Bytes that all `workers` together send to sum `numbers`: each sends the others their shards, and then its summed
/// shard to each of the others. As much as a ring moves.
pub fn sum_bytes(workers: u64, numbers: u64) -> u64 {
    NUMBER_BYTES * 2 * workers.saturating_sub(1) * numbers
}

/// Bytes that all `workers` together send so that each knows one number per group from every other.
pub fn gather_bytes(workers: u64, groups: u64) -> u64 {
    NUMBER_BYTES * workers * workers.saturating_sub(1) * groups
}

/// Bytes of a step in which gradients are summed.
pub fn every_step_bytes(workers: u64, parameters: u64) -> u64 {
    sum_bytes(workers, parameters)
}

/// Bytes of one meeting of EDiT or A-EDiT: the norm of each group, then the weighted change of every parameter and
/// the routers' state of `state` numbers.
pub fn meeting_bytes(workers: u64, parameters: u64, state: u64, groups: u64) -> u64 {
    gather_bytes(workers, groups) + sum_bytes(workers, parameters + state)
}

/// Bytes of a step that is brought together on the host: each of `devices` takes the parameters and the routers'
/// state, and each of `pieces` brings its gradients and what it counted.
pub fn hub_bytes([devices, pieces]: [usize; 2], [parameters, state, counts]: [usize; 3]) -> u64 {
    NUMBER_BYTES * (devices * (parameters + state) + pieces * (parameters + counts)) as u64
}

/// Bytes of a round that ends with a meeting on the host: each of `devices` takes what was agreed, parameters and
/// routers' state, and brings its own; each of the `newcomers` among them also takes two moments per parameter.
pub fn hub_round_bytes([devices, newcomers]: [usize; 2], [parameters, state]: [usize; 2]) -> u64 {
    NUMBER_BYTES * 2 * (devices * (parameters + state) + newcomers * parameters) as u64
}
