//! Matrix products on the matrix unit of Intel processors (AMX), which multiplies tiles of bf16 and sums in f32.
//!
//! An f32 is three bf16 (see `thirds`), and of the nine products of two such the six largest count: what is left out is
//! below 2^-26 of a product, less than f32's own rounding. The unit is so much faster than vectors that f32 by six
//! products is, too. Parts and sums below 2^-126 count as zero.
//!
//! Source: Intel, Architecture Instruction Set Extensions Programming Reference, chapter on AMX; G. Henry, P. T. P. Tang,
//! A. Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019.
#![allow(unsafe_code)]

use super::gemm::{Product, Sizes, TILE, Target};
use super::micro::DEPTH;
use super::prefetch::{Ahead, Stretches, prefetch};
use super::scratch::{PACKED_LEN, Packed};
use super::thirds::{Operand, PANEL, SIDE, STEP, TILE_BYTES, panel_bytes, parts};
use crate::precision::Precision;
use std::arch::asm;
use std::arch::x86_64::*;

/// Up to so many rows of A, tiles of 16 rows are too empty. No tile of a higher product is as low.
pub(super) const LOW: usize = 4;
/// Floats of room for a packed panel of B; the sums follow it.
const PANEL_LEN: usize = PANEL * DEPTH * 3 / 2;
const _: () = assert!(PANEL_LEN + TILE * PANEL <= PACKED_LEN && TILE * DEPTH * 3 / 2 <= PACKED_LEN);
/// Steps of k between two visits to the sums, of three parts each: so much of a panel of B stays in the first-level cache.
const STEPS_AT_ONCE: usize = 4;
/// Lines asked for in each step of k, of the next panel of B and of the next A. More would keep the products waiting.
const ASKED_OF_B: usize = 4;
const ASKED_OF_A: usize = 2;

/// Whether this processor has the unit and the system lets this process use it.
pub(super) fn is_usable() -> bool {
    const TILES_AND_BF16: u32 = 1 << 24 | 1 << 22;
    static USABLE: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        let leaf = __cpuid_count(7, 0);
        leaf.edx & TILES_AND_BF16 == TILES_AND_BF16 && is_permitted()
    });
    *USABLE
}

