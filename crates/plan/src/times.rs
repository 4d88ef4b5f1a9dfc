//! The parts of a step's time, and seconds by part.

use crate::answer::Share;
use lingot_spec::step::StepOp;

/// A part of a step, in the order in which seconds are added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The cards of a replica sum the gradients that they share.
    AgreeingInReplica,
    /// The whole step of a chip whose utilisation is given.
    AsMeasured,
    /// Rows travel to the cards of their experts and back.
    AllToAll,
    /// Attention, forward and backward.
    Attention,
    /// All but the experts, where the parts are not told apart.
    AttentionAndRest,
    /// Activations pass from one pipeline stage to the next.
    BetweenStages,
    /// Checkpoints, failures and restarts.
    CheckpointsAndFailures,
    /// Replicas exchange gradients or weights.
    Exchange,
    /// The experts' products.
    Experts,
    /// The projection to the vocabulary and its loss.
    Head,
    /// Ops that are bound by memory: norms, routing, dispatch, combine.
    Moving,
    /// Products outside experts and attention.
    OtherProducts,
    /// The pipeline fills and drains.
    PipelineFilling,
    /// The optimizer's update.
    Update,
    /// Faster replicas wait for the slowest.
    Waiting,
}

/// Seconds by part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Times([f64; Part::ALL.len()]);

impl Part {
    const ALL: [Part; 15] = [
        Part::AgreeingInReplica,
        Part::AsMeasured,
        Part::AllToAll,
        Part::Attention,
        Part::AttentionAndRest,
        Part::BetweenStages,
        Part::CheckpointsAndFailures,
        Part::Exchange,
        Part::Experts,
        Part::Head,
        Part::Moving,
        Part::OtherProducts,
        Part::PipelineFilling,
        Part::Update,
        Part::Waiting,
    ];

    /// The part of a micro-batch that `op` belongs to; none for ops that a step runs once, whatever its
    /// micro-batches.
    pub(crate) fn of(op: &StepOp) -> Option<Part> {
        match op.name {
            "fill" | "adamw" | "sum_of_squares" | "balance_bias" => None,
            "grouped_matmul" | "grouped_matmul_weights" => Some(Part::Experts),
            "attention" | "attention_grad" => Some(Part::Attention),
            "cross_entropy" | "cross_entropy_grad" => Some(Part::Head),
            "matmul" => Some(Part::OtherProducts),
            _ => Some(Part::Moving),
        }
    }

    /// The name in answers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::AgreeingInReplica => "agreeing within a replica",
            Part::AsMeasured => "all, as measured",
            Part::AllToAll => "all-to-all",
            Part::Attention => "attention",
            Part::AttentionAndRest => "attention and the rest",
            Part::BetweenStages => "between stages",
            Part::CheckpointsAndFailures => "checkpoints and failures",
            Part::Exchange => "exchange",
            Part::Experts => "experts",
            Part::Head => "head",
            Part::Moving => "moving",
            Part::OtherProducts => "other products",
            Part::PipelineFilling => "pipeline filling",
            Part::Update => "update",
            Part::Waiting => "waiting for the slowest",
        }
    }
}

impl Times {
    /// Seconds of one part.
    pub(crate) fn of(&self, part: Part) -> f64 {
        self.0[part as usize]
    }

    /// The sum over all parts.
    pub(crate) fn total(&self) -> f64 {
        self.0.iter().sum()
    }

    /// The parts that take more than `least_s`, the longest first, by their names in answers.
    pub(crate) fn shares(&self, least_s: f64) -> Vec<Share> {
        let long = Part::ALL.into_iter().filter(|part| self.of(*part) > least_s);
        let share = |part: Part| Share { part: part.name().to_owned(), amount: self.of(part) };
        let mut shares: Vec<Share> = long.map(share).collect();
        shares.sort_by(|a, b| b.amount.total_cmp(&a.amount));
        shares
    }

    /// These seconds with those of one part replaced.
    pub(crate) fn with(mut self, part: Part, seconds: f64) -> Times {
        self.0[part as usize] = seconds;
        self
    }

    pub(crate) fn add(&mut self, part: Part, seconds: f64) {
        self.0[part as usize] += seconds;
    }

    /// Adds `count` times the seconds of `other`.
    pub(crate) fn add_times(&mut self, count: f64, other: &Times) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, seconds)| *sum += count * seconds);
    }

    /// What these seconds are above those of `other`, by part; 0 where they are below.
    pub(crate) fn above(&self, other: &Times) -> Times {
        let mut above = *self;
        above.0.iter_mut().zip(other.0).for_each(|(own, other)| *own = (*own - other).max(0.0));
        above
    }
}
