//! Matrix products, after the way of BLIS: blocks of A and B are packed to lie as the micro-kernel reads
//! them.
//!
//! C is cut into tiles that suit its shape, the caches and the threads. One task computes one tile over the
//! whole of k, packing what it needs into scratch memory of its thread; a value of C is always the sum over
//! the same pieces of k in the same order, so neither tiles nor threads change a bit of it.
#![allow(unsafe_code)]

use super::kernel::Kernel;
use super::matrix::{Factor, Matrix, Product, Sizes, TILE, Target};
use super::micro::{DEPTH, Micros, PITCH, Tile};
use super::operands::Number;
use super::pack::{Layout, pack_a, pack_b};
use super::prefetch::Ahead;
use super::scratch::{Packed, Scratch, take, with_scratch};
use super::team::{Shares, Team};
use super::vector::dot;
use crate::boundary::{Boundary, Size};
use crate::host::Element;
use crate::op::{GroupedMatMul, MatMul};
use crate::precision::{Precision, to_bf16};

/// Fewest rows and columns, where a product is cut finer to give every thread work.
const SMALL_TILE: usize = 64;
/// Multiply-adds that take as long as packing one value, about: packing waits for memory.
const PACKING: usize = 40;
/// Up to this many rows of A, packing B costs more than it saves.
const FEW_ROWS: usize = 3;

/// Where products take another way: beyond a few rows, on a matrix unit, beyond a tile, in pieces of the sum.
pub(super) fn boundaries(team: &Team) -> Vec<Boundary> {
    let [tall, wide] = team.tile;
    let mut rows = vec![FEW_ROWS + 1, SMALL_TILE + 1, tall + 1];
    #[cfg(target_arch = "x86_64")]
    if team.kernel.has_matrix_unit() {
        rows.push(super::amx::LOW + 1);
    }
    let rows = rows.into_iter().map(|at| (Size::Rows, at));
    let columns = [SMALL_TILE + 1, wide + 1].map(|at| (Size::Columns, at));
    let inner = [DEPTH + 1, 2 * DEPTH + 1].map(|at| (Size::Inner, at));
    let all: Vec<_> = rows.chain(columns).chain(inner).collect();
    [MatMul::NAME, GroupedMatMul::NAME]
        .into_iter()
        .flat_map(|op| all.iter().map(move |&(size, at)| Boundary::new(op, size, at)))
        .collect()
}

/// Runs one product on the whole team. Sums that are not held in f32 are rounded once, at their end.
pub(super) fn product<E: Number>(team: &Team, product: Product<'_>, c: &mut [E]) {
    let grid = Grid::new(product.sizes, tile_for::<E>(team), team.threads());
    let shares = Shares::of(c);
    // SAFETY: each task has a tile of its own.
    team.each(grid.tiles(), |index| unsafe {
        let next = part(&product, grid, index + team.threads());
        tile(team.kernel, &part(&product, grid, index), &next, shares);
    });
}

/// Runs products `0..count` as one parallel loop. `tiles_before` is scratch memory.
///
/// The products must write to different places of `c`; they are cut into row blocks of different owners, so
/// they do.
pub(super) fn products<'a, E: Number>(
    team: &Team,
    count: usize,
    product_of: impl Fn(usize) -> Product<'a> + Sync,
    tiles_before: &mut Vec<usize>,
    c: &mut [E],
) {
    let threads = team.threads().div_ceil(count.max(1));
    let most = tile_for::<E>(team);
    let grid_of = |product: &Product<'_>| Grid::new(product.sizes, most, threads);
    tiles_before.clear();
    let mut tiles = 0;
    for index in 0..count {
        tiles_before.push(tiles);
        tiles += grid_of(&product_of(index)).tiles();
    }
    let shares = Shares::of(c);
    let part_of = |index: usize| {
        let which = tiles_before.partition_point(|&before| before <= index) - 1;
        let product = product_of(which);
        part(&product, grid_of(&product), index - tiles_before[which])
    };
    team.each(tiles, |index| {
        let next = part_of(index + team.threads());
        // SAFETY: each task has a tile of its own, and the products' targets are disjoint.
        unsafe { tile(team.kernel, &part_of(index), &next, shares) };
    });
}

