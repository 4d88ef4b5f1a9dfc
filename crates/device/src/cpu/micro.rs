//! The innermost loops of a matrix product: a few rows of packed A times a panel of packed B, held in
//! registers.
//!
//! One generic body per instruction set. `M` rows of C, `V` vectors of columns. A lies packed in one of two
//! ways: as rows `PITCH` apart (`ROWS`), or as columns of `M` values. B lies as panels of `V` vectors per k.
#![allow(unsafe_code)]

use super::kernel::{Kernel, Set};
use super::prefetch::{Ahead, prefetch};

/// The most values of k that are summed before C is touched.
pub(super) const DEPTH: usize = 256;

/// Distance between the rows of a packed A; not a power of two, so that rows do not fight for cache sets.
pub(super) const PITCH: usize = DEPTH + 16;

/// Values of k between two cache lines that are prefetched.
const PACE: usize = 4;

/// One tile of C: `c[i, j] = or += sum over p of a[i, p] b[p, j]`, for `columns` columns.
pub(super) struct Tile {
    pub(super) depth: usize,
    pub(super) a: *const f32,
    pub(super) b: *const f32,
    pub(super) c: *mut f32,
    pub(super) c_pitch: usize,
    pub(super) columns: usize,
    pub(super) add: bool,
}

type Micro = unsafe fn(&Tile, &mut Ahead);

/// The micro-kernels of an instruction set and the sizes they work in.
pub(super) struct Micros {
    /// Columns of one vector.
    pub(super) lanes: usize,
    /// Vectors of a whole panel; panels of one vector are the alternative.
    pub(super) vectors: usize,
    /// The most rows of a tile.
    pub(super) rows: usize,
    /// By layout of A (columns, rows), by panel (one vector, whole), by rows - 1.
    table: [[&'static [Micro]; 2]; 2],
}

impl Micros {
    pub(super) fn of(kernel: Kernel) -> &'static Micros {
        match kernel.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 | Set::Avx512Bf16 | Set::Amx => &AVX512,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => &AVX2,
            #[cfg(target_arch = "aarch64")]
            Set::Neon => &NEON,
            _ => &PORTABLE,
        }
    }

    /// The micro-kernels that take each packed f32 as the bits of a pair of bf16. Only where the processor
    /// has them: see `Kernel::has_bf16_pairs`.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn of_pairs() -> &'static Micros {
        &PAIRS
    }

    /// # Safety
    /// The processor has the instruction set; `a` and `b` are packed for `rows` rows, this panel and this
    /// layout; `c` may be read and written.
    #[inline(always)]
    pub(super) unsafe fn run(
        &self,
        a_as_rows: bool,
        whole_panel: bool,
        rows: usize,
        tile: &Tile,
        ahead: &mut Ahead,
    ) {
        let micro = self.table[usize::from(a_as_rows)][usize::from(whole_panel)][rows - 1];
        // SAFETY: as promised by the caller.
        unsafe { micro(tile, ahead) }
    }
}

