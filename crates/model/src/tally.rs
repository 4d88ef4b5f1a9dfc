//! What a step adds up besides gradients: losses, expert loads, moments of the routers' logits.

use crate::inputs::Totals;
use lingot_device::{Device, Kind, Packed, Result, Tensor};
use lingot_spec::ModelSpec;

/// Sums on the device, added to by every micro-batch of a step. They lie in one piece of memory: one op
/// clears them, and one copy reads them.
pub struct Tally {
    packed: Packed,
    /// Sum of the losses, and of their squares, which the op gives as well.
    pub(crate) main_2: Tensor,
    pub(crate) mtp_2: Tensor,
    /// One per router, the multi-token-prediction layer's last.
    pub(crate) routed: Vec<RoutedTally>,
    /// The sum of squares of all gradients, `[1]`, where the optimizer has it added up.
    pub squares_1: Tensor,
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

    /// The losses of a step of `totals`, in sequences of `sequence` tokens.
    pub fn losses(&self, model: &ModelSpec, totals: Totals, sequence: usize) -> Losses {
        let tokens = totals.tokens as f64;
        let scopes = tokens / (sequence as f64 * f64::from(model.router.balance_sequences));
        let mut losses = Losses {
            main: self.sums[0] / (totals.targets as f64).max(1.0),
            mtp: self.sums[2] / (totals.mtp_targets as f64).max(1.0),
            ..Losses::default()
        };
        for routed in self.sums[4..].chunks_exact(4) {
            losses.balance += routed[0] / scopes;
            losses.z += routed[1] / tokens;
        }
        losses.total = losses.main
            + model.mtp_weight * losses.mtp
            + model.router.balance_loss * losses.balance
            + model.router.z_loss * losses.z;
        losses
    }

    /// The sums of each router's logits and of their squares.
    pub fn moments(&self) -> Vec<[f64; 2]> {
        self.sums[4..].chunks_exact(4).map(|routed| [routed[2], routed[3]]).collect()
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

/// What a tally holds, read at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Losses, loads, and moments of the routers' logits.
    pub counts: Counts,
    /// The sum of squares of all gradients.
    pub squares: f64,
}

impl Tally {
    pub(crate) fn new(model: &ModelSpec, device: &Device, kind: Kind) -> Result<Tally> {
        let routers = (model.moe_layers() + model.mtp_layers) as usize;
        let experts = [model.experts as usize];
        let mut parts: Vec<(&[usize], Kind)> = vec![(&[2], kind); PAIRS + PAIRS * routers];
        parts.push((&[1], kind));
        parts.extend(vec![(&experts[..], Kind::I32); routers]);
        let packed = Packed::zeros(device, &parts)?;
        let part = |index: usize| packed.parts()[index].clone();
        let routed = |router: usize| RoutedTally {
            losses_2: part(PAIRS + PAIRS * router),
            moments_2: part(PAIRS + PAIRS * router + 1),
            loads_e: part(PAIRS + PAIRS * routers + 1 + router),
        };
        let (main_2, mtp_2, squares_1) = (part(0), part(1), part(PAIRS + PAIRS * routers));
        Ok(Tally { main_2, mtp_2, squares_1, routed: (0..routers).map(routed).collect(), packed })
    }

    pub(crate) fn clear(&self) -> Result<()> {
        self.packed.clear()
    }

    /// Returns all that the tally holds. Waits for the device, once.
    pub fn read(&self) -> Result<Reading> {
        let parts = self.packed.read()?;
        let (pairs, rest) = parts.split_at(PAIRS + PAIRS * self.routed.len());
        let loads = |loads: &Vec<f64>| loads.iter().map(|&load| load as i32).collect();
        let counts = Counts { sums: pairs.concat(), loads: rest[1..].iter().map(loads).collect() };
        Ok(Reading { counts, squares: rest[0][0] })
    }

    /// Returns all sums and loads. Waits for the device.
    pub fn counts(&self) -> Result<Counts> {
        Ok(self.read()?.counts)
    }

    /// Replaces all sums and loads by `counts`, and the sum of squares by 0.
    ///
    /// # Panics
    /// If a layer has another number of experts.
    pub fn set_counts(&self, counts: &Counts) -> Result<()> {
        let pairs = counts.sums.chunks_exact(2).map(<[f64]>::to_vec);
        let loads = counts.loads.iter().map(|loads| loads.iter().copied().map(f64::from).collect());
        let parts: Vec<Vec<f64>> = pairs.chain([vec![0.0]]).chain(loads).collect();
        self.packed.write(&parts)
    }

    /// Returns how often each expert was chosen, by router and expert. Waits for the device.
    pub fn loads(&self) -> Result<Vec<Vec<i32>>> {
        Ok(self.counts()?.loads)
    }
}

/// Pairs of sums: of the two losses, and of each router.
const PAIRS: usize = 2;
