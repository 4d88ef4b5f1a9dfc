//! Packs operands for the matrix unit: squares of floats become tiles of bf16, an f32 three of them that add
//! up to it.
//!
//! 24 bits of mantissa are three times eight: `x = high + middle + low` exactly, but for parts below 2^-126.
//! An infinite x has no such parts, and its products become NaN.
#![allow(unsafe_code)]

use super::matrix::Matrix;
use crate::precision::Precision;
use std::arch::x86_64::*;

/// Rows of a tile, and the pairs of bf16 in a row of it.
pub(super) const SIDE: usize = 16;
/// Values of k that a tile spans: each of its columns holds p and p + `SIDE`.
pub(super) const STEP: usize = 2 * SIDE;
/// Bytes of a row and of a tile.
const ROW_BYTES: usize = 4 * SIDE;
pub(super) const TILE_BYTES: usize = SIDE * ROW_BYTES;
/// Rows of A or columns of B that are packed together, and tiles side by side.
pub(super) const PANEL: usize = 2 * SIDE;

/// Tiles that stand for one square: as many as the precision has parts.
pub(super) fn parts(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 3,
        Precision::Bf16 => 1,
    }
}

/// Bytes of a packed panel of `depth` values of k: for each `STEP` the parts, and of each part two tiles.
pub(super) fn panel_bytes(precision: Precision, depth: usize) -> usize {
    depth.div_ceil(STEP) * parts(precision) * 2 * TILE_BYTES
}

/// What is packed: `outer` rows of A or columns of B by `depth` values of k.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    values: &'a [f32],
    outer: usize,
    depth: usize,
    outer_pitch: usize,
    k_pitch: usize,
    /// Whether the rows of its tiles are values of `outer`, as A's are, or pairs of k, as B's.
    rows_are_outer: bool,
}

