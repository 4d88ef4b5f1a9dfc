//! What a step counts besides gradients: losses, expert loads, statistics of the routers' logits.

use lingot_device::{Device, Kind, Result, Tensor, ops};
use lingot_spec::ModelSpec;

/// Sums on the device, added to by every micro-batch of a step.
pub struct Tally {
    /// Sum of the losses, and of their squares, which nobody needs.
    pub(crate) main_2: Tensor,
    pub(crate) mtp_2: Tensor,
    /// One per routed layer, the multi-token-prediction layer last.
    pub(crate) routed: Vec<RoutedTally>,
}

/// One routed layer's sums.
pub(crate) struct RoutedTally {
    pub(crate) loads_e: Tensor,
    /// Balance loss over scopes, logsumexp^2 over tokens.
    pub(crate) losses_2: Tensor,
    /// Of the raw logits: sum, and sum of squares.
    pub(crate) moments_2: Tensor,
}

/// What a tally holds, off its device: to bring together what several devices counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Losses of the head and of multi-token prediction, then per routed layer its losses and moments; two each.
    pub sums: Vec<f64>,
    /// Per routed layer and expert.
    pub loads: Vec<Vec<i32>>,
}

impl Counts {
    /// Adds what another device counted.
    pub fn add(&mut self, other: &Counts) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, x)| *sum += x);
        for (loads, other) in self.loads.iter_mut().zip(&other.loads) {
            loads.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
        }
    }

    /// Whether it can have been counted: sums are finite, nothing fell on an expert less than never.
    pub fn is_sound(&self) -> bool {
        self.sums.iter().all(|sum| sum.is_finite()) && self.loads.iter().flatten().all(|&load| load >= 0)
    }

    /// Numbers in all.
    pub fn len(&self) -> usize {
        self.sums.len() + self.loads.iter().map(Vec::len).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The losses of a step, as means; auxiliary losses are summed over layers and not yet weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    pub main: f64,
    pub mtp: f64,
    pub balance: f64,
    pub z: f64,
    /// What is minimised: all of them, weighted.
    pub total: f64,
}

impl Tally {
    pub(crate) fn new(model: &ModelSpec, device: &Device, kind: Kind) -> Result<Tally> {
        let routed = (0..model.moe_layers() + model.mtp_layers)
            .map(|_| {
                Ok(RoutedTally {
                    loads_e: device.zeros(&[model.experts as usize], Kind::I32)?,
                    losses_2: device.zeros(&[2], kind)?,
                    moments_2: device.zeros(&[2], kind)?,
                })
            })
            .collect::<Result<Vec<RoutedTally>>>()?;
        Ok(Tally { main_2: device.zeros(&[2], kind)?, mtp_2: device.zeros(&[2], kind)?, routed })
    }

    pub(crate) fn clear(&self) -> Result<()> {
        ops::fill(&self.main_2, 0.0)?;
        ops::fill(&self.mtp_2, 0.0)?;
        for layer in &self.routed {
            ops::fill(&layer.loads_e, 0.0)?;
            ops::fill(&layer.losses_2, 0.0)?;
            ops::fill(&layer.moments_2, 0.0)?;
        }
        Ok(())
    }

    /// All of it. Waits for the device.
    pub fn counts(&self) -> Result<Counts> {
        let sums: Result<Vec<Vec<f64>>> = self.pairs().map(Tensor::to_doubles).collect();
        Ok(Counts { sums: sums?.concat(), loads: self.loads()? })
    }

    /// Takes what was counted elsewhere.
    pub fn set_counts(&self, counts: &Counts) -> Result<()> {
        for (pair, sums) in self.pairs().zip(counts.sums.chunks_exact(2)) {
            pair.write_doubles(sums)?;
        }
        self.routed
            .iter()
            .zip(&counts.loads)
            .try_for_each(|(layer, loads)| layer.loads_e.write_integers(loads))
    }

    fn pairs(&self) -> impl Iterator<Item = &Tensor> {
        let routed = self.routed.iter().flat_map(|layer| [&layer.losses_2, &layer.moments_2]);
        [&self.main_2, &self.mtp_2].into_iter().chain(routed)
    }

    /// How often each expert was chosen, per routed layer. Waits for the device.
    pub fn loads(&self) -> Result<Vec<Vec<i32>>> {
        self.routed.iter().map(|layer| layer.loads_e.to_integers()).collect()
    }
}
