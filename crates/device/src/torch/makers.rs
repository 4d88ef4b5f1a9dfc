//! The libraries of chips' makers: one maker's in a process.
//!
//! Those of chips that torch itself knows lie beside torch's own, where torch was built for them; all others
//! are named in `LINGOT_TORCH_EXTENSION`. Each registers itself with torch when it is opened. Two makers that
//! do so in one process throw from their initialisers (seen with torch's CUDA build and torch_npu 2.10:
//! "Duplicated key"), which ends the process, so the second one is refused.

use super::library::{self, Symbols, unsupported};
use crate::error::Result;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What this process has opened.
#[derive(Default)]
struct Opened {
    beside_torch: Vec<PathBuf>,
    extensions: Vec<PathBuf>,
}

static OPENED: Mutex<Opened> = Mutex::new(Opened { beside_torch: vec![], extensions: vec![] });

/// Opens what the device `name`, torch's `known`, needs besides torch, once.
///
/// # Errors
/// If it is not there, cannot be opened, or another maker's is open already.
pub(super) fn open(torch: &Symbols, name: &str, known: &str) -> Result<()> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    match known.split(':').next() {
        Some("cpu" | "mps" | "meta") => Ok(()),
        Some("cuda") => open_beside(torch, name, &["libtorch_cuda.so", "libtorch_hip.so"], &mut opened),
        Some("xpu") => open_beside(torch, name, &["libtorch_xpu.so"], &mut opened),
        _ => open_extensions(name, &mut opened),
    }
}

fn open_beside(torch: &Symbols, name: &str, files: &[&str], opened: &mut Opened) -> Result<()> {
    let places: Vec<PathBuf> = files.iter().map(|file| torch.path.with_file_name(file)).collect();
    let Some(path) = places.iter().find(|path| path.exists()) else {
        let tried: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        let what =
            format!("torch {} was built without it: there is no {}", torch.version(), tried.join(" nor "));
        return Err(unsupported(name, what, "install the torch that the chip's maker names"));
    };
    if opened.beside_torch.contains(path) {
        return Ok(());
    }
    if let Some(other) = opened.extensions.first() {
        return Err(two_makers(name, path, other));
    }
    std::mem::forget(library::open_library(name, path)?);
    opened.beside_torch.push(path.clone());
    Ok(())
}

fn open_extensions(name: &str, opened: &mut Opened) -> Result<()> {
    let paths = std::env::var_os("LINGOT_TORCH_EXTENSION").unwrap_or_default();
    let paths: Vec<PathBuf> =
        std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect();
    if let Some((one, other)) = of_two_makers(&paths) {
        return Err(two_makers(name, one, other));
    }
    for path in paths {
        if opened.extensions.contains(&path) {
            continue;
        }
        if let Some(other) = opened.beside_torch.first() {
            return Err(two_makers(name, &path, other));
        }
        std::mem::forget(library::open_library(name, &path)?);
        opened.extensions.push(path);
    }
    Ok(())
}

/// Two libraries of the list that both link torch and lie in different folders. What does not link torch is
/// one that the maker's own needs.
fn of_two_makers(paths: &[PathBuf]) -> Option<(&Path, &Path)> {
    if paths.len() < 2 {
        return None;
    }
    let mut of_torch = paths.iter().filter(|path| links_torch(path));
    let first = of_torch.next()?;
    let other = of_torch.find(|path| path.parent() != first.parent())?;
    Some((other, first))
}

/// Whether a library names torch's among those that it links. Names stand in it as text that ends in zero.
fn links_torch(path: &Path) -> bool {
    let Ok(bytes) = std::fs::read(path) else { return false };
    ["libc10.so\0", "libtorch_cpu.so\0", "libtorch.so\0"]
        .iter()
        .any(|name| bytes.windows(name.len()).any(|window| window == name.as_bytes()))
}

fn two_makers(device: &str, path: &Path, other: &Path) -> crate::error::Error {
    let what = format!(
        "{} and {} belong to two makers, whose libraries break each other in one process",
        path.display(),
        other.display()
    );
    unsupported(device, what, "use devices of one of the two in this process")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_two_makers_are_told_from_those_that_one_maker_needs() {
        let folder = std::env::temp_dir().join(format!("lingot-makers-{}", std::process::id()));
        let file = |name: &str, links: &str| {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, format!("\u{7f}ELF..{links}\0..")).unwrap();
            path
        };
        let one = file("one/libtorch_one.so", "libc10.so");
        let beside = file("one/libone_profiler.so", "libtorch_cpu.so");
        let driver = file("driver/libdriver.so", "libc.so.6");
        let other = file("other/libtorch_other.so", "libtorch_cpu.so");
        assert_eq!(of_two_makers(std::slice::from_ref(&one)), None);
        assert_eq!(of_two_makers(&[driver.clone(), beside.clone(), one.clone()]), None);
        let listed = [driver, one.clone(), beside, other.clone()];
        assert_eq!(of_two_makers(&listed), Some((other.as_path(), one.as_path())));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
