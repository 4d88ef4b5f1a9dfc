//! Peak memory of this process, as Linux reports it.

/// Restarts the count of the peak; without effect where the system cannot.
pub(crate) fn restart_peak() {
    // 5 resets the high-water mark (proc(5), clear_refs).
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Returns the peak of resident memory in bytes; none where the system does not report it.
pub(crate) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