/// The most rows and columns of a tile. One that is rounded at its end needs room for its sums as well.
fn tile_for<E: Number>(team: &Team) -> [usize; 2] {
    let [tall, wide] = team.tile;
    if E::KIND == f32::KIND { [tall, wide] } else { [tall / 2, wide] }
}

/// How C is cut into tiles.
#[derive(Clone, Copy)]
struct Grid {
    rows: usize,
    columns: usize,
    down: usize,
    across: usize,
}

impl Grid {
    /// The grid that `threads` threads finish first, one tile each at a time: a tile costs its area and, to
    /// pack A and B, its sides.
    fn new(Sizes { m, n, .. }: Sizes, [tall, wide]: [usize; 2], threads: usize) -> Grid {
        let halves = |most| {
            std::iter::successors(Some(most), |side| Some(side / 2).filter(|&half| half >= SMALL_TILE))
        };
        let grid = |rows: usize, columns: usize| {
            let (down, across) = (m.div_ceil(rows), n.div_ceil(columns));
            Grid { rows: m.div_ceil(down.max(1)), columns, down, across }
        };
        let grids = halves(tall).flat_map(|rows| halves(wide).map(move |columns| grid(rows, columns)));
        let cost = |grid: &Grid| {
            let (rows, columns) = (grid.rows, grid.columns.min(n));
            grid.tiles().div_ceil(threads) * (rows * columns + PACKING * (rows + columns))
        };
        grids.min_by_key(cost).unwrap_or_else(|| grid(tall, wide))
    }

    fn tiles(self) -> usize {
        self.down * self.across
    }
}

/// One tile of a product; past the last it is empty.
fn part<'a>(product: &Product<'a>, grid: Grid, index: usize) -> Product<'a> {
    let Product { sizes: Sizes { m, n, k }, a, b, target } = *product;
    let (down, column) = (grid.down.max(1), index / grid.down.max(1) * grid.columns);
    // Of nearly equal height, so that only a low product has low tiles, and is computed as such.
    let [row, end] = [0, 1].map(|more| (index % down + more) * m / down);
    let sizes = Sizes { m: end - row, n: grid.columns.min(n.saturating_sub(column)), k };
    let target = Target { first: target.first + row * target.pitch + column, ..target };
    Product { sizes, a: a.from(row, 0), b: b.from(0, column), target }
}

/// Computes one tile; `next` is the one that this thread probably computes next.
///
/// # Safety
/// No other task may be given the same tile, nor one of a product with an overlapping target.
unsafe fn tile<E: Number>(kernel: Kernel, part: &Product<'_>, next: &Product<'_>, c: Shares<'_, E>) {
    with_scratch(|scratch| match c.of_floats() {
        // SAFETY: as promised by the caller.
        Some(c) => unsafe { block(kernel, &mut scratch.packed, part, Some(next), c) },
        // SAFETY: as above.
        None => unsafe { rounded_block(kernel, scratch, part, next, c) },
    });
}

/// As `block`, summed in scratch memory and rounded at the end.
///
/// # Safety
/// As for `block`.
unsafe fn rounded_block<E: Number>(
    kernel: Kernel,
    Scratch { packed, sums, .. }: &mut Scratch,
    part: &Product<'_>,
    next: &Product<'_>,
    c: Shares<'_, E>,
) {
    let Product { sizes: Sizes { m, n, .. }, target: Target { first, pitch, add }, .. } = *part;
    if m == 0 || n == 0 {
        return;
    }
    let sums = take(sums, m * n);
    // SAFETY: these rows of the target are the caller's alone; each piece is dropped before the next.
    let row_of = |row: usize| unsafe { c.piece(first + row * pitch, n) };
    if add {
        for (row, sums) in sums.chunks_exact_mut(n).enumerate() {
            widen(kernel, row_of(row), sums);
        }
    }
    let own = Product { target: Target { first: 0, pitch: n, add }, ..*part };
    // SAFETY: the sums are borrowed by this call alone.
    unsafe { block(kernel, packed, &own, Some(next), Shares::of(sums)) };
    for (row, sums) in sums.chunks_exact(n).enumerate() {
        round_row(kernel, sums, row_of(row));
    }
}

