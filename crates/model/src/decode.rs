//! Decoding: one sequence, a few tokens at a time. Keys and values of earlier tokens are cached, so no token
//! is computed twice.

use crate::attention;
use crate::context::Context;
use crate::inputs::{Inputs, Rows};
use crate::mlp;
use crate::moe;
use crate::seam::Resident;
use crate::tally::Tally;
use crate::transformer::{Model, Through};
use crate::weights::{BlockWeights, MlpWeights};
use lingot_device::{Result, Tensor, ops};

/// Keys and values of the tokens read so far, on the model's device.
pub struct Cache {
    layers: Vec<KeysAndValues>,
    length: usize,
    capacity: usize,
    tally: Tally,
}

/// One layer's, `[capacity, G, C]` each.
struct KeysAndValues {
    keys: Tensor,
    values: Tensor,
}

impl Cache {
    /// Allocates a cache for `capacity` tokens.
    pub fn new(model: &Model, capacity: usize) -> Result<Cache> {
        let kind = model.kind();
        let shape = [capacity, model.spec.kv_heads as usize, model.spec.head_width as usize];
        let empty = || model.device.empty(&shape, kind);
        let layers = (0..model.spec.layers)
            .map(|_| Ok(KeysAndValues { keys: empty()?, values: empty()? }))
            .collect::<Result<Vec<KeysAndValues>>>()?;
        Ok(Cache { layers, length: 0, capacity, tally: Tally::new(&model.spec, &model.device, kind.sums())? })
    }

    /// Makes room for `capacity` tokens in all; what was read stays.
    pub fn reserve(&mut self, model: &Model, capacity: usize) -> Result<()> {
        if capacity <= self.capacity {
            return Ok(());
        }
        for layer in &mut self.layers {
            for tensor in [&mut layer.keys, &mut layer.values] {
                let shape = [&[capacity], &tensor.shape()[1..]].concat();
                let larger = model.device.empty(&shape, tensor.kind())?;
                if self.length > 0 {
                    ops::copy(&larger.rows(0, self.length), &tensor.rows(0, self.length))?;
                }
                *tensor = larger;
            }
        }
        self.capacity = capacity;
        Ok(())
    }

    /// The number of tokens read so far.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no token was read yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The largest number of tokens that can be read.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Model {
    /// Reads `tokens` after those in the cache; returns the V logits for the token after the last of them.
    /// Waits for the device.
    ///
    /// # Panics
    /// If there are no tokens, or if the cache's capacity is too small for them.
    pub fn read(&self, cache: &mut Cache, tokens: &[i32]) -> Result<Vec<f32>> {
        self.through(&Resident).read(cache, tokens)
    }
}

impl Through<'_> {
    /// As [`Model::read`].
    ///
    /// # Panics
    /// If there are no tokens, or if the cache's capacity is too small for them.
    pub fn read(&self, cache: &mut Cache, tokens: &[i32]) -> Result<Vec<f32>> {
        let count = tokens.len();
        assert!(
            count > 0 && cache.length + count <= cache.capacity,
            "too many tokens for the capacity of the cache, or none"
        );
        let positions: Vec<i32> =
            (cache.length..cache.length + count).map(|position| position as i32).collect();
        let rows = Rows {
            tokens_t: tokens,
            targets_t: &vec![-1; count],
            starts_t: &vec![0; count],
            positions_t: &positions,
            sequence: count,
        };
        let inputs = Inputs::new(&self.model.device, rows, false)?;
        let context = self.context(&inputs, &cache.tally);
        let x_td = self.forward(&inputs, |block, x_td| read_block(&context, block, cache, x_td))?;
        cache.length += count;
        self.logits_of(&x_td.rows(count - 1, 1))?.to_floats()
    }
}

/// Returns the block's output for the new tokens, `[T, D]`, and appends their keys and values to the cache's
/// memory.
fn read_block(context: &Context<'_>, block: &BlockWeights, cache: &Cache, x_td: Tensor) -> Result<Tensor> {
    let (model, inputs) = (context.model, context.inputs);
    let (from, count) = (cache.length, x_td.shape()[0]);
    let KeysAndValues { keys, values } = &cache.layers[block.number];
    let raw = attention::project(model, &block.attention, &x_td)?;
    let new = attention::position(model, &block.attention, &raw, &inputs.positions_t)?;
    ops::copy(&keys.rows(from, count), &new.k_tgc)?;
    ops::copy(&values.rows(from, count), &new.v_tgc)?;
    let (keys, values) = (keys.rows(0, from + count), values.rows(0, from + count));
    let scale = attention::scale(model);
    let attended = ops::attention(&new.q_thc, &keys, &values, &inputs.starts_t, scale)?;
    after_attention(context, block, &attended.out_thc, &x_td)
}

/// Returns the output of a block, `[T, D]`, whose attention over inputs `x_td` gave `[T, H, C]`.
pub(crate) fn after_attention(
    context: &Context<'_>,
    block: &BlockWeights,
    attended_thc: &Tensor,
    x_td: &Tensor,
) -> Result<Tensor> {
    let model = context.model;
    let middle_td = attention::output(model, &block.attention, attended_thc)?;
    ops::add(&middle_td, x_td)?;

    let h_td = ops::rms_norm(&middle_td, &block.mlp_norm, model.norm_epsilon)?;
    let out_td = match &block.mlp {
        MlpWeights::Dense(weights) => mlp::forward(weights, &h_td)?.0,
        MlpWeights::Moe(weights) => moe::forward(context, weights, &h_td, None, false)?.0,
    };
    ops::add(&out_td, &middle_td)?;
    Ok(out_td)
}
