//! Decoding many sequences at once. Their keys and values lie in one pool of memory, each sequence's in one
//! piece, so that one forward pass reads the next tokens of all of them.
//!
//! A sequence whose segment is full is extended in place where room follows, or else moved; the pool grows
//! where neither is possible. Memory follows what was read, never what may be read at most.

use crate::attention;
use crate::context::Context;
use crate::decode::after_attention;
use crate::inputs::{Inputs, Rows};
use crate::seam::Resident;
use crate::tally::Tally;
use crate::transformer::{Model, Through};
use crate::weights::BlockWeights;
use lingot_device::{Result, Tensor, ops};
use std::ops::Range;

/// The smallest segment in tokens, and the step in which segments grow at least.
const LEAST: usize = 64;

/// Keys and values of several sequences, on the model's device.
pub struct Pool {
    /// By layer, keys and values `[capacity, G, C]`.
    layers: Vec<[Tensor; 2]>,
    capacity: usize,
    /// The segments of the sequences that are read, by their start.
    segments: Vec<Segment>,
    tally: Tally,
    next: u64,
}

/// The place of a sequence's keys and values.
#[derive(Clone, Debug)]
struct Segment {
    id: SequenceId,
    start: usize,
    /// Tokens there is room for.
    room: usize,
    /// Tokens that were read.
    length: usize,
}

/// A sequence in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceId(u64);

impl Pool {
    /// An empty pool.
    pub fn new(model: &Model) -> Result<Pool> {
        let tally = Tally::new(&model.spec, &model.device, model.kind().sums())?;
        Ok(Pool { layers: empty(model, 0)?, capacity: 0, segments: Vec::new(), tally, next: 0 })
    }

    /// Begins a sequence of which nothing was read yet.
    pub fn begin(&mut self) -> SequenceId {
        let id = SequenceId(self.next);
        self.next += 1;
        let end = self.segments.last().map_or(0, |last| last.start + last.room);
        self.segments.push(Segment { id, start: end, room: 0, length: 0 });
        id
    }

    /// Ends a sequence; its place is free for others.
    pub fn end(&mut self, id: SequenceId) {
        self.segments.retain(|segment| segment.id != id);
    }

    /// The tokens that a sequence has read.
    pub fn len(&self, id: SequenceId) -> usize {
        self.segments.iter().find(|segment| segment.id == id).map_or(0, |segment| segment.length)
    }

    /// Whether no sequence is being read.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The tokens that the pool has memory for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for `more` tokens of a sequence.
    fn reserve(&mut self, model: &Model, id: SequenceId, more: usize) -> Result<()> {
        let Some(at) = self.segments.iter().position(|segment| segment.id == id) else { return Ok(()) };
        let needed = self.segments[at].length + more;
        if needed <= self.segments[at].room {
            return Ok(());
        }
        let wanted = needed.max(2 * self.segments[at].room).next_multiple_of(LEAST);
        let start = self.segments[at].start;
        let limit = self.segments.get(at + 1).map_or(self.capacity, |next| next.start);
        // A segment without room has no place of its own yet.
        if self.segments[at].room > 0 && limit.saturating_sub(start) >= needed {
            self.segments[at].room = wanted.min(limit - start);
            return Ok(());
        }
        let place = match self.gap(wanted) {
            Some(place) => place,
            None => {
                let end = self.segments.iter().map(|segment| segment.start + segment.room).max().unwrap_or(0);
                self.grow(model, (end + wanted).max(2 * self.capacity))?;
                end
            }
        };
        let moved = Segment { start: place, room: wanted, ..self.segments[at].clone() };
        for tensor in self.layers.iter().flatten().filter(|_| moved.length > 0) {
            ops::copy(&tensor.rows(place, moved.length), &tensor.rows(start, moved.length))?;
        }
        self.segments[at] = moved;
        self.segments.sort_by_key(|segment| segment.start);
        Ok(())
    }

    /// The start of the first gap of `room` tokens between segments.
    fn gap(&self, room: usize) -> Option<usize> {
        let taken = self.segments.iter().filter(|segment| segment.room > 0);
        let mut from = 0;
        for Segment { start, room: taken, .. } in taken {
            if start.saturating_sub(from) >= room {
                return Some(from);
            }
            from = from.max(start + taken);
        }
        (self.capacity.saturating_sub(from) >= room).then_some(from)
    }

    /// Makes the pool larger; everything stays where it is.
    fn grow(&mut self, model: &Model, capacity: usize) -> Result<()> {
        let mut larger = empty(model, capacity)?;
        for (larger, old) in larger.iter_mut().flatten().zip(self.layers.iter().flatten()) {
            if self.capacity > 0 {
                ops::copy(&larger.rows(0, self.capacity), old)?;
            }
        }
        (self.layers, self.capacity) = (larger, capacity);
        Ok(())
    }
}

fn empty(model: &Model, capacity: usize) -> Result<Vec<[Tensor; 2]>> {
    let kind = model.kind();
    let shape = [capacity, model.spec.kv_heads as usize, model.spec.head_width as usize];
    let one = || Ok([model.device.empty(&shape, kind)?, model.device.empty(&shape, kind)?]);
    (0..model.spec.layers).map(|_| one()).collect()
}

