//! Every call of the torch backend, checked against the library of a maker whose chip is not here.
//!
//! `LINGOT_MAKER` names the library, `LINGOT_TORCH` the torch that it was built for:
//!
//!     LINGOT_MAKER=.../torch_npu/lib/libtorch_npu.so cargo test -p lingot-device maker -- --nocapture
//!
//! It opens over empty stand-ins for its driver, and says which operators it registers. Two lists are checked
//! by that: the table of calls, for its schemas; and, for kernels, the operators that reached the test chip
//! while every op ran on it composed. An operator that torch composes of others needs those others' kernels,
//! unless the maker has one for the whole.

use crate::chip::apart;
use lingot_device::torch::{Call, Options, Torch, calls};
use lingot_device::{Device, Precision, conformance};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[path = "../maker/stand_ins.rs"]
mod stand_ins;

/// What the maker's library says of one operator.
#[derive(Clone, Debug, PartialEq)]
struct Registered {
    /// `kernel`, `composed` or `none`.
    source: String,
    /// Types of the arguments, in order.
    arguments: Vec<String>,
    /// How many of the last arguments may be left out, as zeros of 64 bits.
    may_be_left_out: usize,
    results: usize,
}

/// An operator that reached the chip when another, or itself, was called.
struct Reached {
    by: String,
    name: String,
}

type Library = BTreeMap<String, Registered>;

#[test]
fn every_call_is_one_that_the_makers_library_answers() {
    let test = "maker::every_call_is_one_that_the_makers_library_answers";
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reached-the-chip");
    let Some(maker) = std::env::var_os("LINGOT_MAKER").map(PathBuf::from) else {
        return eprintln!("skipped: LINGOT_MAKER names no library of a maker's");
    };
    let _ = std::fs::remove_file(&log);
    let mut ran = false;
    apart::run(test, &[("CHIP_LOG", log.to_str().unwrap())], || {
        run_composed();
        ran = true;
    });
    if ran || !log.exists() {
        return;
    }
    let text = std::fs::read_to_string(&log).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let reached: Vec<Reached> =
        pairs.map(|(by, name)| Reached { by: by.into(), name: name.into() }).collect();
    let calls = calls();
    let names = calls.iter().map(|call| call.operator.as_str());
    let names = names.chain(reached.iter().flat_map(|call| [call.by.as_str(), call.name.as_str()]));
    let library = ask(&maker, names);
    let faults = faults(&calls, &reached, &library);
    assert!(faults.is_empty(), "{faults:#?}");
    let lacks = calls.iter().filter(|call| library[&call.operator].source == "none");
    let lacks: Vec<&str> = lacks.map(|call| call.operator.as_str()).collect();
    eprintln!("{} calls, and {} ways by which they reach a chip, are answered", calls.len(), reached.len());
    eprintln!("composed there, for want of {}", lacks.join(", "));
    planted(&calls, &reached, &library);
}

/// Runs every op on the test chip by the operators that a chip must have.
fn run_composed() {
    for precision in [Precision::F32, Precision::Bf16] {
        let options = Options { precision, composed_only: true, ..Options::default() };
        let device = Device::new(Torch::open("torch:testchip:1", options).unwrap());
        let verdicts = conformance::check_in(&device, precision, &mut |_, _| ()).unwrap();
        assert!(verdicts.iter().all(|verdict| verdict.passed));
    }
}

/// What does not fit together, one line each.
fn faults(calls: &[Call], reached: &[Reached], library: &Library) -> Vec<String> {
    let mut faults: Vec<String> = calls.iter().filter_map(|call| fault(call, library)).collect();
    let has = |name: &String| library.get(name).is_some_and(|found| found.source == "kernel");
    let lacking = reached.iter().filter(|call| !has(&call.name) && !has(&call.by));
    faults.extend(lacking.map(|call| match call.by == call.name {
        true => format!("{}: no kernel", call.name),
        false => format!("{}: no kernel, and {} is composed of it", call.name, call.by),
    }));
    faults.sort();
    faults.dedup();
    faults
}

fn fault(call: &Call, library: &Library) -> Option<String> {
    let name = &call.operator;
    let Some(found) = library.get(name) else { return Some(format!("{name}: no such operator")) };
    let given = &call.arguments;
    let fits = found.arguments.starts_with(given);
    let rest = found.arguments.len().saturating_sub(given.len());
    if !fits || rest > found.may_be_left_out {
        return Some(format!("{name}: called with {given:?}, but it takes {:?}", found.arguments));
    }
    if call.results > found.results {
        return Some(format!("{name}: {} results are taken of {}", call.results, found.results));
    }
    let lacks = found.source == "none" && !call.may_lack;
    lacks.then(|| format!("{name}: no kernel"))
}

/// Three slips, each of which is found by the operator's name.
fn planted(calls: &[Call], reached: &[Reached], library: &Library) {
    let with = |change: fn(&mut Call)| {
        let mut calls = calls.to_vec();
        change(calls.iter_mut().find(|call| call.operator == "aten::mm.out").unwrap());
        faults(&calls, reached, library)
    };
    let renamed = with(|call| call.operator = "aten::mm.onto".into());
    assert_eq!(renamed, ["aten::mm.onto: no such operator"]);
    let longer = with(|call| call.arguments.push("float".into()));
    assert!(longer.len() == 1 && longer[0].starts_with("aten::mm.out: called with"), "{longer:?}");
    let mut without = library.clone();
    without.get_mut("aten::mm.out").unwrap().source = "none".into();
    let lacking = faults(calls, reached, &without);
    assert!(
        !lacking.is_empty() && lacking.iter().all(|line| line == "aten::mm.out: no kernel"),
        "{lacking:?}"
    );
}

