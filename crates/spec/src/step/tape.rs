//! The record of a simulated step: its ops in order, and the bytes in use.

use super::StepOp;
use crate::cost::{self, Cost, Widths};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Ops and allocations as they are simulated.
pub(super) struct Tape {
    ops: RefCell<Vec<StepOp>>,
    memory: Rc<Memory>,
    pub(super) widths: Widths,
    /// Whether gradients by matrices are added to those of micro-batches before this one.
    pub(super) adds: Cell<bool>,
}

struct Memory {
    in_use: Cell<u64>,
    peak: Cell<u64>,
    /// By size: the blocks in use, and the most that were in use at once.
    blocks: RefCell<BTreeMap<u64, [u64; 2]>>,
}

/// Bytes of the block that the CPU allocates for a tensor: rounded up by a sixteenth to an eighth, so that
/// blocks are reused.
pub(super) fn block_bytes(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of((bytes / 16).next_power_of_two().max(64))
}

/// The bytes of a tensor. Clones share them; dropping the last one releases them.
#[derive(Clone)]
pub(super) struct Allocation {
    _held: Rc<Held>,
}

struct Held {
    bytes: u64,
    memory: Rc<Memory>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Memory { in_use, blocks, .. } = &*self.memory;
        in_use.set(in_use.get() - self.bytes);
        if let Some([live, _]) = blocks.borrow_mut().get_mut(&block_bytes(self.bytes)) {
            *live -= 1;
        }
    }
}

/// What a simulation has recorded.
pub(super) struct Record {
    pub(super) ops: Vec<StepOp>,
    /// Largest number of bytes allocated at once.
    pub(super) peak_bytes: u64,
    /// Bytes of all blocks where each serves tensors of one size only.
    pub(super) blocks_bytes: u64,
}

impl Tape {
    pub(super) fn new(in_use: u64, widths: Widths) -> Tape {
        let memory =
            Memory { in_use: Cell::new(in_use), peak: Cell::new(in_use), blocks: RefCell::default() };
        Tape { ops: RefCell::default(), memory: Rc::new(memory), widths, adds: Cell::new(false) }
    }

    pub(super) fn in_use(&self) -> u64 {
        self.memory.in_use.get()
    }

    /// Ends the simulation.
    pub(super) fn finish(self) -> Record {
        let blocks_bytes = self.memory.blocks.borrow().iter().map(|(bytes, [_, most])| bytes * most).sum();
        Record { ops: self.ops.into_inner(), peak_bytes: self.memory.peak.get(), blocks_bytes }
    }

    /// Allocates `numbers` values.
    pub(super) fn allocate(&self, numbers: usize) -> Allocation {
        self.allocate_bytes(numbers * self.widths.values)
    }

    /// Allocates `numbers` sums, or ids, which are as wide.
    pub(super) fn allocate_sums(&self, numbers: usize) -> Allocation {
        self.allocate_bytes(numbers * self.widths.sums)
    }

    fn allocate_bytes(&self, bytes: usize) -> Allocation {
        let bytes = bytes as u64;
        let Memory { in_use, peak, blocks } = &*self.memory;
        in_use.set(in_use.get() + bytes);
        peak.set(peak.get().max(in_use.get()));
        let mut blocks = blocks.borrow_mut();
        let [live, most] = blocks.entry(block_bytes(bytes)).or_default();
        *live += 1;
        *most = (*most).max(*live);
        Allocation { _held: Rc::new(Held { bytes, memory: self.memory.clone() }) }
    }

    pub(super) fn op<const N: usize>(
        &self,
        name: &'static str,
        form: &'static str,
        given: [usize; N],
        cost: Cost,
    ) {
        let mut sizes = [0; 5];
        sizes[..N].copy_from_slice(&given);
        self.ops.borrow_mut().push(StepOp { name, form, sizes, cost });
    }

    /// An op over rows that reads and writes `times` values for each of theirs.
    pub(super) fn moves(&self, name: &'static str, [rows, width]: [usize; 2], times: usize) {
        self.op(name, "", [rows, width], cost::moves(times * rows * width, self.widths.values));
    }

    /// An op over rows that reads and writes `times` sums for each of theirs.
    pub(super) fn moves_sums(&self, name: &'static str, [rows, width]: [usize; 2], times: usize) {
        self.op(name, "", [rows, width], cost::moves(times * rows * width, self.widths.sums));
    }

