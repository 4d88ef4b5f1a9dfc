//! Products of bf16 on vectors: each step of k takes a pair of values, whose two products are added to one
//! sum in f32.
//!
//! Packed as pairs, bf16 matrices of k values lie as f32 matrices of k / 2 do, and the same blocks, tiles and
//! loops serve both. A value left without a neighbour is paired with zero. f32 factors are rounded to bf16 as
//! they are packed. Source: Intel, Architecture Instruction Set Extensions Programming Reference, VDPBF16PS.
#![allow(unsafe_code)]

use super::gemm::{Packs, ahead, sweep};
use super::kernel::{Kernel, wide};
use super::matrix::{Factor, Matrix, Product, Sizes, TILE};
use super::micro::{DEPTH, Micros, PITCH};
use super::operands::Number;
use super::pack::{Layout, transpose_8x8};
use super::prefetch::{Ahead, LINE, prefetch};
use super::scratch::Packed;
use crate::bf16::Bf16;

/// As `gemm::block`, with C's first element given.
///
/// # Safety
/// The kernel has bf16 pairs; `to` is the corner of an m x n window that is the caller's alone.
pub(super) unsafe fn block(
    kernel: Kernel,
    packed: &mut Packed,
    product: &Product<'_>,
    to: *mut f32,
    next: Option<&Product<'_>>,
) {
    let Product { sizes: Sizes { m, n, k }, a, b, target } = *product;
    let pairs = k.div_ceil(2);
    let pieces = pairs.div_ceil(DEPTH).max(1);
    let depth = pairs.div_ceil(pieces);
    for from in (0..pairs).step_by(depth.max(1)) {
        let depth = depth.min(pairs - from);
        let layout = Layout { micros: Micros::of_pairs(), m, n, depth };
        let values = (2 * depth).min(k - 2 * from);
        match b.from(2 * from, 0) {
            Factor::F32(b) | Factor::AsBf16(b) => pack_b(kernel, b, layout, values, &mut packed.b),
            Factor::Bf16(b) => pack_b(kernel, b, layout, values, &mut packed.b),
        }
        let a_as_rows = match a.from(0, 2 * from) {
            Factor::F32(a) | Factor::AsBf16(a) => pack_a(kernel, a, layout, values, &mut packed.a),
            Factor::Bf16(a) => pack_a(kernel, a, layout, values, &mut packed.a),
        };
        let packs = Packs { a: packed.a.as_ptr(), a_as_rows, b: packed.b.as_ptr() };
        let add = target.add || from > 0;
        let mut ahead = match next {
            _ if from + depth < pairs => ahead(product, 2 * (from + depth), 2 * depth),
            Some(next) => ahead(next, 0, 2 * DEPTH),
            None => Ahead::default(),
        };
        // SAFETY: packed as the layout says, and `to` is the corner of the caller's window.
        unsafe { sweep(layout, packs, to, target.pitch, add, &mut ahead) };
    }
}

/// Packs m x `values` of A as rows of pairs, `PITCH` apart, or as columns of each row tile; returns whether
/// as rows.
fn pack_a<E: Number>(
    kernel: Kernel,
    a: Matrix<'_, E>,
    layout: Layout,
    values: usize,
    to: &mut [f32],
) -> bool {
    a.corner(layout.m, values);
    let as_rows = a.column_pitch == 1;
    if as_rows {
        stack(kernel, a, layout, values, bytemuck::cast_slice_mut(to));
    } else {
        spread(kernel, a, layout, values, to);
    }
    as_rows
}

wide! {
    /// Copies rows of A: their pairs are neighbours already.
    fn stack<E: Number>(a: Matrix<'_, E>, layout: Layout, values: usize, to: &mut [Bf16]) {
        for (row, to) in to.chunks_exact_mut(2 * PITCH).take(layout.m).enumerate() {
            let from = &a.values[row * a.row_pitch..][..values];
            prefetch(from.as_ptr().wrapping_add(8 * a.row_pitch));
            to[..values].iter_mut().zip(from).for_each(|(to, x)| *to = x.half());
            to[values..2 * layout.depth].fill(Bf16::default());
        }
    }
}

wide! {
    /// Pairs two columns of A at a time and copies a piece to each row tile. Copies of a fixed width are
    /// fast, so each copies a whole line; the surplus is overwritten by the next column.
    fn spread<E: Number>(a: Matrix<'_, E>, layout: Layout, values: usize, to: &mut [f32]) {
        let (m, depth) = (layout.m, layout.depth);
        let tiles = layout.row_tiles();
        let mut column = [0.0_f32; TILE + LINE];
        for p in 0..depth {
            pair_lines(a.values, a.column_pitch, [2 * p, values], &mut column[..m]);
            for (first, rows) in tiles.clone() {
                let (from, to) = (&column[first..], &mut to[first * depth + p * rows..]);
                if (depth - 1 - p) * rows + rows >= LINE {
                    to[..LINE].copy_from_slice(&from[..LINE]);
                } else {
                    to[..rows].copy_from_slice(&from[..rows]);
                }
            }
        }
    }
}

