//! How far from its floor an op is on the chip that was measured, for chips that were not.
//!
//! An op's floor is the longer of its FLOPs at the chip's peak and its bytes at the chip's bandwidth. What
//! keeps a library's operators from it (launches, small tiles, passes that are not fused) belongs to the
//! program and its library more than to the chip, so a chip without a profile takes the distances of the
//! nearest chip that was measured: one H100 80GB with torch 2.11, operator by operator, in bf16 with 16,384
//! tokens, at two model shapes. The least and the most of a row are what those shapes, and variants of the
//! same operator, gave.

/// How optimistic a forecast is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Every op at its floor, links at their bandwidth: what no program passes.
    Floor,
    /// The best that was measured.
    Best,
    /// In between: what a plan is made with.
    Likely,
    /// The worst that was measured.
    Worst,
}

/// The chip whose distances are used where a chip has no profile.
pub(crate) const MEASURED: &str = "one H100 80GB, torch 2.11";

/// Times over the floor: at best, likely and at worst.
struct Distance {
    ops: &'static [&'static str],
    times: [f64; 3],
}

const fn row(ops: &'static [&'static str], times: [f64; 3]) -> Distance {
    Distance { ops, times }
}

/// 989 TFLOP/s and 3,350 GB/s over what was measured.
const DISTANCES: [Distance; 11] = [
    // 787 TFLOP/s at 8,192 cubed, 726 for a head's logits.
    row(&["matmul"], [1.26, 1.35, 1.6]),
    // 637 to 439 TFLOP/s.
    row(&["grouped_matmul", "grouped_matmul_weights"], [1.55, 1.8, 2.25]),
    // 447 TFLOP/s at best, 264 and 175 by the common operator.
    row(&["attention"], [2.2, 4.5, 5.7]),
    row(&["attention_grad"], [3.3, 6.0, 7.3]),
    // The logits' product and a softmax that is not fused with it.
    row(&["cross_entropy", "cross_entropy_grad"], [1.35, 1.6, 2.5]),
    // 1,940 to 960 GB/s.
    row(&["rms_norm", "rms_norm_grad"], [1.7, 2.2, 3.5]),
    row(&["dispatch"], [1.15, 1.2, 1.5]),
    row(&["combine"], [3.8, 5.0, 7.0]),
    // Composed of several passes: 711 to 427 GB/s.
    row(&["swiglu", "swiglu_grad"], [4.7, 6.0, 7.9]),
    // One call over all tensors, or one for each.
    row(&["adamw", "sum_of_squares", "fill"], [1.3, 1.5, 5.6]),
    // Composed ops that were not measured one by one.
    row(&[], [2.0, 5.0, 8.0]),
];

/// The share of their bandwidth that links reach: no chip's links were measured.
const LINKS: [f64; 3] = [0.9, 0.7, 0.5];

/// Times that an op takes over its floor.
pub(crate) fn over_floor(op: &str, pace: Pace) -> f64 {
    let found = DISTANCES.iter().find(|row| row.ops.contains(&op)).unwrap_or(&DISTANCES[10]);
    of(found.times, pace, 1.0)
}

/// The share of their bandwidth that links reach.
pub(crate) fn link_share(pace: Pace) -> f64 {
    of(LINKS, pace, 1.0)
}

fn of([best, likely, worst]: [f64; 3], pace: Pace, floor: f64) -> f64 {
    match pace {
        Pace::Floor => floor,
        Pace::Best => best,
        Pace::Likely => likely,
        Pace::Worst => worst,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_distance_grows_from_the_floor_to_the_worst() {
        for op in ["matmul", "attention", "combine", "adamw", "rope", "route"] {
            let times = [Pace::Floor, Pace::Best, Pace::Likely, Pace::Worst].map(|pace| over_floor(op, pace));
            assert!(times.is_sorted() && times[0] == 1.0, "{op}: {times:?}");
        }
        assert!(link_share(Pace::Worst) < link_share(Pace::Likely));
    }
}