super::kernel::wide! {
    fn widen<E: Number>(x: &[E], to: &mut [f32]) {
        to.iter_mut().zip(x).for_each(|(to, x)| *to = x.wide());
    }
}

super::kernel::wide! {
    fn round_row<E: Number>(sums: &[f32], to: &mut [E]) {
        to.iter_mut().zip(sums).for_each(|(to, &sum)| *to = E::rounded(sum));
    }
}

/// One product of at most `TILE` rows and columns, on this thread alone.
pub(super) fn small_product(kernel: Kernel, packed: &mut Packed, product: &Product<'_>, c: &mut [f32]) {
    // SAFETY: C is borrowed by this call alone.
    unsafe { block(kernel, packed, product, None, Shares::of(c)) };
}

/// As `small_product`, into memory that other threads may write to elsewhere.
///
/// # Safety
/// The product's target is the caller's alone.
pub(super) unsafe fn block(
    kernel: Kernel,
    packed: &mut Packed,
    product: &Product<'_>,
    next: Option<&Product<'_>>,
    c: Shares<'_>,
) {
    let Product { sizes: Sizes { m, n, k }, a, b, target } = *product;
    if m == 0 || n == 0 {
        return;
    }
    let to = c.window(target.first, [m, n], target.pitch);
    if k == 0 && !target.add {
        for row in 0..m {
            // SAFETY: inside the window just checked.
            unsafe { std::slice::from_raw_parts_mut(to.add(row * target.pitch), n) }.fill(0.0);
        }
    }
    // SAFETY: inside the window just checked; the caller promises to be alone there.
    if m <= FEW_ROWS && unsafe { few_rows(kernel, product, to) } {
        return;
    }
    assert!(m <= TILE && n <= TILE, "a block of {m} x {n}");
    #[cfg(target_arch = "x86_64")]
    if kernel.has_matrix_unit() && m > super::amx::LOW {
        // SAFETY: a `Kernel` of this set exists only where the unit is usable; the window was checked above.
        return unsafe { super::amx::block(kernel, packed, product, to, next) };
    }
    #[cfg(target_arch = "x86_64")]
    if kernel.has_bf16_pairs() && (a.is_bf16() || b.is_bf16()) {
        // SAFETY: a `Kernel` of this set exists only where the processor has it; the window was checked
        // above.
        return unsafe { super::pairs::block(kernel, packed, product, to, next) };
    }
    let micros = Micros::of(kernel);
    let pieces = k.div_ceil(DEPTH).max(1);
    let depth = k.div_ceil(pieces);
    for from in (0..k).step_by(depth.max(1)) {
        let depth = depth.min(k - from);
        let layout = Layout { micros, m, n, depth };
        let Packed { a: room_a, b: room_b, wide: [wide_a, wide_b] } = packed;
        let a = a.from(0, from).widened(kernel, [m, depth], wide_a);
        let b = b.from(from, 0).widened(kernel, [depth, n], wide_b);
        pack_b(kernel, b, layout, room_b);
        let rows = if a.is_packed() && kernel.1 == Precision::F32 {
            a.corner(m, depth)
        } else {
            pack_a(kernel, a, layout, room_a);
            if kernel.1 == Precision::Bf16 {
                round(kernel, [room_a, room_b], layout);
            }
            room_a.as_ptr()
        };
        let packs = Packs { a: rows, a_as_rows: layout.a_as_rows(a.column_pitch), b: room_b.as_ptr() };
        let add = target.add || from > 0;
        let mut ahead = match next {
            _ if from + depth < k => ahead(product, from + depth, depth),
            Some(next) => ahead(next, 0, DEPTH),
            None => Ahead::default(),
        };
        // SAFETY: packed as the layout says, and `to` is the corner of the window checked above.
        unsafe { sweep(layout, packs, to, target.pitch, add, &mut ahead) };
    }
}

