//! Matrices in memory, products of them, and the largest tiles that these are cut into.

use super::kernel::Kernel;
use super::micro::PITCH;
use super::prefetch::Stretches;

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
pub(super) struct Matrix<'a> {
    pub(super) values: &'a [f32],
    pub(super) row_pitch: usize,
    pub(super) column_pitch: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix stored row by row, rows being `pitch` apart.
    pub(super) fn rows(values: &'a [f32], pitch: usize) -> Matrix<'a> {
        Matrix { values, row_pitch: pitch, column_pitch: 1 }
    }

    /// The transpose of a matrix that is stored row by row.
    pub(super) fn transposed(values: &'a [f32], pitch: usize) -> Matrix<'a> {
        Matrix { values, row_pitch: 1, column_pitch: pitch }
    }

    /// Whether the matrix lies in memory as a packed A does: then it is read in place.
    pub(super) fn is_packed(self) -> bool {
        self.column_pitch == 1 && self.row_pitch == PITCH
    }

    /// The part that begins at (row, column).
    pub(super) fn from(self, row: usize, column: usize) -> Matrix<'a> {
        let first = (row * self.row_pitch + column * self.column_pitch).min(self.values.len());
        Matrix { values: &self.values[first..], ..self }
    }

    /// The memory that its first `rows` x `columns` take.
    pub(super) fn stretches(self, rows: usize, columns: usize) -> Stretches {
        let first = self.values.as_ptr();
        if self.column_pitch == 1 {
            Stretches { first, count: rows, pitch: self.row_pitch, len: columns }
        } else {
            Stretches { first, count: columns, pitch: self.column_pitch, len: rows }
        }
    }

    /// A pointer to (0, 0), checked to be the corner of `rows` x `columns`.
    pub(super) fn corner(self, rows: usize, columns: usize) -> *const f32 {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * self.row_pitch + (columns - 1) * self.column_pitch;
            assert!(last < self.values.len(), "a matrix that ends at {last} of {}", self.values.len());
        }
        self.values.as_ptr()
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
    pub(super) a: Matrix<'a>,
    pub(super) b: Matrix<'a>,
    pub(super) target: Target,
}
