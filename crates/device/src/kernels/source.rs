//! The source of all kernels: the prelude, then the families in one program.
//!
//! One program starts faster than one per family: most of a compilation's time is the compiler's own start
//! and the prelude.

/// Files of `crates/device/kernels`, in the order in which they are compiled.
const FILES: &[(&str, &str)] = &[
    ("prelude.cuh", include_str!("../../kernels/prelude.cuh")),
    ("swiglu.cu", include_str!("../../kernels/swiglu.cu")),
    ("rows.cu", include_str!("../../kernels/rows.cu")),
    ("norm.cu", include_str!("../../kernels/norm.cu")),
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

/// The text that is compiled: for NVIDIA and AMD at run time, for the host by a C++ compiler that finds
/// `stand_in.hpp`.
pub fn source() -> String {
    FILES.iter().map(|(name, text)| format!("#line 1 \"{name}\"\n{text}\n")).collect()
}

/// The names of all kernels, in the order of the source.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let families = FILES.iter().skip(1);
    families.flat_map(|(_, text)| text.lines().filter_map(|line| line.strip_prefix("KERNEL("))).filter_map(
        |rest| {
            let (name, _) = rest.split_once(',')?;
            Some(name.trim())
        },
    )
}