/// Pairs the numbers of stored line `line` with those of the next, or with zero where `line` is the last of
/// `lines`.
#[inline(always)]
fn pair_lines<E: Number>(values: &[E], pitch: usize, [line, lines]: [usize; 2], to: &mut [f32]) {
    let low = &values[line * pitch..][..to.len()];
    prefetch(low.as_ptr().wrapping_add(8 * pitch));
    if line + 1 == lines {
        to.iter_mut().zip(low).for_each(|(to, low)| *to = pair(low.half(), Bf16::default()));
        return;
    }
    let high = &values[(line + 1) * pitch..][..to.len()];
    prefetch(high.as_ptr().wrapping_add(8 * pitch));
    for ((to, low), high) in to.iter_mut().zip(low).zip(high) {
        *to = pair(low.half(), high.half());
    }
}

/// The bits of both, the first in the lower half.
#[inline(always)]
fn pair(low: Bf16, high: Bf16) -> f32 {
    f32::from_bits(u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16)
}

/// Packs `values` x n of B as panels of whole vectors of pairs, filled up with zeros.
fn pack_b<E: Number>(kernel: Kernel, b: Matrix<'_, E>, layout: Layout, values: usize, to: &mut [f32]) {
    b.corner(values, layout.n);
    for (first, columns, vectors) in layout.panels() {
        let width = vectors * layout.micros.lanes;
        let panel = &mut to[first * layout.depth..][..layout.depth * width];
        let stored = Matrix { values: &b.values[first * b.column_pitch..], ..b };
        if b.row_pitch == 1 && (b.column_pitch > 1 || columns == 1) {
            columns_of_pairs(kernel, stored, [columns, width], values, panel);
        } else {
            lines_of_pairs(kernel, stored, [columns, width], values, panel);
        }
    }
}

wide! {
    /// Pairs rows of B that are stored one after the other.
    fn lines_of_pairs<E: Number>(
        b: Matrix<'_, E>,
        sizes: [usize; 2],
        values: usize,
        panel: &mut [f32],
    ) {
        let [columns, width] = sizes;
        for (p, line) in panel.chunks_exact_mut(width).enumerate() {
            if let (true, Some(line)) = (columns == 2 * LINE, line.first_chunk_mut::<{ 2 * LINE }>()) {
                pair_lines(b.values, b.row_pitch, [2 * p, values], line);
            } else {
                pair_lines(b.values, b.row_pitch, [2 * p, values], &mut line[..columns]);
                line[columns..].fill(0.0);
            }
        }
    }
}

/// Transposes columns of B that are stored one after the other: `panel[p * width + j]` is pair p of column j.
fn columns_of_pairs<E: Number>(
    kernel: Kernel,
    b: Matrix<'_, E>,
    [columns, width]: [usize; 2],
    values: usize,
    panel: &mut [f32],
) {
    let depth = values.div_ceil(2);
    let (mut whole_columns, mut whole_depth) = (0, 0);
    if kernel.has_bf16_pairs() && E::KIND == <Bf16 as crate::host::Element>::KIND {
        whole_columns = columns - columns % 8;
        whole_depth = values / 2 - values / 2 % 8;
        let from: *const Bf16 = b.corner(values, columns).cast();
        assert!(panel.len() >= depth * width && columns <= width, "a panel of {}", panel.len());
        for j in (0..whole_columns).step_by(8) {
            for p in (0..whole_depth).step_by(8) {
                if p % LINE == 0 {
                    for row in 8..16 {
                        prefetch(from.wrapping_add((j + row) * b.column_pitch + 2 * p));
                    }
                }
                // SAFETY: the processor has AVX; both 8 x 8 squares of pairs lie inside, as just checked.
                unsafe {
                    transpose_8x8(
                        from.add(j * b.column_pitch + 2 * p).cast(),
                        b.column_pitch * size_of::<Bf16>(),
                        panel.as_mut_ptr().add(p * width + j),
                        width,
                    );
                }
            }
        }
    }
    for j in 0..columns {
        let from = if j < whole_columns { whole_depth } else { 0 };
        let stored = &b.values[j * b.column_pitch..][..values];
        for p in from..depth {
            let high = stored.get(2 * p + 1).map_or(Bf16::default(), |x| x.half());
            panel[p * width + j] = pair(stored[2 * p].half(), high);
        }
    }
    if columns < width {
        panel.chunks_exact_mut(width).for_each(|line| line[columns..].fill(0.0));
    }
}
