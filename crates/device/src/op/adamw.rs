//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) with the global norm's clipping folded in, over all
//! tensors of a bundle at once.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;
use lingot_spec::Cost;
use std::ops::Range;

op! {
    /// One AdamW step in place. The gradient is first scaled by `min(1, clip / (sqrt(squares) + 1e-6))`. The
    /// parameter as it is held afterwards is also copied to `working` where given, which may round it. The
    /// decay reaches only the elements of the spans in `decayed`.
    AdamW = "adamw" {
        update parameter: sums, read gradient: sums, update first: sums, update second: sums,
        read squares_1: sums, write_if_given working: values_or_sums,
    }
    {
        /// The step's numbers.
        rule: AdamRule,
        /// Spans of elements that decay, in ascending order and apart from each other; some may be empty.
        decayed: &'a [Range<usize>],
    }
    cost |op| {
        let copied = op.working.map_or(Cost::default(), |working| moved(working.len(), working));
        moved(7 * op.parameter.len(), op.parameter) + copied
    }
}

/// The numbers of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamRule {
    /// The learning rate.
    pub rate: f64,
    /// The first moment's decay.
    pub beta1: f64,
    /// The second moment's decay.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay: an element that decays is first multiplied by `1 - rate * decay`.
    pub decay: f64,
    /// Steps done, this one included; from 1.
    pub step: u64,
    /// The largest norm of all gradients; 0 for no clipping.
    pub clip: f64,
}

/// Consecutive elements of a parameter that decay alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The elements; never none.
    pub elements: Range<usize>,
    /// Whether they decay.
    pub decays: bool,
}

impl AdamW<'_> {
    /// The stretches that make up the elements `within` of the parameter, in order.
    pub fn stretches(&self, within: Range<usize>) -> impl Iterator<Item = Stretch> {
        stretches(self.decayed, within)
    }
}

fn stretches(decayed: &[Range<usize>], within: Range<usize>) -> impl Iterator<Item = Stretch> {
    let mut spans = &decayed[decayed.partition_point(|span| span.end <= within.start)..];
    let mut at = within.start;
    std::iter::from_fn(move || {
        while let [first, rest @ ..] = spans
            && first.end <= at
        {
            spans = rest;
        }
        let (end, decays) = match spans.first() {
            Some(span) if span.start <= at => (span.end, true),
            Some(span) => (span.start, false),
            None => (within.end, false),
        };
        let elements = at..end.min(within.end);
        at = elements.end;
        (!elements.is_empty()).then_some(Stretch { elements, decays })
    })
}

/// Takes one AdamW step in place, and writes the new parameter to the working copy `working` as well, rounded
/// to its kind. `squares` holds the sum of squares of all gradients, so that the norm never leaves the
/// device. All tensors but `squares` are of one shape, such as the flat tensors of a model's bundles: then
/// `decayed` lists the spans of elements that decay, in ascending order. Errors if a span begins before the
/// end of the one before it, or ends beyond the parameter.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, op::AdamRule, ops};
/// let device = Device::new(Cpu::new(1));
/// let parameter = device.floats(&[1.0, 1.0], &[2], Kind::F32)?;
/// let gradient = device.floats(&[0.5, 0.5], &[2], Kind::F32)?;
/// let [first, second] = [0; 2].map(|_| device.zeros(&[2], Kind::F32));
/// let squares = device.zeros(&[1], Kind::F32)?;
/// let rule = AdamRule { rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 0.0, decay: 0.5, step: 1, clip: 0.0 };
/// ops::adamw(&parameter, &gradient, [&first?, &second?], &squares, rule, &[1..2], None)?;
/// let moved = parameter.to_floats()?;
/// assert!((moved[0] - 0.9).abs() < 1e-6, "the first step moves by the rate");
/// assert!((moved[1] - 0.85).abs() < 1e-6, "and what decays, by a twentieth before");
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn adamw(
    parameter: &Tensor,
    gradient: &Tensor,
    [first, second]: [&Tensor; 2],
    squares_1: &Tensor,
    rule: AdamRule,
    decayed: &[Range<usize>],
    working: Option<&Tensor>,
) -> Result<()> {
    let door = Door::new("adamw", parameter)?;
    let shape = parameter.shape();
    door.operand("gradient", gradient, shape)?;
    door.operand("first", first, shape)?;
    door.operand("second", second, shape)?;
    door.operand("squares", squares_1, &[1])?;
    if let Some(working) = working {
        door.operand("working", working, shape)?;
    }
    door.require(rule.step >= 1, "the step", rule.step, "at least 1")?;
    let mut from = 0;
    for span in decayed {
        let wanted = || format!("within {from}..{}", parameter.len());
        let is_inside = from <= span.start && span.start <= span.end && span.end <= parameter.len();
        door.require(is_inside, "a span that decays", format!("{span:?}"), wanted())?;
        from = span.end;
    }
    parameter.device().enqueue(AdamW {
        parameter,
        gradient,
        first,
        second,
        squares_1,
        rule,
        decayed,
        working,
    })
}

#[cfg(test)]
mod tests {
    use super::{Stretch, stretches};
    use std::ops::Range;

    /// The stretches of `within` as text: a minus sign before those that do not decay.
    fn told(decayed: &[Range<usize>], within: Range<usize>) -> String {
        let told = |Stretch { elements, decays }| format!("{}{elements:?}", if decays { "" } else { "-" });
        stretches(decayed, within).map(told).collect::<Vec<String>>().join(" ")
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "one span of elements")]
    fn stretches_cover_a_piece_whatever_the_spans_are() {
        assert_eq!(told(&[], 3..9), "-3..9");
        assert_eq!(told(&[0..20], 3..9), "3..9");
        assert_eq!(told(&[2..4, 4..5, 7..7, 8..12], 0..10), "-0..2 2..4 4..5 -5..7 -7..8 8..10");
        assert_eq!(told(&[2..4, 4..5, 7..7, 8..12], 4..8), "4..5 -5..7 -7..8");
        assert_eq!(told(&[0..0, 5..6, 6..6], 5..7), "5..6 -6..7");
        assert_eq!(told(&[1..2], 4..4), "");
    }
}