macro_rules! micro_kernel {
    (
        $name:ident, $(#[$feature:meta])?, $lanes:literal,
        $zero:expr, $load:expr, $splat:expr, $fma:expr, $plus:expr, $store:expr
    ) => {
        $(#[$feature])?
        unsafe fn $name<const M: usize, const V: usize, const ROWS: bool>(tile: &Tile, ahead: &mut Ahead) {
            let Tile { depth, a, b, c, c_pitch, columns, add } = *tile;
            // SAFETY: A, B and C have the sizes that `Micros::run` was promised.
            unsafe {
                let mut sums = [[$zero; V]; M];
                // C, and what is packed next, are asked for line by line while sums are taken: all at once
                // would keep A and B waiting.
                let mut asked = 0;
                for from in (0..depth).step_by(PACE) {
                    if asked < 2 * M {
                        prefetch(c.wrapping_add(asked / 2 * c_pitch + asked % 2 * (V * $lanes - 1)));
                        asked += 1;
                    } else {
                        ahead.ask::<1>();
                    }
                    for p in from..depth.min(from + PACE) {
                        let mut line = [$zero; V];
                        for v in 0..V {
                            line[v] = $load(b.add((p * V + v) * $lanes));
                        }
                        for i in 0..M {
                            let x = $splat(*a.add(if ROWS { i * PITCH + p } else { p * M + i }));
                            for v in 0..V {
                                sums[i][v] = $fma(x, line[v], sums[i][v]);
                            }
                        }
                    }
                }
                if columns == V * $lanes {
                    for i in 0..M {
                        for v in 0..V {
                            let to = c.add(i * c_pitch + v * $lanes);
                            $store(to, if add { $plus($load(to), sums[i][v]) } else { sums[i][v] });
                        }
                    }
                    return;
                }
                let mut line = [0.0_f32; 64];
                for i in 0..M {
                    for v in 0..V {
                        $store(line.as_mut_ptr().add(v * $lanes), sums[i][v]);
                    }
                    for j in 0..columns {
                        let to = c.add(i * c_pitch + j);
                        *to = if add { *to + line[j] } else { line[j] };
                    }
                }
            }
        }
    };
}

macro_rules! table {
    ($name:ident, $vectors:literal, [$($rows:literal)*]) => {
        [
            [&[$($name::<$rows, 1, false> as Micro),*], &[$($name::<$rows, $vectors, false> as Micro),*]],
            [&[$($name::<$rows, 1, true> as Micro),*], &[$($name::<$rows, $vectors, true> as Micro),*]],
        ]
    };
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
micro_kernel!(
    avx512,
    #[target_feature(enable = "avx512f")],
    16,
    _mm512_setzero_ps(),
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_storeu_ps
);
#[cfg(target_arch = "x86_64")]
static AVX512: Micros =
    Micros { lanes: 16, vectors: 2, rows: 14, table: table!(avx512, 2, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]) };

/// Adds the products of both numbers of each pair to the sum. Products and sums below 2^-126 count as zero.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn add_pairs(x: __m512, line: __m512, sum: __m512) -> __m512 {
    // SAFETY: both are 512 bits, of which any are numbers.
    let [x, line] = [x, line].map(|pairs| unsafe { std::mem::transmute::<__m512, __m512bh>(pairs) });
    _mm512_dpbf16_ps(sum, x, line)
}
#[cfg(target_arch = "x86_64")]
micro_kernel!(
    pairs,
    #[target_feature(enable = "avx512f,avx512bf16")],
    16,
    _mm512_setzero_ps(),
    _mm512_loadu_ps,
    _mm512_set1_ps,
    add_pairs,
    _mm512_add_ps,
    _mm512_storeu_ps
);
#[cfg(target_arch = "x86_64")]
static PAIRS: Micros =
    Micros { lanes: 16, vectors: 2, rows: 14, table: table!(pairs, 2, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]) };

#[cfg(target_arch = "x86_64")]
micro_kernel!(
    avx2,
    #[target_feature(enable = "avx2,fma")],
    8,
    _mm256_setzero_ps(),
    _mm256_loadu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    _mm256_storeu_ps
);
#[cfg(target_arch = "x86_64")]
static AVX2: Micros = Micros { lanes: 8, vectors: 2, rows: 6, table: table!(avx2, 2, [1 2 3 4 5 6]) };

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn neon_fma(x: float32x4_t, y: float32x4_t, sum: float32x4_t) -> float32x4_t {
    // SAFETY: every aarch64 processor has NEON.
    unsafe { vfmaq_f32(sum, x, y) }
}
#[cfg(target_arch = "aarch64")]
micro_kernel!(
    neon,
    #[target_feature(enable = "neon")],
    4,
    vdupq_n_f32(0.0),
    vld1q_f32,
    vdupq_n_f32,
    neon_fma,
    vaddq_f32,
    vst1q_f32
);
#[cfg(target_arch = "aarch64")]
static NEON: Micros = Micros { lanes: 4, vectors: 3, rows: 8, table: table!(neon, 3, [1 2 3 4 5 6 7 8]) };

/// Four floats that any compiler keeps in one register.
type Four = [f32; 4];

#[inline(always)]
fn four(value: f32) -> Four {
    [value; 4]
}
#[inline(always)]
fn load_four(from: *const f32) -> Four {
    // SAFETY: only called by `portable`, with pointers to four readable floats.
    unsafe { from.cast::<Four>().read_unaligned() }
}
#[inline(always)]
fn store_four(to: *mut f32, values: Four) {
    // SAFETY: only called by `portable`, with pointers to four writable floats.
    unsafe { to.cast::<Four>().write_unaligned(values) }
}
#[inline(always)]
fn multiply_add_four(x: Four, y: Four, sum: Four) -> Four {
    std::array::from_fn(|lane| sum[lane] + x[lane] * y[lane])
}
#[inline(always)]
fn add_four(x: Four, y: Four) -> Four {
    std::array::from_fn(|lane| x[lane] + y[lane])
}
micro_kernel!(portable, , 4, four(0.0), load_four, four, multiply_add_four, add_four, store_four);
static PORTABLE: Micros = Micros { lanes: 4, vectors: 2, rows: 4, table: table!(portable, 2, [1 2 3 4]) };
