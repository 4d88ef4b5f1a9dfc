//! Copies blocks of A and B into the order in which the micro-kernels read them.
#![allow(unsafe_code)]

use super::kernel::{Kernel, Set, wide};
use super::matrix::Matrix;
use super::micro::{Micros, PITCH};
use super::prefetch::{LINE, prefetch};

/// Rows between the one that is copied and the one that is prefetched.
const ROWS_AHEAD: usize = 8;

/// How a block is cut for the micro-kernels.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) micros: &'static Micros,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) depth: usize,
}

impl Layout {
    /// Whether A is packed as rows. Where it is stored by columns, copying pieces of columns pays for tall
    /// tiles only; low ones have too many, and A is transposed.
    pub(super) fn a_as_rows(self, column_pitch: usize) -> bool {
        column_pitch == 1 || self.micros.rows <= 8
    }

    /// Row tiles, of nearly equal height: their first rows and heights.
    #[inline(always)]
    pub(super) fn row_tiles(self) -> impl Iterator<Item = (usize, usize)> + Clone {
        let count = self.m.div_ceil(self.micros.rows).max(1);
        let (height, extra) = (self.m / count, self.m % count);
        (0..count).map(move |index| (index * height + index.min(extra), height + usize::from(index < extra)))
    }

    /// Panels of columns: their first columns, columns in use, and vectors.
    pub(super) fn panels(self) -> impl Iterator<Item = (usize, usize, usize)> {
        let Micros { lanes, vectors, .. } = *self.micros;
        (0..self.n).step_by(lanes * vectors).map(move |first| {
            let columns = (lanes * vectors).min(self.n - first);
            (first, columns, if columns <= lanes { 1 } else { vectors })
        })
    }
}

/// Packs m x depth of A, as rows `PITCH` apart or as columns of each row tile: see `Layout::a_as_rows`.
pub(super) fn pack_a(kernel: Kernel, a: Matrix<'_>, layout: Layout, to: &mut [f32]) {
    let Layout { m, depth, .. } = layout;
    a.corner(m, depth);
    if a.column_pitch == 1 {
        return stack(kernel, a, layout, to);
    }
    if layout.a_as_rows(a.column_pitch) {
        // Each stored line is a column of A: the other way round from B's, and the same code.
        transpose(kernel, a, depth, m, PITCH, to);
    } else {
        spread(kernel, a, layout, to);
    }
}

wide! {
    /// Copies rows of A.
    fn stack(a: Matrix<'_>, layout: Layout, to: &mut [f32]) {
        for (row, to) in to.chunks_exact_mut(PITCH).take(layout.m).enumerate() {
            let from = &a.values[row * a.row_pitch..][..layout.depth];
            let ahead = from.as_ptr().wrapping_add(ROWS_AHEAD * a.row_pitch);
            copy_ahead(from, &mut to[..layout.depth], ahead);
        }
    }
}

/// Copies a row, and prefetches the cache lines of another one.
#[inline(always)]
fn copy_ahead(from: &[f32], to: &mut [f32], ahead: *const f32) {
    let (lines, rest) = from.as_chunks::<LINE>();
    for (line, (from, to)) in lines.iter().zip(to.chunks_exact_mut(LINE)).enumerate() {
        prefetch(ahead.wrapping_add(line * LINE));
        to.copy_from_slice(from);
    }
    let whole = lines.len() * LINE;
    to[whole..].copy_from_slice(rest);
}

wide! {
    /// Copies columns of A, a piece to each row tile. Copies of a fixed width are fast, so each copies a
    /// whole line; the surplus is overwritten by the next column.
    fn spread(a: Matrix<'_>, layout: Layout, to: &mut [f32]) {
        let depth = layout.depth;
        let tiles = layout.row_tiles();
        for p in 0..depth {
            let column = &a.values[p * a.column_pitch..];
            let ahead = column.as_ptr().wrapping_add(ROWS_AHEAD * a.column_pitch);
            for (first, rows) in tiles.clone() {
                let (from, to) = (&column[first..], &mut to[first * depth + p * rows..]);
                prefetch(ahead.wrapping_add(first));
                if (depth - 1 - p) * rows + rows >= LINE && from.len() >= LINE {
                    to[..LINE].copy_from_slice(&from[..LINE]);
                } else {
                    to[..rows].copy_from_slice(&from[..rows]);
                }
            }
        }
    }
}

