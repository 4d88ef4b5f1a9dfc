//! Planted faults, to prove that the levels see them: in how the step is put together ([`wiring`]), or in a
//! device's ops (`ops`, and `sizes` for those that are wrong only beyond some size).
//!
//! No training can meet them: a faulty device is a wrapper, and only [`crate::self_test`] and tests build
//! one.

mod ops;
mod sizes;
pub mod wiring;

pub use ops::faulty;
pub use wiring::Wiring;

use serde::{Deserialize, Serialize};

/// A level of an alignment that can name what is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Every op with its definition.
    Ops,
    /// Every op of a step, fed with the reference's inputs.
    Modules,
    /// Some whole steps against f64.
    Step,
}

impl Level {
    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Level::Ops => "ops",
            Level::Modules => "modules",
            Level::Step => "step",
        }
    }
}

/// The list of all faults: name for people, the first level that finds it, and the places that may be named,
/// which are ops or, on the level of the step, quantities.
macro_rules! planted {
    ($($(#[$about:meta])* $Name:ident = $name:literal, $Level:ident $places:expr;)*) => {
        /// Ways to port a training system wrongly; the first five are those of the Ling report's figure 20
        /// and its text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Planted {
            $($(#[$about])* $Name,)*
        }

        impl Planted {
            /// All faults.
            pub const ALL: &'static [Planted] = &[$(Planted::$Name),*];

            /// The name for people.
            pub fn name(self) -> &'static str {
                match self { $(Planted::$Name => $name,)* }
            }

            /// The first level that finds the fault.
            pub fn level(self) -> Level {
                match self { $(Planted::$Name => Level::$Level,)* }
            }

            /// The ops, or quantities of a step, at which the fault may be found; it must be found at one of
            /// them.
            pub fn places(self) -> &'static [&'static str] {
                match self { $(Planted::$Name => &$places,)* }
            }
        }
    };
}

impl Planted {
    /// Whether the fault is one of the device's ops, rather than of how they are put together.
    pub fn alters_ops(self) -> bool {
        self.level() == Level::Ops || self == Planted::NormHeadNotDetached
    }
}

planted! {
    /// Each micro-batch takes the mean over itself, not over the step.
    MicroBatchScale = "micro-batch gradients scaled wrongly", Modules ["cross_entropy_grad"];
    /// The head is not normalised.
    NormHeadMissing = "NormHead missing", Modules ["column_scales"];
    /// The head's gradient also goes through its norm, which is detached by definition.
    NormHeadNotDetached = "NormHead's norm not detached", Modules ["cross_entropy_grad"];
    /// The gradient treats the sum of the chosen weights as a constant.
    RenormalisationGradientDropped = "router gradient through the renormalisation dropped", Ops ["route"];
    /// The balance loss is taken over a micro-batch, whatever its size.
    BalanceScopeFollowsMicroBatch = "balance loss whose scope follows the micro-batch", Modules ["route"];
    /// The sum of gradients leaves the last worker out.
    ReductionLosesWorker = "a reduction that loses a worker", Modules ["add"];
    /// The highest index wins a tie of the router.
    TiesTheOtherWay = "top-k ties broken the other way", Ops ["route"];
    /// Positions are one too large.
    RopeOffByOne = "RoPE off by one position", Ops ["rope"];
    /// The weight gradient of expert 0 is transposed.
    ExpertGradientTransposed = "one expert's weight gradient transposed", Ops ["grouped_matmul"];
    /// A product adds to what the product before it left in memory.
    StaleScratch = "stale scratch memory", Ops ["matmul"];
    /// Products whose sums are longer than 320 are 1 % too large.
    LongSumsTooLarge = "products with sums beyond 320 are 1 % too large", Ops ["matmul"];
    /// The last row of a product of more than 4,000 rows is not computed.
    LastRowLost = "the last row of products beyond 4,000 rows lost", Ops ["matmul"];
    /// Experts beyond the first 128 are never chosen.
    ExpertsBeyondUnseen = "experts beyond the first 128 never chosen", Ops ["route"];
    /// Queries see 1,024 keys at most.
    AttentionWindow = "attention that forgets keys 1,024 back", Ops ["attention"];
    /// Targets are cut to 16 bits.
    ShortTargets = "targets cut to 16 bits", Ops ["cross_entropy"];
    /// RoPE's table ends at position 4,095, which later ones share.
    RopeTableEnds = "RoPE's table ends at position 4,095", Ops ["rope"];
    /// Expert 5 computes with the weights of expert 4.
    ExpertOfAnother = "one expert computes with its neighbour's weights", Ops ["grouped_matmul"];
    /// Sums of long products are kept in bf16.
    SumsInBf16 = "sums of products kept in bf16", Ops ["matmul"];
    /// The last queries see the document before theirs.
    DocumentsLeak = "documents leak into the last tokens", Ops ["attention"];
    /// The weights of a token whose best scores are equal do not add up to the scale.
    TiesNotRenormalised = "ties not renormalised", Ops ["route"];
    /// A token's first two weights are exchanged.
    ChoicesExchanged = "weights of a token's choices exchanged", Ops ["route"];
    /// The gradient of the z-loss is dropped.
    ZLossGradientDropped = "gradient of the z-loss dropped", Ops ["route"];
    /// A token that occurs twice counts once in the embedding's gradient.
    RepeatedTokensLost = "embedding gradient loses repeated tokens", Ops ["embedding"];
    /// Epsilon is added to the second moment, not to its root.
    EpsilonInsideRoot = "epsilon inside AdamW's root", Ops ["adamw"];
    /// The moments' bias is corrected for one step less.
    CorrectionOneStepLate = "AdamW's bias correction one step late", Ops ["adamw"];
    /// Elements decay that should not.
    DecayOfAll = "AdamW's decay of all elements", Ops ["adamw"];
    /// The last micro-batch of a step is not computed.
    LastMicroBatchLost = "the last micro-batch lost", Modules ["embedding"];
    /// Gradients are not set to zero before a step.
    GradientsKept = "gradients of the step before kept", Modules ["fill"];
    /// The gradient norm leaves the embedding out.
    NormOmitsEmbedding = "gradient norm that omits the embedding", Step ["gradient norm"];
    /// Gradients are never clipped.
    ClipIgnored = "clip that never acts", Step ["first moment"];
    /// The decays of the two moments are exchanged.
    DecaysExchanged = "AdamW's two decays exchanged", Step ["first moment"];
    /// The optimizer takes the gradient of the step before.
    LateGradient = "update with the gradient of the step before", Step ["first moment"];
    /// The routers are never updated.
    TensorLeftOut = "one tensor left out of the update", Step ["weights"];
    /// The scales of norms decay too.
    NormsDecay = "weight decay of norms", Step ["weights"];
    /// The forward pass reads the weights of the step before.
    StaleWorkingCopy = "a working copy one step stale", Step ["loss", "router logits"];
    /// The selection bias moves by the loads of the step before.
    BiasOneStepStale = "selection bias one step stale", Step ["selection bias"];
    /// The selection bias moves by one worker's loads alone.
    BiasOfOneWorker = "selection bias of one worker's loads", Step ["selection bias"];
    /// Expert 0 is saved in the place of expert 1, and the other way round.
    ExpertSavedForAnother = "an expert saved for another", Step ["saved weights"];
    /// The second moment is not saved.
    MomentNotSaved = "second moment not saved", Step ["saved second moment"];
}