/// The tokens that follow in one sequence.
pub struct Next<'a> {
    /// The sequence.
    pub id: SequenceId,
    /// Its next tokens, at least one.
    pub tokens: &'a [i32],
}

/// Where the tokens of one sequence lie.
struct Part {
    /// Among the tokens of this pass.
    rows: Range<usize>,
    /// First place of the sequence in the pool.
    start: usize,
    /// Tokens of the sequence read before.
    before: usize,
}

impl Model {
    /// Reads the next tokens of several sequences at once; returns for each the V logits after the last of
    /// its tokens. Waits for the device. Errors if the device has no room; then nothing was read.
    ///
    /// # Panics
    /// If there are no sequences, one has no tokens, is named twice or was ended.
    pub fn read_many(&self, pool: &mut Pool, next: &[Next<'_>]) -> Result<Vec<Vec<f32>>> {
        self.through(&Resident).read_many(pool, next)
    }
}

impl Through<'_> {
    /// As [`Model::read_many`].
    ///
    /// # Panics
    /// If there are no sequences, one has no tokens, is named twice or was ended.
    pub fn read_many(&self, pool: &mut Pool, next: &[Next<'_>]) -> Result<Vec<Vec<f32>>> {
        assert!(!next.is_empty(), "no sequences to read");
        for Next { id, tokens } in next {
            pool.reserve(self.model, *id, tokens.len())?;
        }
        let parts = parts(pool, next);
        let tokens: Vec<i32> = next.iter().flat_map(|next| next.tokens).copied().collect();
        let positions = parts.iter().flat_map(|part| part.before..part.before + part.rows.len());
        let positions: Vec<i32> = positions.map(|position| position as i32).collect();
        let rows = Rows {
            tokens_t: &tokens,
            targets_t: &vec![-1; tokens.len()],
            starts_t: &vec![0; tokens.len()],
            positions_t: &positions,
            sequence: tokens.len(),
        };
        let inputs = Inputs::new(&self.model.device, rows, false)?;
        let context = self.context(&inputs, &pool.tally);
        let x_td = self.forward(&inputs, |block, x_td| {
            read_block(&context, block, &pool.layers[block.number], &parts, x_td)
        })?;
        let logits = self.logits_of(&last_rows(&x_td, &parts)?)?.to_floats()?;
        for Next { id, tokens } in next {
            let of_sequence = pool.segments.iter_mut().filter(|segment| segment.id == *id);
            of_sequence.for_each(|segment| segment.length += tokens.len());
        }
        let vocabulary = self.model.spec.vocabulary as usize;
        Ok(logits.chunks_exact(vocabulary).map(<[f32]>::to_vec).collect())
    }
}

fn parts(pool: &Pool, next: &[Next<'_>]) -> Vec<Part> {
    let mut first = 0;
    let part = |next: &Next<'_>| {
        let segment = pool.segments.iter().find(|segment| segment.id == next.id);
        let segment = segment.expect("a sequence that was begun and not ended");
        assert!(!next.tokens.is_empty(), "a sequence without tokens");
        let rows = first..first + next.tokens.len();
        first = rows.end;
        Part { rows, start: segment.start, before: segment.length }
    };
    next.iter().map(part).collect()
}

/// The last row of each part, `[parts, D]`.
fn last_rows(x_td: &Tensor, parts: &[Part]) -> Result<Tensor> {
    if parts.len() == x_td.shape()[0] {
        return Ok(x_td.clone());
    }
    let last = x_td.device().empty(&[parts.len(), x_td.shape()[1]], x_td.kind())?;
    for (row, part) in parts.iter().enumerate() {
        ops::copy(&last.rows(row, 1), &x_td.rows(part.rows.end - 1, 1))?;
    }
    Ok(last)
}

/// Returns the block's output for the new tokens of all sequences, `[T, D]`, and appends their keys and
/// values to the pool's memory. Everything but attention is computed for all sequences together.
fn read_block(
    context: &Context<'_>,
    block: &BlockWeights,
    [keys, values]: &[Tensor; 2],
    parts: &[Part],
    x_td: Tensor,
) -> Result<Tensor> {
    let (model, inputs) = (context.model, context.inputs);
    let raw = attention::project(model, &block.attention, &x_td)?;
    let new = attention::position(model, &block.attention, &raw, &inputs.positions_t)?;
    let out_thc = x_td.device().empty(new.q_thc.shape(), new.q_thc.kind())?;
    for Part { rows, start, before } in parts {
        let (first, count) = (rows.start, rows.len());
        ops::copy(&keys.rows(start + before, count), &new.k_tgc.rows(first, count))?;
        ops::copy(&values.rows(start + before, count), &new.v_tgc.rows(first, count))?;
        let [keys, values] = [keys, values].map(|tensor| tensor.rows(*start, before + count));
        let (query, starts) = (new.q_thc.rows(first, count), inputs.starts_t.rows(first, count));
        let attended = ops::attention(&query, &keys, &values, &starts, attention::scale(model))?;
        ops::copy(&out_thc.rows(first, count), &attended.out_thc)?;
    }
    after_attention(context, block, &out_thc, &x_td)
}
