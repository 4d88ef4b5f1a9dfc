//! One sequence, a few tokens at a time: keys and values of what was read are kept, so nothing is read twice.

use crate::attention;
use crate::inputs::{Inputs, Rows};
use crate::mlp;
use crate::moe;
use crate::tally::Tally;
use crate::transformer::Model;
use crate::weights::{BlockWeights, MlpWeights};
use lingot_device::{Result, Tensor, ops};

/// Keys and values of the tokens read so far.
pub struct Cache {
    layers: Vec<[Tensor; 2]>,
    length: usize,
    capacity: usize,
    tally: Tally,
}

impl Cache {
    /// Room for `capacity` tokens.
    pub fn new(model: &Model, capacity: usize) -> Result<Cache> {
        let kind = model.parameters.flat.kind();
        let shape = [capacity, model.spec.kv_heads as usize, model.spec.head_width as usize];
        let layers = (0..model.spec.layers)
            .map(|_| Ok([model.device.empty(&shape, kind)?, model.device.empty(&shape, kind)?]))
            .collect::<Result<Vec<[Tensor; 2]>>>()?;
        Ok(Cache { layers, length: 0, capacity, tally: Tally::new(&model.spec, &model.device, kind)? })
    }

    /// Makes room for `capacity` tokens in all; what was read stays.
    pub fn reserve(&mut self, model: &Model, capacity: usize) -> Result<()> {
        if capacity <= self.capacity {
            return Ok(());
        }
        for pair in &mut self.layers {
            for tensor in pair {
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

    /// Tokens read so far.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Model {
    /// Reads `tokens` after what is in the cache; gives the V logits for the token after the last of them.
    ///
    /// # Panics
    /// If there are no tokens, or no room for them.
    pub fn read(&self, cache: &mut Cache, tokens: &[i32]) -> Result<Vec<f32>> {
        let count = tokens.len();
        assert!(count > 0 && cache.length + count <= cache.capacity, "the cache has no room");
        let positions: Vec<i32> =
            (cache.length..cache.length + count).map(|position| position as i32).collect();
        let rows = Rows {
            tokens_t: tokens,
            targets_t: &vec![-1; count],
            starts_t: &vec![0; count],
            positions_t: &positions,
            sequence: count,
        };
        let inputs = Inputs::new(&self.device, rows, false)?;
        let (weights, head) = self.parts();
        let mut x_td = ops::embedding(&weights.embedding, &inputs.tokens_t)?;
        for (layer, block) in weights.blocks.iter().enumerate() {
            x_td = self.read_block(layer, block, cache, &inputs, x_td)?;
        }
        cache.length += count;
        head.logits(&x_td.rows(count - 1, 1))?.to_floats()
    }

    fn read_block(
        &self,
        layer: usize,
        block: &BlockWeights,
        cache: &Cache,
        inputs: &Inputs,
        x_td: Tensor,
    ) -> Result<Tensor> {
        let (from, count) = (cache.length, x_td.shape()[0]);
        let [keys, values] = &cache.layers[layer];
        let raw = attention::project(&self.spec, &block.attention, &x_td)?;
        let new = attention::position(&self.spec, &block.attention, &raw, &inputs.positions_t)?;
        ops::copy(&keys.rows(from, count), &new.k_tgc)?;
        ops::copy(&values.rows(from, count), &new.v_tgc)?;
        let (keys, values) = (keys.rows(0, from + count), values.rows(0, from + count));
        let scale = attention::scale(&self.spec);
        let attended = ops::attention(&new.q_thc, &keys, &values, &inputs.starts_t, scale)?;
        let middle_td = attention::output(&self.spec, &block.attention, &attended.out_thc)?;
        ops::add(&middle_td, &x_td)?;

        let h_td = ops::rms_norm(&middle_td, &block.mlp_norm, self.spec.norm_epsilon)?;
        let out_td = match &block.mlp {
            MlpWeights::Dense(weights) => mlp::forward(weights, &h_td)?.0,
            MlpWeights::Moe(weights) => {
                let pass = self.decode_pass(layer, inputs, &cache.tally);
                moe::forward(&pass, weights, &h_td, None)?.0
            }
        };
        ops::add(&out_td, &middle_td)?;
        Ok(out_td)
    }
}
