//! Bytes that strategies exchange: the planner predicts with these functions what `exchange` counts.

/// Bytes of an exchanged number: sums and their terms are f32.
pub const NUMBER_BYTES: u64 = 4;

/// Returns the bytes that all `workers` together send to sum `numbers`: each sends the others their shards,
/// and then its summed shard to each of the others. A ring moves as much.
pub fn sum_bytes(workers: u64, numbers: u64) -> u64 {
    NUMBER_BYTES * 2 * workers.saturating_sub(1) * numbers
}

/// Returns the bytes that all `workers` together send so that each knows one number per group of every other.
pub fn gather_bytes(workers: u64, groups: u64) -> u64 {
    NUMBER_BYTES * workers * workers.saturating_sub(1) * groups
}

/// Returns the bytes of a step in which gradients are summed.
pub fn every_step_bytes(workers: u64, parameters: u64) -> u64 {
    sum_bytes(workers, parameters)
}

/// Returns the bytes of one meeting of EDiT or A-EDiT: the norm of each group, then the weighted change of
/// every parameter and of the routers' `state` numbers.
pub fn meeting_bytes(workers: u64, parameters: u64, state: u64, groups: u64) -> u64 {
    gather_bytes(workers, groups) + sum_bytes(workers, parameters + state)
}

/// Returns the bytes of a step whose gradients are summed on the host: each of `devices` reads the parameters
/// and the routers' state, and each of `pieces` writes its gradients and its counts.
pub fn hub_bytes([devices, pieces]: [usize; 2], [parameters, state, counts]: [usize; 3]) -> u64 {
    NUMBER_BYTES * (devices * (parameters + state) + pieces * (parameters + counts)) as u64
}

/// Returns the bytes of a round that ends with a meeting on the host: each of `devices` reads what was
/// agreed, parameters and routers' state, and writes its own; each of the `newcomers` among them also reads
/// two moments per parameter.
pub fn hub_round_bytes([devices, newcomers]: [usize; 2], [parameters, state]: [usize; 2]) -> u64 {
    NUMBER_BYTES * 2 * (devices * (parameters + state) + newcomers * parameters) as u64
}
