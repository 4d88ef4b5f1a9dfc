//! The most memory this process had at once, as Linux tells it.

/// The peak is counted anew from here; without effect where the system has no such thing.
pub(crate) fn restart_peak() {
    // 5 resets the high-water mark (proc(5), clear_refs).
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Resident memory at its highest.
pub(crate) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
