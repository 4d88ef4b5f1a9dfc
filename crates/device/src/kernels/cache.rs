//! Compiled kernels of earlier processes, in the user's cache folder.
//!
//! A file is found by what was compiled: source, options and the compiler's version. It begins with a
//! checksum of that and of the code, so a damaged file, or one of another source, is not used. Without a
//! folder that can be written to, every process compiles anew.

use std::path::PathBuf;

/// The code that was compiled of `key`, if it is there whole.
pub(super) fn read(key: &str) -> Option<Vec<u8>> {
    let stored = std::fs::read(place(key)?).ok()?;
    let (sum, code) = stored.split_at_checked(8)?;
    (sum == checksum(key, code).to_le_bytes()).then(|| code.to_vec())
}

/// Keeps the code for later processes, if the folder allows it.
pub(super) fn write(key: &str, code: &[u8]) {
    let Some(place) = place(key) else { return };
    let Some(folder) = place.parent() else { return };
    let stored = [&checksum(key, code).to_le_bytes()[..], code].concat();
    // Aside and then in place, so that no other process reads half a file.
    let aside = place.with_extension(std::process::id().to_string());
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&aside, stored))
        .and_then(|()| std::fs::rename(&aside, &place));
    if written.is_err() {
        let _ = std::fs::remove_file(&aside);
    }
}

/// `$XDG_CACHE_HOME/lingot/kernels`, else `~/.cache/lingot/kernels`, and a name for the key.
fn place(key: &str) -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(folder.join("lingot/kernels").join(format!("{:016x}", hash(FIRST, key.as_bytes()))))
}

fn checksum(key: &str, code: &[u8]) -> u64 {
    hash(hash(!FIRST, key.as_bytes()), code)
}

/// Where the hash of a text begins.
const FIRST: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a (Fowler, Noll and Vo).
fn hash(first: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(first, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_damaged_or_of_another_source_is_not_used() {
        let key = format!("test {}", std::process::id());
        write(&key, b"code");
        let Some(place) = place(&key).filter(|place| place.exists()) else {
            return println!("skipped: no cache folder");
        };
        assert_eq!(read(&key).as_deref(), Some(&b"code"[..]));
        let whole = std::fs::read(&place).unwrap();
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        for (what, stored) in [("a bit", &damaged[..]), ("the end", &whole[..7]), ("all", &[])] {
            std::fs::write(&place, stored).unwrap();
            assert_eq!(read(&key), None, "{what}");
        }
        let other = [&checksum("another source", b"code").to_le_bytes()[..], b"code"].concat();
        std::fs::write(&place, other).unwrap();
        assert_eq!(read(&key), None, "another source");
        std::fs::remove_file(place).unwrap();
    }
}
