//! Builds the test chip, and runs a test of it in a process of its own. Tests of other crates include this
//! file.
#![allow(dead_code, reason = "not every crate needs all of it")]

use lingot_device::torch::Torch;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Names the makers' libraries that a process opens.
pub(crate) const EXTENSION: &str = "LINGOT_TORCH_EXTENSION";
/// Set in the process of an inner half.
const INNER: &str = "LINGOT_TEST_CHIP_INNER";

/// Runs `inner` in a process of its own, with the chip and its settings, where there is a torch and a
/// compiler. `test` is the test's whole path.
pub(crate) fn run(test: &str, settings: &[(&str, &str)], inner: impl FnOnce()) {
    match start(test, settings) {
        None => inner(),
        Some(None) => (),
        Some(Some(output)) => {
            let told = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}: {told}", output.status);
            assert!(told.contains("1 passed"), "{told}");
        }
    }
}

/// None in the process of the inner half; in the outer one what came of that process, if there could be one.
pub(crate) fn start(test: &str, settings: &[(&str, &str)]) -> Option<Option<Output>> {
    if std::env::var_os(INNER).is_some() {
        return None;
    }
    static CHIP: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(chip) = CHIP.get_or_init(build) else { return Some(None) };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(INNER, "1").env(EXTENSION, chip);
    Some(Some(command.envs(settings.iter().copied()).output().unwrap()))
}

/// Builds the chip against the torch that is there, or says why not.
pub(crate) fn build() -> Option<PathBuf> {
    let (libtorch, version) = match Torch::found() {
        Ok(found) => found,
        Err(error) => {
            eprintln!("skipped: {error}");
            return None;
        }
    };
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../device/tests/chip");
    let chip = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("testchip-{version}.so"));
    let changed = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
    if changed(&chip) > changed(&sources.join("chip.cpp")).max(changed(&libtorch)) {
        return Some(chip);
    }
    let torch = libtorch.parent()?.parent()?;
    let built = Command::new(sources.join("build.sh")).arg(torch).arg(&chip).output();
    match built {
        Ok(output) if output.status.success() => Some(chip),
        told => {
            let has_compiler = Command::new("g++").arg("--version").output().is_ok();
            assert!(!has_compiler || !torch.join("include/ATen").exists(), "{told:?}");
            eprintln!("skipped: the test chip wants g++ and torch's headers");
            None
        }
    }
}
