//! Builds the kernels of ours for the host. Tests of other crates include this file.

use lingot_device::kernels;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A library of all kernels for the host, built with some options of the compiler; or a line that says why
/// there is none.
pub(crate) fn build(name: &str, options: &[&str]) -> Option<&'static Path> {
    let all = [&["-O2", "-fPIC", "-shared", "-fno-strict-aliasing", "-Wall", "-Werror"], options].concat();
    let library = compiled(&format!("kernels-{name}.so"), "g++", &all, "")?;
    Some(Box::leak(library.into_boxed_path()))
}

/// Compiles the kernels, and `more` behind them, into the file `name` among those of the tests; a line says
/// why where there is no compiler. Fails with the compiler's words if it refuses.
pub(crate) fn compiled(name: &str, compiler: &str, options: &[&str], more: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Aside and then in place, so that two tests at once do not meet in one file.
    let aside = |end: &str| folder.join(format!("{name}-{}.{end}", std::process::id()));
    let (text, built, done) = (aside("cpp"), aside("built"), folder.join(name));
    std::fs::write(&text, kernels::source() + more).unwrap();
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../device/kernels");
    let mut command = Command::new(compiler);
    command.arg("-std=c++17").args(options).arg("-I").arg(headers).arg("-o").arg(&built).arg(&text);
    match command.output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("skipped: {compiler}: {error}");
            return None;
        }
    }
    std::fs::rename(built, &done).unwrap();
    std::fs::remove_file(text).unwrap();
    Some(done)
}
