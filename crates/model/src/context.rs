//! What every layer needs to know of the micro-batch it computes.

use crate::inputs::{Inputs, Totals, Warmth};
use crate::routers::LogitStatistics;
use crate::tally::Tally;
use lingot_device::Tensor;
use lingot_spec::ModelSpec;
use lingot_spec::run::Recompute;

/// The surroundings of a layer: the same for all layers of a micro-batch.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) model: &'a ModelSpec,
    pub(crate) inputs: &'a Inputs,
    /// The whole step's, which the means of the losses are taken over.
    pub(crate) totals: Totals,
    /// Where the losses, the experts' loads and the logits' moments are added up.
    pub(crate) tally: &'a Tally,
    /// Selection biases `[E]` by router; empty where the routers have none.
    pub(crate) biases: &'a [Tensor],
    /// Statistics of the raw logits by router.
    pub(crate) statistics: &'a [LogitStatistics],
    pub(crate) warmth: Option<Warmth<'a>>,
    /// One policy per layer; the last one serves all that follow.
    pub(crate) recompute: &'a [Recompute],
}

impl Context<'_> {
    /// The recompute policy of layer `number`.
    pub(crate) fn recompute(&self, number: usize) -> Recompute {
        let last = self.recompute.len().saturating_sub(1);
        self.recompute.get(number.min(last)).copied().unwrap_or(Recompute::Nothing)
    }
}
