//! What a step adds up besides gradients: losses, expert loads, moments of the routers' logits.

use lingot_device::{Device, Kind, Result, Tensor, ops};
use lingot_spec::ModelSpec;

/// Sums on the device, added to by every micro-batch of a step.
pub struct Tally {
    /// Sum of the losses, and of their squares, which the op gives as well.
    pub(crate) main_2: Tensor,
    pub(crate) mtp_2: Tensor,
    /// One per router, the multi-token-prediction layer's last.
    pub(crate) routed: Vec<RoutedTally>,
}

/// One router's sums.
pub(crate) struct RoutedTally {
    /// How often each expert was chosen.
    pub(crate) loads_e: Tensor,
    /// The balance loss summed over scopes, logsumexp^2 summed over tokens.
    pub(crate) losses_2: Tensor,
    /// Sum of the raw logits, and of their squares.
    pub(crate) moments_2: Tensor,
}

/// What a tally holds, as numbers on the host, so that several devices' counts can be added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Two sums each: the losses of the head and of multi-token prediction, then the losses and the logits'
    /// moments of each router.
    pub sums: Vec<f64>,
    /// How often each expert was chosen, by router and expert.
    pub loads: Vec<Vec<i32>>,
}

impl Counts {
    /// Adds another device's counts.
    pub fn add(&mut self, other: &Counts) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, x)| *sum += x);
        for (loads, other) in self.loads.iter_mut().zip(&other.loads) {
            loads.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
        }
    }

    /// Whether the counts are possible: all sums are finite and no load is negative.
    pub fn is_sound(&self) -> bool {
        self.sums.iter().all(|sum| sum.is_finite()) && self.loads.iter().flatten().all(|&load| load >= 0)
    }

    /// The number of sums and loads.
    pub fn len(&self) -> usize {
        self.sums.len() + self.loads.iter().map(Vec::len).sum::<usize>()
    }

    /// Whether there are no sums and no loads.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The losses of a step, as means; auxiliary losses are summed over layers and not weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Cross-entropy of the next token, in nats.
    pub main: f64,
    /// Cross-entropy of the token after the next, in nats; 0 without multi-token prediction.
    pub mtp: f64,
    /// The routers' balance loss.
    pub balance: f64,
    /// The routers' z-loss, the mean of logsumexp(logits)^2.
    pub z: f64,
    /// What is minimised: the weighted sum of the others.
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

    /// Returns all sums and loads. Waits for the device.
    pub fn counts(&self) -> Result<Counts> {
        let sums: Result<Vec<Vec<f64>>> = self.pairs().map(Tensor::to_doubles).collect();
        Ok(Counts { sums: sums?.concat(), loads: self.loads()? })
    }

    /// Replaces all sums and loads by `counts`.
    ///
    /// # Panics
    /// If a layer has another number of experts.
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

    /// Returns how often each expert was chosen, by router and expert. Waits for the device.
    pub fn loads(&self) -> Result<Vec<Vec<i32>>> {
        self.routed.iter().map(|layer| layer.loads_e.to_integers()).collect()
    }
}
