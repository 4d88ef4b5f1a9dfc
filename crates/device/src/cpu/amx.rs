//! Matrix products on the matrix unit of Intel processors (AMX), which multiplies tiles of bf16 and sums in
//! f32.
//!
//! An f32 is three bf16 (see `thirds`), and of the nine products of two such the six largest count: what is
//! left out is below 2^-26 of a product, less than f32's own rounding. The unit is so much faster than
//! vectors that f32 by six products is, too. Parts and sums below 2^-126 count as zero.
//!
//! Source: Intel, Architecture Instruction Set Extensions Programming Reference, chapter on AMX; G. Henry, P.
//! T. P. Tang, A. Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
//! Computations", 2019.
#![allow(unsafe_code)]

use super::amx_tiles::{Registers, one_product, six_products, six_products_of_half, start, store};
use super::kernel::Kernel;
use super::matrix::{Product, Sizes, TILE, Target};
use super::micro::DEPTH;
use super::prefetch::{Ahead, Stretches, prefetch};
use super::scratch::{PACKED_LEN, Packed};
use super::thirds::{Operand, PANEL, SIDE, STEP, TILE_BYTES, panel_bytes, parts};
use crate::precision::Precision;
use std::arch::x86_64::*;

/// Up to this many rows of A, tiles of 16 rows waste most of the unit. No tile of a higher product is as low.
pub(super) const LOW: usize = 4;
/// Floats that are reserved for a packed panel of B; the sums follow it.
const PANEL_LEN: usize = PANEL * DEPTH * 3 / 2;
const _: () = assert!(PANEL_LEN + TILE * PANEL <= PACKED_LEN && TILE * DEPTH * 3 / 2 <= PACKED_LEN);
/// Steps of k between two visits to the sums, of three parts each: as much of a panel of B as the first-level
/// cache holds.
const STEPS_AT_ONCE: usize = 4;
/// Cache lines prefetched in each step of k, of the next panel of B and of the next A. More would delay the
/// products.
const ASKED_OF_B: usize = 4;
const ASKED_OF_A: usize = 2;

/// As `gemm::block`, with C's first element given; `next` is what will probably be computed next.
///
/// # Safety
/// The unit is usable; `to` is the corner of an m x n window that is the caller's alone.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
pub(super) unsafe fn block(
    kernel: Kernel,
    packed: &mut Packed,
    product: &Product<'_>,
    to: *mut f32,
    next: Option<&Product<'_>>,
) {
    let Product { sizes: Sizes { m, n, k }, a, b, target: Target { pitch, add, .. } } = *product;
    assert!(m <= TILE, "a block of {m} rows");
    // bf16 survives being widened and packed as bf16 again.
    let precision = if a.is_bf16() || b.is_bf16() { Precision::Bf16 } else { kernel.1 };
    let Packed { a: room_a, b: room_b, wide: [wide_a, wide_b] } = packed;
    // SAFETY: as promised by the caller.
    let _registers = unsafe { Registers::new() };
    let (b_room, sums) = room_b.split_at_mut(PANEL_LEN);
    let pieces = k.div_ceil(DEPTH).max(1);
    let depth = k.div_ceil(pieces).next_multiple_of(STEP).max(STEP);
    for from in (0..k).step_by(depth) {
        let depth = depth.min(k - from);
        let a = a.from(0, from).widened(kernel, [m, depth], wide_a);
        Operand::a(a, m, depth).pack(precision, room_a);
        let (mut next_a, after) = match next {
            _ if from + depth < k => following(product, from + depth),
            Some(next) => following(next, 0),
            None => Default::default(),
        };
        for column in (0..n).step_by(PANEL) {
            let columns = PANEL.min(n - column);
            let part = b.from(from, column).widened(kernel, [depth, columns], wide_b);
            Operand::b(part, columns, depth).pack(precision, b_room);
            let next_b = match column + PANEL {
                next if next < n => b.from(from, next).stretches(depth, PANEL.min(n - next)),
                _ => after,
            };
            let panels = Panels { precision, m, depth, a: room_a.as_ptr().cast(), b: b_room.as_ptr().cast() };
            // SAFETY: packed just now; the window is the caller's.
            unsafe {
                panels.multiply(sums, &mut Ahead::of([next_b, Stretches::default()]), &mut next_a);
                put(sums, [m, columns], to.add(column), pitch, add || from > 0);
            }
        }
    }
}

/// The memory of a product that will be packed first, from a value of k on: A, and the first panel of B.
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
    /// Rows between the one that is written and the one that is prefetched.
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
