//! Empty stand-ins for the libraries that a maker's torch library links and this machine lacks: its driver,
//! its compiler, Python. With them the library can be opened and asked for its operators; nothing computes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a program says on standard output. Panics with its words if it fails.
pub(crate) fn said(program: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names of a library's dynamic symbols that it defines, or that it asks others for.
fn symbols(library: &Path, which: &str) -> BTreeSet<String> {
    let table = said("nm", [OsStr::new("--dynamic"), OsStr::new(which), library.as_os_str()]);
    let strong = table.lines().filter(|line| !line.contains(" w "));
    let names = strong.filter_map(|line| line.split_whitespace().last());
    names.filter_map(|name| name.split('@').next()).map(str::to_owned).collect()
}

/// Files that a library links, by name.
fn linked(library: &Path) -> BTreeSet<String> {
    let dynamic = said("readelf", [OsStr::new("--dynamic"), library.as_os_str()]);
    let needed = dynamic.lines().filter(|line| line.contains("(NEEDED)"));
    needed.filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned())).collect()
}

/// The C++ and C libraries of this machine, as the compiler finds them.
fn of_the_system() -> Vec<PathBuf> {
    let files = ["libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"];
    let found = files.map(|file| PathBuf::from(said("g++", [format!("-print-file-name={file}")]).trim()));
    found.into_iter().filter(|path| path.is_absolute()).collect()
}

/// Makes the stand-ins in `folder`, for `maker` and the libraries beside it that it links. Returns how many
/// symbols they hold.
pub(crate) fn make(maker: &Path, torch: &Path, folder: &Path) -> usize {
    let beside = maker.parent().unwrap();
    let mut of_maker = vec![maker.to_owned()];
    let mut next = 0;
    while next < of_maker.len() {
        let more = linked(&of_maker[next]).into_iter().map(|file| beside.join(file));
        let more: Vec<PathBuf> = more.filter(|path| path.exists() && !of_maker.contains(path)).collect();
        of_maker.extend(more);
        next += 1;
    }
    let of_torch = ["libtorch_cpu.so", "libc10.so"].map(|file| torch.join("lib").join(file));
    let there: Vec<PathBuf> = of_maker.iter().cloned().chain(of_torch).chain(of_the_system()).collect();
    let defined: BTreeSet<String> = there.iter().flat_map(|path| symbols(path, "--defined-only")).collect();
    let wanted = of_maker.iter().flat_map(|path| symbols(path, "--undefined-only"));
    let missing: BTreeSet<String> = wanted.filter(|name| !defined.contains(name)).collect();
    let names = there.iter().filter_map(|path| path.file_name()?.to_str());
    let names: BTreeSet<&str> = names.chain(["libdl.so.2", "libpthread.so.0", "librt.so.1"]).collect();
    let files = of_maker.iter().flat_map(|path| linked(path));
    let files: BTreeSet<String> = files.filter(|file| !names.contains(file.as_str())).collect();
    std::fs::create_dir_all(folder).unwrap();
    for (index, file) in files.iter().enumerate() {
        // All symbols stand in the first; the loader searches every library for them.
        let source = folder.join(format!("{file}.c"));
        let held = if index == 0 { definitions(&missing) } else { String::new() };
        std::fs::write(&source, held).unwrap();
        let (out, named) = (folder.join(file), format!("-Wl,-soname,{file}"));
        let flags = ["-shared", "-fPIC", "-w", "-fno-builtin", &named, "-o"].map(OsStr::new);
        said("gcc", flags.into_iter().chain([out.as_os_str(), source.as_os_str()]));
    }
    missing.len()
}

/// A function that returns 0 for each symbol, or zeros for one that its name calls data.
fn definitions(names: &BTreeSet<String>) -> String {
    let mut source = String::new();
    let plain = |name: &&String| name.chars().all(|letter| letter == '_' || letter.is_ascii_alphanumeric());
    for name in names.iter().filter(plain) {
        let is_data = ["_ZTI", "_ZTV", "_ZTS", "PyExc_", "_Py_"].iter().any(|first| name.starts_with(first));
        let line = if is_data || name.ends_with("_Type") {
            format!("long {name}[64];")
        } else {
            format!("long {name}(void) {{ return 0; }}")
        };
        writeln!(source, "{line}").unwrap();
    }
    source
}
