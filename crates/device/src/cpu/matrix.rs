//! Matrices in memory, products of them, and the largest tiles that these are cut into.

use super::kernel::{Kernel, wide};
use super::micro::PITCH;
use super::operands::Number;
use super::prefetch::Stretches;
use super::scratch::take;
use crate::bf16::Bf16;

/// Most rows and columns of a tile of C anywhere: packed A and B take half of a second-level cache of 2 MiB.
pub(super) const TILE: usize = 512;
/// Most rows on a matrix unit: with 256 values of k, a packed A, A's next and some of C share that cache.
const UNIT_ROWS: usize = 256;

/// The most rows and columns of a tile, by the size of one core's second-level cache if it is known.
pub(super) fn tile_for(kernel: Kernel, second_level_bytes: Option<usize>) -> [usize; 2] {
    match second_level_bytes {
        _ if kernel.has_matrix_unit() => [UNIT_ROWS, TILE],
        Some(bytes) if bytes >= 2 << 20 => [TILE; 2],
        _ => [TILE / 2; 2],
    }
}

/// A matrix in memory: element (i, j) is `values[i * row_pitch + j * column_pitch]`; one of the pitches is 1.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, E = f32> {
    pub(super) values: &'a [E],
    pub(super) row_pitch: usize,
    pub(super) column_pitch: usize,
}

impl<'a, E: Number> Matrix<'a, E> {
    /// A matrix stored row by row, rows being `pitch` apart.
    pub(super) fn rows(values: &'a [E], pitch: usize) -> Matrix<'a, E> {
        Matrix { values, row_pitch: pitch, column_pitch: 1 }
    }

    /// The transpose of a matrix that is stored row by row.
    pub(super) fn transposed(values: &'a [E], pitch: usize) -> Matrix<'a, E> {
        Matrix { values, row_pitch: 1, column_pitch: pitch }
    }

    /// The part that begins at (row, column).
    pub(super) fn from(self, row: usize, column: usize) -> Matrix<'a, E> {
        let first = (row * self.row_pitch + column * self.column_pitch).min(self.values.len());
        Matrix { values: &self.values[first..], ..self }
    }

    /// The memory that its first `rows` x `columns` take.
    fn stretches(self, rows: usize, columns: usize) -> Stretches {
        let first = self.values.as_ptr().cast();
        let bytes = |count: usize| count * size_of::<E>();
        if self.column_pitch == 1 {
            Stretches { first, count: rows, pitch_bytes: bytes(self.row_pitch), len_bytes: bytes(columns) }
        } else {
            Stretches { first, count: columns, pitch_bytes: bytes(self.column_pitch), len_bytes: bytes(rows) }
        }
    }

    /// A pointer to (0, 0), checked to be the corner of `rows` x `columns`.
    pub(super) fn corner(self, rows: usize, columns: usize) -> *const E {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * self.row_pitch + (columns - 1) * self.column_pitch;
            assert!(last < self.values.len(), "a matrix that ends at {last} of {}", self.values.len());
        }
        self.values.as_ptr()
    }
}

impl Matrix<'_> {
    /// Whether the matrix lies in memory as a packed A does: then it is read in place.
    pub(super) fn is_packed(self) -> bool {
        self.column_pitch == 1 && self.row_pitch == PITCH
    }
}

/// A factor of a product. Where one is bf16 it is a product of bf16, which may round the other.
#[derive(Clone, Copy)]
pub(super) enum Factor<'a> {
    F32(Matrix<'a>),
    Bf16(Matrix<'a, Bf16>),
    /// f32 that a product of bf16 takes: rounded where the processor multiplies bf16.
    AsBf16(Matrix<'a>),
}

impl<'a> Factor<'a> {
    /// The part that begins at (row, column).
    pub(super) fn from(self, row: usize, column: usize) -> Factor<'a> {
        match self {
            Factor::F32(matrix) => Factor::F32(matrix.from(row, column)),
            Factor::Bf16(matrix) => Factor::Bf16(matrix.from(row, column)),
            Factor::AsBf16(matrix) => Factor::AsBf16(matrix.from(row, column)),
        }
    }

    /// The memory that its first `rows` x `columns` take.
    pub(super) fn stretches(self, rows: usize, columns: usize) -> Stretches {
        match self {
            Factor::F32(matrix) | Factor::AsBf16(matrix) => matrix.stretches(rows, columns),
            Factor::Bf16(matrix) => matrix.stretches(rows, columns),
        }
    }

    /// Whether the product is one of bf16.
    pub(super) fn is_bf16(self) -> bool {
        !matches!(self, Factor::F32(_))
    }

    /// Its first `rows` x `columns` in f32, in `room` if they are not f32 already.
    pub(super) fn widened(
        self,
        kernel: Kernel,
        [rows, columns]: [usize; 2],
        room: &'a mut Vec<f32>,
    ) -> Matrix<'a> {
        let matrix = match self {
            Factor::F32(matrix) | Factor::AsBf16(matrix) => return matrix,
            Factor::Bf16(matrix) => matrix,
        };
        matrix.corner(rows, columns);
        let is_by_rows = matrix.column_pitch == 1;
        let (lines, len, stored) = match is_by_rows {
            true => (rows, columns, matrix.row_pitch),
            false => (columns, rows, matrix.column_pitch),
        };
        let pitch = len.max(PITCH);
        let values = take(room, lines * pitch);
        for (line, to) in values.chunks_exact_mut(pitch).enumerate() {
            widen(kernel, &matrix.values[line * stored..][..len], &mut to[..len]);
        }
        if is_by_rows { Matrix::rows(values, pitch) } else { Matrix::transposed(values, pitch) }
    }
}

wide! {
    fn widen(x: &[Bf16], to: &mut [f32]) {
        to.iter_mut().zip(x).for_each(|(to, x)| *to = x.wide());
    }
}

/// Sizes of a product: C is m x n, and k is summed over.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// Where a product goes: C's first element, the distance between its rows, and whether C is added to.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) first: usize,
    pub(super) pitch: usize,
    pub(super) add: bool,
}

/// One product of several that run as one parallel loop.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) sizes: Sizes,
    pub(super) a: Factor<'a>,
    pub(super) b: Factor<'a>,
    pub(super) target: Target,
}