impl<'a> Operand<'a> {
    pub(super) fn a(a: Matrix<'a>, m: usize, depth: usize) -> Operand<'a> {
        a.corner(m, depth);
        let Matrix { values, row_pitch, column_pitch } = a;
        Operand {
            values,
            outer: m,
            depth,
            outer_pitch: row_pitch,
            k_pitch: column_pitch,
            rows_are_outer: true,
        }
    }

    /// The transpose as an A, but for what lies in the rows of tiles.
    pub(super) fn b(b: Matrix<'a>, n: usize, depth: usize) -> Operand<'a> {
        let transpose = Matrix { row_pitch: b.column_pitch, column_pitch: b.row_pitch, ..b };
        Operand { rows_are_outer: false, ..Operand::a(transpose, n, depth) }
    }

    /// Whether stored lines run along the tiles' columns, so that squares are packed the other way round.
    fn across(self) -> bool {
        // Of a single line either pitch is 1; a line of k is one of A's rows.
        let lines_of_k = if self.rows_are_outer { self.k_pitch == 1 } else { self.outer_pitch != 1 };
        lines_of_k != self.rows_are_outer
    }

    fn line_pitch(self) -> usize {
        if self.rows_are_outer != self.across() { self.outer_pitch } else { self.k_pitch }
    }

    /// Packs panel after panel.
    ///
    /// # Safety
    /// The processor has AVX-512 with its BW and DQ parts.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    pub(super) fn pack(self, precision: Precision, to: &mut [f32]) {
        match precision {
            Precision::F32 => self.pack_parts::<3>(precision, to),
            Precision::Bf16 => self.pack_parts::<1>(precision, to),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    fn pack_parts<const PARTS: usize>(self, precision: Precision, to: &mut [f32]) {
        let panel = panel_bytes(precision, self.depth);
        let panels = self.outer.div_ceil(PANEL);
        assert!(panels * panel <= size_of_val(to), "{panels} panels of {panel} bytes");
        let to: *mut u8 = to.as_mut_ptr().cast();
        for first in (0..self.outer).step_by(PANEL) {
            for from in (0..self.depth).step_by(STEP) {
                for half in 0..2 {
                    let tile = first / PANEL * panel + from / STEP * PARTS * 2 * TILE_BYTES;
                    // SAFETY: the tile lies inside, as just checked.
                    let tile = unsafe { to.add(tile + half * TILE_BYTES) };
                    self.pack_tile::<PARTS>(first + half * SIDE, from, tile);
                }
            }
        }
    }

    /// Packs the two squares that begin at value `first` of outer and at `from` and `from + SIDE` of k.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    #[inline]
    fn pack_tile<const PARTS: usize>(self, first: usize, from: usize, to: *mut u8) {
        if first >= self.outer {
            return;
        }
        let at = |k: usize| self.values.as_ptr().wrapping_add(first * self.outer_pitch + k * self.k_pitch);
        let (across, pitch) = (self.across(), self.line_pitch());
        if first + SIDE <= self.outer && from + STEP <= self.depth {
            // SAFETY: both squares lie inside the operand, whose corner was checked; `to` is a tile and its
            // parts.
            return unsafe { pack_squares::<PARTS>([at(from), at(from + SIDE)], pitch, across, to) };
        }
        let mut squares = [[0.0_f32; SIDE * SIDE]; 2];
        let lines_are_outer = self.rows_are_outer != across;
        for (index, square) in squares.iter_mut().enumerate() {
            let from = from + index * SIDE;
            for outer in 0..SIDE.min(self.outer - first) {
                for k in 0..SIDE.min(self.depth.saturating_sub(from)) {
                    let value = self.values[(first + outer) * self.outer_pitch + (from + k) * self.k_pitch];
                    square[if lines_are_outer { outer * SIDE + k } else { k * SIDE + outer }] = value;
                }
            }
        }
        let squares = [squares[0].as_ptr(), squares[1].as_ptr()];
        // SAFETY: as above, with squares of this function's own.
        unsafe { pack_squares::<PARTS>(squares, SIDE, across, to) }
    }
}

/// Packs two squares of 16 lines into one tile for each part: row i holds line i, or with `across` column i.
///
/// # Safety
/// The squares' lines, `pitch` apart, are readable; `to` has room for a tile at each second tile's distance.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
#[inline]
unsafe fn pack_squares<const PARTS: usize>(
    squares: [*const f32; 2],
    pitch: usize,
    across: bool,
    to: *mut u8,
) {
    // SAFETY: as promised by the caller; rows are below 16.
    unsafe {
        if across {
            for quarter in 0..SIDE / 4 {
                let first = columns(squares[0].add(4 * quarter), pitch);
                let second = columns(squares[1].add(4 * quarter), pitch);
                for column in 0..4 {
                    pack_row::<PARTS>(
                        [first[column], second[column]],
                        to.add((4 * quarter + column) * ROW_BYTES),
                    );
                }
            }
        } else {
            for row in 0..SIDE {
                let pair = [
                    _mm512_loadu_ps(squares[0].add(row * pitch)),
                    _mm512_loadu_ps(squares[1].add(row * pitch)),
                ];
                pack_row::<PARTS>(pair, to.add(row * ROW_BYTES));
            }
        }
    }
}

/// Packs one row of each part's tile.
///
/// # Safety
/// `to` is a row of a tile, with room for more at each second tile's distance.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
#[inline]
unsafe fn pack_row<const PARTS: usize>(pair: [__m512; 2], to: *mut u8) {
    // SAFETY: as promised by the caller.
    unsafe {
        if PARTS == 1 {
            return _mm512_store_si512(to.cast(), nearest(pair));
        }
        let [high, middle, low] = split(pair);
        _mm512_store_si512(to.cast(), high);
        _mm512_store_si512(to.add(2 * TILE_BYTES).cast(), middle);
        _mm512_store_si512(to.add(4 * TILE_BYTES).cast(), low);
    }
}

/// Columns 0 to 3 of 16 lines.
///
/// # Safety
/// Of each line, `pitch` apart, four floats are readable.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
#[inline]
unsafe fn columns(lines: *const f32, pitch: usize) -> [__m512; 4] {
    // Loads put lines i, i + 4, i + 8, i + 12 into one vector; what is left is to transpose within quarters
    // of it. SAFETY: as promised by the caller.
    let [v0, v1, v2, v3] = std::array::from_fn(|i| unsafe {
        let quarter = |line: usize| _mm_loadu_ps(lines.add(line * pitch));
        let low = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(quarter(i)), quarter(i + 4));
        let high = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(quarter(i + 8)), quarter(i + 12));
        _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high)
    });
    let (a, b) = (_mm512_unpacklo_ps(v0, v1), _mm512_unpackhi_ps(v0, v1));
    let (c, d) = (_mm512_unpacklo_ps(v2, v3), _mm512_unpackhi_ps(v2, v3));
    [
        _mm512_shuffle_ps::<0x44>(a, c),
        _mm512_shuffle_ps::<0xee>(a, c),
        _mm512_shuffle_ps::<0x44>(b, d),
        _mm512_shuffle_ps::<0xee>(b, d),
    ]
}

/// The three parts of two vectors, the second's in the upper halves.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
#[inline]
fn split(pair: [__m512; 2]) -> [__m512i; 3] {
    // To the nearest, ties away from zero: the rest is exact whatever the tie, and of either sign.
    let half = _mm512_set1_epi32(0x8000);
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let round = |x: __m512| _mm512_add_epi32(_mm512_castps_si512(x), half);
    let rest =
        |x: __m512, rounded: __m512i| _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_and_si512(rounded, upper)));
    let high = [round(pair[0]), round(pair[1])];
    let after_high = [rest(pair[0], high[0]), rest(pair[1], high[1])];
    let middle = [round(after_high[0]), round(after_high[1])];
    let low = [rest(after_high[0], middle[0]), rest(after_high[1], middle[1])];
    [
        interleave(high),
        interleave(middle),
        interleave([_mm512_castps_si512(low[0]), _mm512_castps_si512(low[1])]),
    ]
}

/// The nearest bf16 of two vectors, ties to even, the second's in the upper halves.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
#[inline]
fn nearest(pair: [__m512; 2]) -> __m512i {
    interleave(pair.map(|x| {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        let none = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        _mm512_mask_mov_epi32(rounded, none, _mm512_set1_epi32(0x7fc0_0000))
    }))
}

/// The upper halves of two vectors' elements, as pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
#[inline]
fn interleave([first, second]: [__m512i; 2]) -> __m512i {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    // (second and upper) or first's upper half
    _mm512_ternarylogic_epi32::<0xf8>(_mm512_srli_epi32::<16>(first), second, upper)
}