    /// As `moves`, with a result of as many rows.
    pub(super) fn rows_out(&self, name: &'static str, shape: [usize; 2], times: usize) -> Allocation {
        let out = self.allocate(shape[0] * shape[1]);
        self.moves(name, shape, times);
        out
    }

    /// As `moves_sums`, with a result of as many rows.
    pub(super) fn sums_out(&self, name: &'static str, shape: [usize; 2], times: usize) -> Allocation {
        let out = self.allocate_sums(shape[0] * shape[1]);
        self.moves_sums(name, shape, times);
        out
    }

    pub(super) fn fill(&self, numbers: usize) {
        self.moves_sums("fill", [1, numbers], 1);
    }

    /// Rows of values added into a table of `entries` rows of sums.
    pub(super) fn table(&self, name: &'static str, [rows, width]: [usize; 2], entries: usize) {
        let Widths { values, sums } = self.widths;
        let cost = cost::moves(rows * width, values) + cost::moves(2 * rows * width, sums);
        self.op(name, "", [rows, width, entries], cost);
    }

    /// AdamW of all tensors, with the working copy where values are not as wide as sums.
    pub(super) fn adamw(&self, numbers: usize) {
        let Widths { values, sums } = self.widths;
        let copied = if values == sums { 0 } else { numbers };
        let cost = cost::moves(7 * numbers, sums) + cost::moves(copied, values);
        self.op("adamw", "", [1, numbers], cost);
    }

    pub(super) fn matmul(&self, sizes: [usize; 3], form: &'static str) -> Allocation {
        let out = self.allocate(sizes[0] * sizes[1]);
        self.op("matmul", form, sizes, cost::matmul(sizes, [self.widths.values; 2], false));
        out
    }

    /// A product whose result is a tensor of sums.
    pub(super) fn matmul_sums(&self, sizes: [usize; 3], form: &'static str) -> Allocation {
        let out = self.allocate_sums(sizes[0] * sizes[1]);
        let Widths { values, sums } = self.widths;
        self.op("matmul", form, sizes, cost::matmul(sizes, [values, sums], false));
        out
    }

    /// A product that is added to values.
    pub(super) fn matmul_onto(&self, sizes: [usize; 3], form: &'static str) {
        self.op("matmul", form, sizes, cost::matmul(sizes, [self.widths.values; 2], true));
    }

    /// The gradient by a weight, of sums.
    pub(super) fn matmul_weights(&self, sizes: [usize; 3]) {
        let Widths { values, sums } = self.widths;
        self.op("matmul", "a", sizes, cost::matmul(sizes, [values, sums], self.adds.get()));
    }

    /// Rows times `[n, k]` of their experts; `flip` takes rows of n to rows of k.
    pub(super) fn grouped_matmul(&self, rows: usize, [e, n, k]: [usize; 3], flip: bool) -> Allocation {
        let out = self.allocate(rows * if flip { k } else { n });
        let form = if flip { "flip" } else { "" };
        self.op("grouped_matmul", form, [rows, e, n, k], cost::grouped_matmul(rows, [e, n, k], self.widths));
        out
    }

    pub(super) fn grouped_matmul_weights(&self, rows: usize, [e, n, k]: [usize; 3]) {
        let cost = cost::grouped_matmul_weights(rows, [e, n, k], self.widths, self.adds.get());
        self.op("grouped_matmul_weights", "", [rows, e, n, k], cost);
    }

    pub(super) fn column_scales(&self, [v, d]: [usize; 2]) -> Allocation {
        let out = self.allocate_sums(d);
        self.moves("column_scales", [v, d], 1);
        out
    }

    /// Returns the losses, and the gradient by the features. The one by the head is added to what another
    /// head has left, or micro-batches before this one.
    pub(super) fn cross_entropy_grad(
        &self,
        [t, v, d]: [usize; 3],
        is_second: bool,
    ) -> (Allocation, Allocation) {
        let out = (self.allocate_sums(t), self.allocate(t * d));
        let cost = cost::cross_entropy_grad([t, v, d], self.widths, is_second || self.adds.get());
        self.op("cross_entropy_grad", "", [t, v, d], cost);
        out
    }

    /// Each token's K rows summed.
    pub(super) fn combine(&self, [t, k, d]: [usize; 3], add: bool) {
        let moved = t * k * d + (1 + usize::from(add)) * t * d;
        self.op("combine", "", [t, k, d], cost::moves(moved, self.widths.values));
    }
}
