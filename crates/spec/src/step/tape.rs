//! The record of a simulated step: its ops in order, and the bytes in use.

use super::StepOp;
use crate::cost::{self, Cost};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Bytes of a float, and of an id.
const WIDTH: usize = 4;

/// Ops and allocations as they are simulated.
pub(super) struct Tape {
    ops: RefCell<Vec<StepOp>>,
    memory: Rc<Memory>,
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
    pub(super) fn new(in_use: u64) -> Tape {
        let memory =
            Memory { in_use: Cell::new(in_use), peak: Cell::new(in_use), blocks: RefCell::default() };
        Tape { ops: RefCell::default(), memory: Rc::new(memory) }
    }

    pub(super) fn in_use(&self) -> u64 {
        self.memory.in_use.get()
    }

    /// Ends the simulation.
    pub(super) fn finish(self) -> Record {
        let blocks_bytes = self.memory.blocks.borrow().iter().map(|(bytes, [_, most])| bytes * most).sum();
        Record { ops: self.ops.into_inner(), peak_bytes: self.memory.peak.get(), blocks_bytes }
    }

    /// Allocates `numbers` floats.
    pub(super) fn allocate(&self, numbers: usize) -> Allocation {
        let bytes = (numbers * WIDTH) as u64;
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

    /// An op over rows that reads and writes `times` numbers for each of theirs.
    pub(super) fn moves(&self, name: &'static str, [rows, width]: [usize; 2], times: usize) {
        self.op(name, "", [rows, width], cost::moves(times * rows * width, WIDTH));
    }

    /// The same with a result of as many rows.
    pub(super) fn rows_out(&self, name: &'static str, shape: [usize; 2], times: usize) -> Allocation {
        let out = self.allocate(shape[0] * shape[1]);
        self.moves(name, shape, times);
        out
    }

    pub(super) fn fill(&self, numbers: usize) {
        self.moves("fill", [1, numbers], 1);
    }

    /// Rows added into a table of `entries` rows.
    pub(super) fn table(&self, name: &'static str, [rows, width]: [usize; 2], entries: usize) {
        self.op(name, "", [rows, width, entries], cost::moves(3 * rows * width, WIDTH));
    }

    pub(super) fn matmul(&self, sizes: [usize; 3], form: &'static str) -> Allocation {
        let out = self.allocate(sizes[0] * sizes[1]);
        self.op("matmul", form, sizes, cost::matmul(sizes, WIDTH, false));
        out
    }

    pub(super) fn matmul_onto(&self, sizes: [usize; 3], form: &'static str) {
        self.op("matmul", form, sizes, cost::matmul(sizes, WIDTH, true));
    }

    /// Rows times `[n, k]` of their experts; `flip` takes rows of n to rows of k.
    pub(super) fn grouped_matmul(&self, rows: usize, [e, n, k]: [usize; 3], flip: bool) -> Allocation {
        let out = self.allocate(rows * if flip { k } else { n });
        let form = if flip { "flip" } else { "" };
        self.op("grouped_matmul", form, [rows, e, n, k], cost::grouped_matmul(rows, [e, n, k], WIDTH));
        out
    }

    pub(super) fn grouped_matmul_weights(&self, rows: usize, [e, n, k]: [usize; 3]) {
        let cost = cost::grouped_matmul_weights(rows, [e, n, k], WIDTH);
        self.op("grouped_matmul_weights", "", [rows, e, n, k], cost);
    }

    pub(super) fn column_scales(&self, [v, d]: [usize; 2]) -> Allocation {
        let out = self.allocate(d);
        self.moves("column_scales", [v, d], 1);
        out
    }

    /// Returns the losses, and the gradient by the features.
    pub(super) fn cross_entropy_grad(&self, [t, v, d]: [usize; 3]) -> (Allocation, Allocation) {
        let out = (self.allocate(t), self.allocate(t * d));
        self.op("cross_entropy_grad", "", [t, v, d], cost::cross_entropy_grad([t, v, d], WIDTH));
        out
    }

    /// Each token's K rows summed.
    pub(super) fn combine(&self, [t, k, d]: [usize; 3], add: bool) {
        let moved = t * k * d + (1 + usize::from(add)) * t * d;
        self.op("combine", "", [t, k, d], cost::moves(moved, WIDTH));
    }
}
