//! The source of all kernels, and the units that it is compiled in.
//!
//! Units are compiled at the same time, and each is kept by itself, so that a change of one family compiles
//! that family alone.

/// A piece of source with its name.
type File = (&'static str, &'static str);

/// Files of `crates/device/kernels`; each may use those before it.
const FILES: &[File] = &[
    ("prelude.cuh", include_str!("../../kernels/prelude.cuh")),
    ("swiglu.cu", include_str!("../../kernels/swiglu.cu")),
    ("rows.cu", include_str!("../../kernels/rows.cu")),
    ("norm.cuh", include_str!("../../kernels/norm.cuh")),
    ("norm.cu", include_str!("../../kernels/norm.cu")),
    ("norm_wide.cu", include_str!("../../kernels/norm_wide.cu")),
    ("rope.cu", include_str!("../../kernels/rope.cu")),
    ("elementwise.cu", include_str!("../../kernels/elementwise.cu")),
    ("sums.cu", include_str!("../../kernels/sums.cu")),
    ("adamw.cu", include_str!("../../kernels/adamw.cu")),
    ("route.cu", include_str!("../../kernels/route.cu")),
    ("route_grad.cu", include_str!("../../kernels/route_grad.cu")),
    ("sort_by_expert.cu", include_str!("../../kernels/sort_by_expert.cu")),
    ("cross_entropy.cu", include_str!("../../kernels/cross_entropy.cu")),
    ("embedding.cu", include_str!("../../kernels/embedding.cu")),
    ("norm_head.cu", include_str!("../../kernels/norm_head.cu")),
    ("balance_bias.cu", include_str!("../../kernels/balance_bias.cu")),
];

/// The files that units are made of, behind the prelude; every other file is a unit of its own.
const UNITS: &[&[&str]] =
    &[&["norm.cuh", "norm.cu"], &["norm.cuh", "norm_wide.cu"], &["route.cu", "route_grad.cu"]];

/// What is compiled at once: a text, and the names of the kernels in it.
pub(super) struct Unit {
    pub(super) text: String,
    pub(super) names: Vec<&'static str>,
}

/// All units; each kernel is in one of them.
pub(super) fn units() -> Vec<Unit> {
    let (prelude, rest) = (&FILES[..1], &FILES[1..]);
    let is_alone = |(name, _): &&File| !UNITS.iter().any(|unit| unit.contains(name));
    let alone = rest.iter().filter(is_alone).map(|file| vec![*file]);
    let of = |names: &&[&str]| -> Vec<File> {
        rest.iter().filter(|(name, _)| names.contains(name)).copied().collect()
    };
    let units = UNITS.iter().map(of).chain(alone);
    let unit = |files: Vec<File>| Unit { text: text(&[prelude, &files].concat()), names: names(&files) };
    units.map(unit).collect()
}

/// The text of all kernels in one: a C++ compiler makes a library for the host of it, with `stand_in.hpp`
/// among its headers.
pub fn source() -> String {
    text(FILES)
}

fn text(files: &[File]) -> String {
    files.iter().map(|(name, text)| format!("#line 1 \"{name}\"\n{text}\n")).collect()
}

/// The names of the kernels of some files.
fn names(files: &[File]) -> Vec<&'static str> {
    let lines = files.iter().flat_map(|(_, text)| text.lines());
    let kernels = lines.filter_map(|line| line.strip_prefix("KERNEL(")?.split_once(','));
    kernels.map(|(name, _)| name.trim()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_in_one_unit() {
        let mut in_units: Vec<&str> = units().into_iter().flat_map(|unit| unit.names).collect();
        let mut all = names(FILES);
        in_units.sort_unstable();
        all.sort_unstable();
        assert!(all.len() > 40, "{all:?}");
        assert_eq!(in_units, all);
    }
}