/// Packs depth x n of B as panels of whole vectors, filled up with zeros.
pub(super) fn pack_b(kernel: Kernel, b: Matrix<'_>, layout: Layout, to: &mut [f32]) {
    let Layout { n, depth, micros, .. } = layout;
    b.corner(depth, n);
    for (first, columns, vectors) in layout.panels() {
        let width = vectors * micros.lanes;
        let panel = &mut to[first * depth..][..depth * width];
        let stored = Matrix { values: &b.values[first * b.column_pitch..], ..b };
        if b.column_pitch > 1 || b.row_pitch == 1 {
            transpose(kernel, stored, columns, depth, width, panel);
        } else {
            match if columns == width { width } else { 0 } {
                32 => lines::<32>(kernel, stored, panel),
                16 => lines::<16>(kernel, stored, panel),
                12 => lines::<12>(kernel, stored, panel),
                8 => lines::<8>(kernel, stored, panel),
                _ => {
                    for (p, line) in panel.chunks_exact_mut(width).enumerate() {
                        line[..columns].copy_from_slice(&stored.values[p * b.row_pitch..][..columns]);
                    }
                }
            }
        }
        if columns < width {
            panel.chunks_exact_mut(width).for_each(|line| line[columns..].fill(0.0));
        }
    }
}

wide! {
    /// Copies rows of B, of exactly the panel's width.
    fn lines[const W](b: Matrix<'_>, panel: &mut [f32]) {
        for (p, line) in panel.chunks_exact_mut(W).enumerate() {
            let from = &b.values[p * b.row_pitch..][..W];
            let ahead = from.as_ptr().wrapping_add(2 * ROWS_AHEAD * b.row_pitch);
            prefetch(ahead);
            prefetch(ahead.wrapping_add(W - 1));
            line.copy_from_slice(from);
        }
    }
}

/// `panel[p * width + j] = b[p, j]` for `columns` columns that are stored `column_pitch` apart.
fn transpose(kernel: Kernel, b: Matrix<'_>, columns: usize, depth: usize, width: usize, panel: &mut [f32]) {
    let (mut whole_columns, mut whole_depth) = (0, 0);
    #[cfg(target_arch = "x86_64")]
    if matches!(kernel.0, Set::Avx2 | Set::Avx512 | Set::Avx512Bf16 | Set::Amx) {
        whole_columns = columns - columns % 8;
        whole_depth = depth - depth % 8;
        let from = b.corner(depth, columns);
        assert!(panel.len() >= depth * width && columns <= width, "a panel of {}", panel.len());
        for j in (0..whole_columns).step_by(8) {
            for p in (0..whole_depth).step_by(8) {
                if p % LINE == 0 {
                    for row in 8..16 {
                        prefetch(from.wrapping_add((j + row) * b.column_pitch + p));
                    }
                }
                // SAFETY: the processor has AVX; both 8 x 8 squares lie inside, as just checked.
                unsafe {
                    transpose_8x8(
                        from.add(j * b.column_pitch + p),
                        b.column_pitch * size_of::<f32>(),
                        panel.as_mut_ptr().add(p * width + j),
                        width,
                    );
                }
            }
        }
    }
    let _ = (kernel, Set::Portable);
    for j in 0..columns {
        let from = if j < whole_columns { whole_depth } else { 0 };
        let stored = &b.values[j * b.column_pitch..][..depth];
        for p in from..depth {
            panel[p * width + j] = stored[p];
        }
    }
}

/// # Safety
/// The processor has AVX; `from` and `to` are corners of 8 x 8 floats, of any alignment, rows the given
/// pitches apart.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[inline]
pub(super) unsafe fn transpose_8x8(from: *const f32, from_pitch_bytes: usize, to: *mut f32, to_pitch: usize) {
    use std::arch::x86_64::*;
    // SAFETY: as promised by the caller.
    unsafe {
        let r: [__m256; 8] =
            std::array::from_fn(|row| _mm256_loadu_ps(from.byte_add(row * from_pitch_bytes)));
        let pair = |i: usize, j: usize| (_mm256_unpacklo_ps(r[i], r[j]), _mm256_unpackhi_ps(r[i], r[j]));
        let (p0, p1) = pair(0, 1);
        let (p2, p3) = pair(2, 3);
        let (p4, p5) = pair(4, 5);
        let (p6, p7) = pair(6, 7);
        let q = [
            _mm256_shuffle_ps::<0x44>(p0, p2),
            _mm256_shuffle_ps::<0xee>(p0, p2),
            _mm256_shuffle_ps::<0x44>(p1, p3),
            _mm256_shuffle_ps::<0xee>(p1, p3),
            _mm256_shuffle_ps::<0x44>(p4, p6),
            _mm256_shuffle_ps::<0xee>(p4, p6),
            _mm256_shuffle_ps::<0x44>(p5, p7),
            _mm256_shuffle_ps::<0xee>(p5, p7),
        ];
        for half in 0..4 {
            let low = _mm256_permute2f128_ps::<0x20>(q[half], q[half + 4]);
            let high = _mm256_permute2f128_ps::<0x31>(q[half], q[half + 4]);
            _mm256_storeu_ps(to.add(half * to_pitch), low);
            _mm256_storeu_ps(to.add((half + 4) * to_pitch), high);
        }
    }
}