/// Asks the system for the unit's registers, which are too large to be given to every process.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn is_permitted() -> bool {
    unsafe extern "C" {
        fn syscall(number: i64, ...) -> i64;
    }
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    // SAFETY: this call takes two numbers and touches no memory of ours.
    unsafe { syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn is_permitted() -> bool {
    false
}

/// The unit's registers, shaped for whole tiles; given back when dropped, so that switching threads stays cheap.
struct Registers;

/// Eight registers of 16 rows of 64 bytes, as the instruction reads it.
#[repr(C, align(64))]
struct Shape {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static WHOLE_TILES: Shape = Shape {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Registers {
    /// # Safety
    /// The unit is usable.
    unsafe fn new() -> Registers {
        // SAFETY: the shape is a valid one, and the compiler uses none of these registers.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE_TILES, options(nostack, readonly)) };
        Registers
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: the unit is usable, or there would be no `Registers`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// As `gemm::block`, with C's first element given; `next` is what will probably be computed next.
///
/// # Safety
/// The unit is usable; `to` is the corner of an m x n window that is the caller's alone.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
pub(super) unsafe fn block(
    precision: Precision,
    packed: &mut Packed,
    product: &Product<'_>,
    to: *mut f32,
    next: Option<&Product<'_>>,
) {
    let Product { sizes: Sizes { m, n, k }, a, b, target: Target { pitch, add, .. } } = *product;
    assert!(m <= TILE, "a block of {m} rows");
    // SAFETY: as promised by the caller.
    let _registers = unsafe { Registers::new() };
    let (b_room, sums) = packed.b.split_at_mut(PANEL_LEN);
    let pieces = k.div_ceil(DEPTH).max(1);
    let depth = k.div_ceil(pieces).next_multiple_of(STEP).max(STEP);
    for from in (0..k).step_by(depth) {
        let depth = depth.min(k - from);
        Operand::a(a.from(0, from), m, depth).pack(precision, &mut packed.a);
        let (mut next_a, after) = match next {
            _ if from + depth < k => following(product, from + depth),
            Some(next) => following(next, 0),
            None => Default::default(),
        };
        for column in (0..n).step_by(PANEL) {
            let columns = PANEL.min(n - column);
            Operand::b(b.from(from, column), columns, depth).pack(precision, b_room);
            let next_b = match column + PANEL {
                next if next < n => b.from(from, next).stretches(depth, PANEL.min(n - next)),
                _ => after,
            };
            let panels =
                Panels { precision, m, depth, a: packed.a.as_ptr().cast(), b: b_room.as_ptr().cast() };
            // SAFETY: packed just now; the window is the caller's.
            unsafe {
                panels.multiply(sums, &mut Ahead::of([next_b, Stretches::default()]), &mut next_a);
                put(sums, [m, columns], to.add(column), pitch, add || from > 0);
            }
        }
    }
}

/// What of a product will be packed first, from a value of k on: A, and the first panel of B.
fn following(product: &Product<'_>, from: usize) -> (Ahead, Stretches) {
    let Sizes { m, n, k } = product.sizes;
    if m == 0 || n == 0 || from >= k {
        return Default::default();
    }
    let depth = DEPTH.min(k - from);
    let a = product.a.from(0, from).stretches(m, depth);
    (Ahead::of([a, Stretches::default()]), product.b.from(from, 0).stretches(depth, PANEL.min(n)))
}

/// A packed A of `m` rows and a packed panel of B.
#[derive(Clone, Copy)]
struct Panels {
    precision: Precision,
    m: usize,
    depth: usize,
    a: *const u8,
    b: *const u8,
}

impl Panels {
    /// The sums over all values of k, rows of `PANEL`.
    ///
    /// # Safety
    /// Both are packed for these sizes, and the registers are shaped.
    #[inline(always)]
    unsafe fn multiply(self, sums: &mut [f32], next_b: &mut Ahead, next_a: &mut Ahead) {
        let Panels { precision, m, depth, a, b } = self;
        let step_bytes = parts(precision) * 2 * TILE_BYTES;
        let (steps, panel) = (depth.div_ceil(STEP), panel_bytes(precision, depth));
        let at_once = STEPS_AT_ONCE * 3 / parts(precision);
        for first in (0..steps).step_by(at_once) {
            for (row, sums) in (0..m).step_by(PANEL).zip(sums.chunks_exact_mut(PANEL * PANEL)) {
                // SAFETY: each step reads what was packed for it, and the sums are a square.
                unsafe {
                    start(sums.as_ptr(), first > 0);
                    for step in first..steps.min(first + at_once) {
                        let a = a.add(row / PANEL * panel + step * step_bytes);
                        let b = b.add(step * step_bytes);
                        match precision {
                            Precision::F32 if m - row <= SIDE => six_products_of_half(a, b),
                            Precision::F32 => six_products(a, b),
                            Precision::Bf16 => one_product(a, b),
                        }
                        (0..ASKED_OF_B).for_each(|_| next_b.ask::<2>());
                        (0..ASKED_OF_A).for_each(|_| next_a.ask::<2>());
                    }
                    store(sums.as_mut_ptr());
                }
            }
        }
    }
}

/// Puts sums into C or adds them.
///
/// # Safety
/// `c` is the corner of a window of this size that is the caller's alone.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
#[inline]
unsafe fn put(sums: &[f32], [rows, columns]: [usize; 2], c: *mut f32, pitch: usize, add: bool) {
    /// Rows between the one that is written and the one that is asked for.
    const ROWS_AHEAD: usize = 8;
    let used = u32::MAX >> (PANEL - columns);
    let masks = [used as __mmask16, (used >> SIDE) as __mmask16];
    for (row, sums) in sums.chunks_exact(PANEL).take(rows).enumerate() {
        for (half, mask) in masks.into_iter().enumerate() {
            // SAFETY: masked to the window.
            unsafe {
                let to = c.add(row * pitch).wrapping_add(half * SIDE);
                prefetch(to.wrapping_add(ROWS_AHEAD * pitch));
                let mut sum = _mm512_loadu_ps(sums.as_ptr().add(half * SIDE));
                if add {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum);
                }
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

/// Multiplies and adds in registers alone; returns the FLOPs of f32 that this was.
pub(super) fn multiply_add(repeats: usize) -> f64 {
    let ones = [1.0_f32; SIDE * SIDE];
    // SAFETY: asked for only where the unit is usable; the tiles loaded lie in `ones`.
    unsafe {
        let _registers = Registers::new();
        start(ones.as_ptr(), false);
        asm!(
            "tileloadd tmm4, [{from}+{s}*1]",
            "tileloadd tmm5, [{from}+{s}*1]",
            "tileloadd tmm6, [{from}+{s}*1]",
            "tileloadd tmm7, [{from}+{s}*1]",
            from = in(reg) ones.as_ptr(), s = in(reg) 64_usize, options(nostack, readonly)
        );
        for _ in 0..repeats {
            asm!(
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                options(nostack, nomem)
            );
        }
    }
    let products = (4 * repeats * SIDE * SIDE * STEP) as f64;
    2.0 * products / SIX
}

/// Products of bf16 that make one of f32.
const SIX: f64 = 6.0;

/// Emits products of the loaded tiles of A (4, 5) and B (6, 7); each register waits for its last product, so the four
/// take turns.
macro_rules! tiles {
    ($a:ident, $b:ident, $($line:literal),* $(,)?) => {
        asm!($($line),*, a = in(reg) $a, b = in(reg) $b, s = in(reg) 64_usize, options(nostack, readonly))
    };
}

/// high high + high middle + high low + middle high + middle middle + low high.
///
/// Spelled out, as is its half below: one body in loops over the parts was 1 to 4 % slower, in whatever order it loaded.
///
/// # Safety
/// `a` and `b` are at one step of packed panels, three parts each, and the registers are shaped.
#[inline(always)]
unsafe fn six_products(a: *const u8, b: *const u8) {
    // SAFETY: reads six tiles from each.
    unsafe {
        tiles!(
            a,
            b,
            "tileloadd tmm4, [{a}+{s}*1]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a}+{s}*1+1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b}+{s}*1+2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+3072]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b}+{s}*1+4096]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+5120]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a}+{s}*1+2048]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a}+{s}*1+3072]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b}+{s}*1+2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+3072]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a}+{s}*1+4096]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a}+{s}*1+5120]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
        );
    }
}

/// As `six_products`, of the upper tile of A.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn six_products_of_half(a: *const u8, b: *const u8) {
    // SAFETY: reads three tiles of A and six of B.
    unsafe {
        tiles!(
            a,
            b,
            "tileloadd tmm4, [{a}+{s}*1]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm6, [{b}+{s}*1+2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+3072]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm6, [{b}+{s}*1+4096]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+5120]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm4, [{a}+{s}*1+2048]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm6, [{b}+{s}*1+2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+3072]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm4, [{a}+{s}*1+4096]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
        );
    }
}

/// The product of operands that are bf16 already.
///
/// # Safety
/// As for `six_products`, with one part each.
#[inline(always)]
unsafe fn one_product(a: *const u8, b: *const u8) {
    // SAFETY: reads two tiles from each.
    unsafe {
        tiles!(
            a,
            b,
            "tileloadd tmm4, [{a}+{s}*1]",
            "tileloadd tmm6, [{b}+{s}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b}+{s}*1+1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a}+{s}*1+1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
        );
    }
}

/// Loads the sums so far, or begins with zero.
///
/// # Safety
/// `from` is a panel by a panel of sums, and the registers are shaped.
#[inline(always)]
unsafe fn start(from: *const f32, go_on: bool) {
    // SAFETY: as promised by the caller.
    unsafe {
        if go_on {
            asm!(
                "tileloadd tmm0, [{from}+{s}*1]",
                "tileloadd tmm1, [{from}+{s}*1+64]",
                "tileloadd tmm2, [{from}+{s}*1+2048]",
                "tileloadd tmm3, [{from}+{s}*1+2112]",
                from = in(reg) from, s = in(reg) PANEL * 4, options(nostack, readonly)
            );
        } else {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        }
    }
}

/// Stores the sums.
///
/// # Safety
/// As for `start`.
#[inline(always)]
unsafe fn store(to: *mut f32) {
    // SAFETY: as promised by the caller.
    unsafe {
        asm!(
            "tilestored [{to}+{s}*1], tmm0",
            "tilestored [{to}+{s}*1+64], tmm1",
            "tilestored [{to}+{s}*1+2048], tmm2",
            "tilestored [{to}+{s}*1+2112], tmm3",
            to = in(reg) to, s = in(reg) PANEL * 4, options(nostack)
        );
    }
}