/// Asks the maker's library for operators, in a process of its own.
fn ask<'a>(maker: &Path, names: impl Iterator<Item = &'a str>) -> Library {
    let torch = Torch::found().unwrap().0;
    let torch = torch.parent().unwrap().parent().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("maker");
    let symbols = stand_ins::make(maker, torch, &folder);
    eprintln!("{symbols} symbols of the maker's driver are stood in for");
    let program = folder.join("operators");
    build(torch, &program);
    let places = [folder.as_path(), maker.parent().unwrap(), &torch.join("lib")];
    let places = std::env::join_paths(places.into_iter().map(Path::to_owned).chain(beside(torch))).unwrap();
    let mut child = Command::new(&program);
    let child = child.arg(maker).env("LD_LIBRARY_PATH", places).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let asked: String = names.map(|name| format!("{name}\n")).collect();
    child.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
    let answer = child.wait_with_output().unwrap();
    assert!(answer.status.success(), "{}: {answer:?}", maker.display());
    let text = String::from_utf8(answer.stdout).unwrap();
    text.lines().filter_map(registered).collect()
}

/// Folders of libraries that pip installs beside torch, and that torch links.
fn beside(torch: &Path) -> Vec<PathBuf> {
    let makers = torch.parent().unwrap().join("nvidia");
    let folders = std::fs::read_dir(makers).into_iter().flatten().flatten();
    folders.map(|entry| entry.path().join("lib")).filter(|path| path.exists()).collect()
}

fn build(torch: &Path, program: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/maker/operators.cpp");
    let (include, lib) = (torch.join("include"), torch.join("lib"));
    let arguments = [
        "-std=c++20".into(),
        "-O0".into(),
        "-w".into(),
        format!("-I{}", include.display()),
        source.display().to_string(),
        "-o".into(),
        program.display().to_string(),
        format!("-L{}", lib.display()),
        "-Wl,--unresolved-symbols=ignore-in-shared-libs".into(),
        "-ltorch_cpu".into(),
        "-lc10".into(),
        "-ldl".into(),
    ];
    stand_ins::said("g++", arguments);
}

/// One line of the answer. None if the operator is unknown.
fn registered(line: &str) -> Option<(String, Registered)> {
    let mut parts = line.split('\t');
    let (name, source, schema) = (parts.next()?, parts.next()?, parts.next()?);
    let (inside, results) = schema.split_once('(')?.1.rsplit_once(" -> ")?;
    let inside = inside.strip_suffix(')')?;
    let arguments: Vec<&str> = pieces(inside).into_iter().filter(|piece| *piece != "*").collect();
    let left_out = arguments.iter().rev().take_while(|argument| is_zero(argument)).count();
    let results = results.trim();
    let results = results.strip_prefix('(').and_then(|text| text.strip_suffix(')')).unwrap_or(results);
    let found = Registered {
        source: source.into(),
        arguments: arguments.iter().map(|argument| plain_type(argument)).collect(),
        may_be_left_out: left_out,
        results: pieces(results).len(),
    };
    Some((name.into(), found))
}

/// Parts between commas that stand in no brackets.
fn pieces(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let mut pieces = vec![];
    let mut first = 0;
    for (at, letter) in text.char_indices() {
        match letter {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                pieces.push(text[first..at].trim());
                first = at + 1;
            }
            _ => (),
        }
    }
    pieces.push(text[first..].trim());
    pieces.into_iter().filter(|piece| !piece.is_empty()).collect()
}

/// Whether a default is what a slot of zeros means.
fn is_zero(argument: &str) -> bool {
    let default = argument.rsplit_once('=').map(|(_, default)| default);
    default.is_some_and(|default| ["None", "0", "0.", "False"].contains(&default))
}

/// `Tensor(a!)[] x` is `Tensor[]`, `SymInt[2]? y=None` is `int[]?`.
fn plain_type(argument: &str) -> String {
    let written = argument.split(' ').next().unwrap_or_default();
    let mut plain = String::new();
    let mut inside = false;
    for letter in written.chars() {
        match letter {
            '(' => inside = true,
            ')' => inside = false,
            _ if inside || letter.is_ascii_digit() => (),
            _ => plain.push(letter),
        }
    }
    plain.replace("SymInt", "int")
}

#[test]
fn schemas_are_read_as_torch_writes_them() {
    let line = "aten::sum.IntList_out\tcomposed\taten::sum.IntList_out(Tensor self, int[1]? dim, \
                bool keepdim=False, *, ScalarType? dtype=None, Tensor(a!) out) -> Tensor(a!)";
    let (name, found) = registered(line).unwrap();
    assert_eq!(name, "aten::sum.IntList_out");
    assert_eq!(found.arguments, ["Tensor", "int[]?", "bool", "ScalarType?", "Tensor"]);
    assert_eq!((found.may_be_left_out, found.results, found.source.as_str()), (0, 1, "composed"));
    let line =
        "npu::two\tkernel\tnpu::two(Tensor[] x, SymInt[] s, int mode=0, float? t=None) -> (Tensor, Tensor)";
    let (_, found) = registered(line).unwrap();
    assert_eq!(found.arguments, ["Tensor[]", "int[]", "int", "float?"]);
    assert_eq!((found.may_be_left_out, found.results), (2, 2));
    assert_eq!(registered("aten::none\tunknown"), None);
    let nothing = registered("aten::f\tnone\taten::f(Tensor(a!) x) -> ()").unwrap().1;
    assert_eq!(nothing.results, 0);
}