/// The memory that will be packed next, for the product's following values of k.
pub(super) fn ahead(product: &Product<'_>, from: usize, depth: usize) -> Ahead {
    let Sizes { m, n, k } = product.sizes;
    if m == 0 || n == 0 {
        return Ahead::default();
    }
    let depth = depth.min(k - from);
    Ahead::of([product.b.from(from, 0).stretches(depth, n), product.a.from(0, from).stretches(m, depth)])
}

/// Rounds both packed blocks to bf16, what lies between their rows included.
fn round(kernel: Kernel, [a, b]: [&mut [f32]; 2], Layout { micros, m, n, depth }: Layout) {
    let columns = n.next_multiple_of(micros.lanes * micros.vectors);
    for (block, len) in [(a, m * PITCH.max(depth)), (b, columns * depth)] {
        let len = len.min(block.len());
        round_each(kernel, &mut block[..len]);
    }
}

super::kernel::wide! {
    fn round_each(values: &mut [f32]) {
        values.iter_mut().for_each(|value| *value = to_bf16(*value));
    }
}

/// Blocks of A and B that are packed.
pub(super) struct Packs {
    pub(super) a: *const f32,
    pub(super) a_as_rows: bool,
    pub(super) b: *const f32,
}

/// # Safety
/// A and B are packed as `layout` says, `c` is the corner of an m x n window that is the caller's alone.
pub(super) unsafe fn sweep(
    layout: Layout,
    packs: Packs,
    c: *mut f32,
    c_pitch: usize,
    add: bool,
    ahead: &mut Ahead,
) {
    let Layout { micros, depth, .. } = layout;
    let Packs { a, a_as_rows, b } = packs;
    for (first_column, columns, vectors) in layout.panels() {
        for (first_row, rows) in layout.row_tiles() {
            let a_pitch = if a_as_rows { PITCH } else { depth };
            // SAFETY: panels and tiles lie one behind the other in the packed blocks and in C.
            unsafe {
                let tile = Tile {
                    depth,
                    a: a.add(first_row * a_pitch),
                    b: b.add(first_column * depth),
                    c: c.add(first_row * c_pitch + first_column),
                    c_pitch,
                    columns,
                    add,
                };
                micros.run(a_as_rows, vectors == micros.vectors, rows, &tile, ahead);
            }
        }
    }
}

/// A product of few rows as dot products, where both factors are of one kind and their values of k lie one
/// after the other. Returns whether that is so.
///
/// # Safety
/// `to` is the corner of the product's window, which is the caller's alone.
unsafe fn few_rows(kernel: Kernel, product: &Product<'_>, to: *mut f32) -> bool {
    let Product { sizes, a, b, target } = *product;
    match (a, b) {
        (Factor::F32(a), Factor::F32(b)) if kernel.1 == Precision::F32 => {
            // SAFETY: as promised by the caller.
            unsafe { dots_of_rows(kernel, sizes, a, b, to, target) }
        }
        // SAFETY: as promised by the caller.
        (Factor::Bf16(a), Factor::Bf16(b)) => unsafe { dots_of_rows(kernel, sizes, a, b, to, target) },
        _ => false,
    }
}

/// # Safety
/// As for `few_rows`.
unsafe fn dots_of_rows<E: Number>(
    kernel: Kernel,
    Sizes { m, n, k }: Sizes,
    a: Matrix<'_, E>,
    b: Matrix<'_, E>,
    to: *mut f32,
    target: Target,
) -> bool {
    let lies_well = b.row_pitch == 1 && a.column_pitch == 1;
    for row in 0..if lies_well { m } else { 0 } {
        // SAFETY: a row of the window.
        let out = unsafe { std::slice::from_raw_parts_mut(to.add(row * target.pitch), n) };
        dots(kernel, &a.values[row * a.row_pitch..][..k], b.values, b.column_pitch, out, target.add);
    }
    lies_well
}

super::kernel::wide! {
    /// `out[j] = or += a . b[j]`, rows of b being `pitch` apart.
    fn dots<E: Number>(a: &[E], b: &[E], pitch: usize, out: &mut [f32], add: bool) {
        for (j, out) in out.iter_mut().enumerate() {
            let row = &b[j * pitch..][..a.len()];
            let sum = dot([a, row]);
            *out = if add { *out + sum } else { sum };
        }
    }
}
