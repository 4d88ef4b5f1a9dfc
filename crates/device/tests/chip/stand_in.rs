//! Builds the kernels of ours for the host. Tests of other crates include this file.

use lingot_device::kernels;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A library of all kernels for the host, built with some options of the compiler; or a line that says why
/// there is none.
pub(crate) fn build(name: &str, options: &[&str]) -> Option<&'static Path> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Aside and then in place, so that two builds at once do not meet in one file.
    let aside = |end: &str| folder.join(format!("kernels-{name}-{}.{end}", std::process::id()));
    let (text, built) = (aside("cpp"), aside("so"));
    std::fs::write(&text, kernels::source()).unwrap();
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../device/kernels");
    let compiled = Command::new("g++")
        .args(["-std=c++17", "-O2", "-fPIC", "-shared", "-fno-strict-aliasing", "-Wall", "-Werror"])
        .args(options)
        .arg("-I")
        .arg(headers)
        .arg(&text)
        .arg("-o")
        .arg(&built)
        .output();
    let library: PathBuf = folder.join(format!("kernels-{name}.so"));
    match compiled {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("skipped: g++: {error}");
            return None;
        }
    }
    std::fs::rename(built, &library).unwrap();
    std::fs::remove_file(text).unwrap();
    Some(Box::leak(library.into_boxed_path()))
}
