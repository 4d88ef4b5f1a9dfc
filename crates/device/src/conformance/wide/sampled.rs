//! Large operands that cost nothing to draw, and outputs that are checked at random elements.

use crate::bf16::Bf16;
use crate::conformance::random::Random;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::{Kind, Tensor};
use std::sync::LazyLock;

/// Numbers that operands repeat. A prime, so that no two rows or tiles of an operand are the same numbers.
const PERIOD: usize = 1_048_583;
/// The longest row that lies in one piece.
const LONGEST: usize = 1 << 18;
/// Multiply-adds that the definitions of one output may cost.
const WORK: usize = 1 << 28;
/// The side of the smallest cell of which one element is checked.
const SIDE: usize = 16;

/// Normal numbers, and again as many of the first as the longest row needs.
static POOL: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let mut random = Random::new(20);
    let mut pool: Vec<f32> = (0..PERIOD).map(|_| random.normal() as f32).collect();
    pool.extend_from_within(..LONGEST);
    pool
});

/// A large operand: normal numbers of some deviation, from some place of the pool on, rounded to its kind.
#[derive(Clone, Copy)]
pub(super) struct Drawn {
    first: usize,
    deviation: f32,
    kind: Kind,
}

impl Drawn {
    /// An operand of numbers of mean 0.
    pub(super) fn new(random: &mut Random, deviation: f64, kind: Kind) -> Drawn {
        Drawn { first: random.below(PERIOD), deviation: deviation as f32, kind }
    }

    /// The same numbers, held in another kind.
    pub(super) fn of(self, kind: Kind) -> Drawn {
        Drawn { kind, ..self }
    }

    /// The operand on a device.
    pub(super) fn on(self, device: &Device, shape: &[usize]) -> Result<Tensor> {
        let count = shape.iter().product();
        let mut values = Vec::with_capacity(count);
        while values.len() < count {
            let row = self.piece(values.len(), LONGEST.min(count - values.len()));
            values.extend(row.iter().map(|x| x * self.deviation));
        }
        device.floats(&values, shape, self.kind)
    }

    /// Element `index`, as the device has it.
    pub(super) fn at(self, index: usize) -> f64 {
        self.rounded(self.piece(index, 1)[0])
    }

    /// `count` elements from `index` on, as the device has them.
    pub(super) fn row(self, index: usize, count: usize) -> Vec<f64> {
        self.piece(index, count).iter().map(|&x| self.rounded(x)).collect()
    }

    /// A number of the pool as an element.
    fn rounded(self, x: f32) -> f64 {
        let x = x * self.deviation;
        f64::from(if self.kind == Kind::Bf16 { Bf16::of(x).wide() } else { x })
    }

    fn piece(self, index: usize, count: usize) -> &'static [f32] {
        &POOL[(self.first + index) % PERIOD..][..count]
    }
}

/// The sum of the products of two rows of equal length, in eight sums that a processor can take at once.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    rest + sums.iter().sum::<f64>()
}

/// The logarithm of the sum of exponentials.
pub(super) fn log_sum_exp(values: &[f64]) -> f64 {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + values.iter().map(|x| (x - most).exp()).sum::<f64>().ln()
}

/// `define(index)` for each index below `count`, on all cores.
pub(super) fn each<T: Send>(count: usize, define: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count.max(1));
    let share = count.div_ceil(threads.max(1)).max(1);
    let ranges = (0..count).step_by(share).map(|from| from..(from + share).min(count));
    std::thread::scope(|scope| {
        let define = &define;
        let running: Vec<_> =
            ranges.map(|range| scope.spawn(move || range.map(define).collect::<Vec<T>>())).collect();
        running
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Elements of an output of rows and columns: one at random in every cell of a grid, and the corners.
///
/// A wrong region that holds a whole cell cannot hide: any of twice a cell's sides does.
#[derive(Clone, Debug)]
pub(super) struct Elements {
    /// Indices in the output.
    pub(super) indices: Vec<usize>,
    /// Rows and columns of a cell.
    pub(super) cell: [usize; 2],
}

impl Elements {
    /// The elements that may be checked where each costs `terms` multiply-adds: cells of 16 by 16, or where
    /// that is too much work, larger ones.
    pub(super) fn of([rows, columns]: [usize; 2], terms: usize, random: &mut Random) -> Elements {
        let most = (WORK / terms.max(1)).max(1);
        let mut cell = [SIDE.min(rows.max(1)), SIDE.min(columns.max(1))];
        if rows * columns <= most.min(4 * SIDE * SIDE) {
            cell = [1, 1];
        }
        while rows.div_ceil(cell[0]) * columns.div_ceil(cell[1]) > most {
            let wider = usize::from(cell[0] > cell[1] && cell[1] < columns);
            cell[if cell[0] < rows { wider } else { 1 }] *= 2;
        }
        Elements::with([rows, columns], cell, random)
    }

    /// One element of each cell of these sides, and the corners.
    pub(super) fn with([rows, columns]: [usize; 2], cell: [usize; 2], random: &mut Random) -> Elements {
        let mut indices = vec![];
        for row in (0..rows).step_by(cell[0]) {
            for column in (0..columns).step_by(cell[1]) {
                let down = row + random.below(cell[0].min(rows - row));
                indices.push(down * columns + column + random.below(cell[1].min(columns - column)));
            }
        }
        if cell != [1, 1] && rows * columns > 0 {
            let last = (rows - 1) * columns;
            indices.extend([0, columns - 1, last, last + columns - 1]);
        }
        Elements { indices, cell }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_of_twice_a_cells_sides_holds_a_checked_element() {
        let mut random = Random::new(1);
        for [rows, columns] in [[100, 77], [33, 1000], [1, 513], [257, 1]] {
            let Elements { indices, cell: [tall, wide] } =
                Elements::with([rows, columns], [16, 16], &mut random);
            let [tall, wide] = [(2 * tall).min(rows), (2 * wide).min(columns)];
            for top in 0..=rows - tall {
                for left in 0..=columns - wide {
                    let inside = |index: &usize| {
                        (top..top + tall).contains(&(index / columns))
                            && (left..left + wide).contains(&(index % columns))
                    };
                    assert!(indices.iter().any(inside), "{rows} x {columns}: {top}, {left}");
                }
            }
        }
    }

    #[test]
    fn work_is_bounded_and_small_outputs_are_checked_whole() {
        let mut random = Random::new(1);
        assert_eq!(Elements::of([20, 30], 8192, &mut random).indices.len(), 600);
        let large = Elements::of([4096, 4096], 1 << 20, &mut random);
        assert!(large.indices.len() <= (WORK >> 20) + 4, "{}", large.indices.len());
    }

    #[test]
    fn an_operand_is_on_the_device_what_the_definition_reads() {
        let device = Device::new(crate::reference::Reference::new());
        for kind in [Kind::F32, Kind::Bf16] {
            let drawn = Drawn::new(&mut Random::new(3), 0.3, kind);
            let values = drawn.on(&device, &[3, 200_001]).unwrap().to_doubles().unwrap();
            assert_eq!(values[500_000], drawn.at(500_000));
            assert_eq!(values[200_001..200_101], drawn.row(200_001, 100));
        }
    }
}
