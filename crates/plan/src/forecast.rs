//! How far a plan's time may be off, and why it is what it is: the same fleet priced at another pace.

use crate::answer::{Change, Plan, Range, Share, Why};
use crate::fleet::Fleet;
use crate::floors::Pace;
use crate::layout::{Layout, Placer};
use crate::planner::Planner;
use crate::times::{Part, Times};

/// The range of a plan's time and cost, from the best to the worst pace that was measured; none where every
/// chip of the fleet is as measured or as given, and no exchange is left to doubt.
pub(crate) fn range(planner: &Planner<'_>, fleet: &Fleet) -> Option<Range> {
    let at = |pace: Pace| planner.at_pace(fleet, pace).map(|(_, fleet)| fleet);
    let (best, worst) = (at(Pace::Best)?, at(Pace::Worst)?);
    if (worst.seconds / best.seconds - 1.0).abs() < 1e-6 {
        return None;
    }
    Some(Range { seconds: [best.seconds, worst.seconds], cost: [best.money, worst.money] })
}

/// What is not in the model, and the one change that would bring most.
pub(crate) fn why(planner: &Planner<'_>, fleet: &Fleet, plan: &Plan) -> Why {
    Why { change: change(planner, fleet, plan), unmodelled: unmodelled(planner, fleet, plan) }
}

/// Parts that could be hidden behind computing.
const HIDEABLE: [Part; 5] =
    [Part::AgreeingInReplica, Part::AllToAll, Part::BetweenStages, Part::Exchange, Part::PipelineFilling];

fn seconds_of(parts: &[Share], name: &str) -> f64 {
    parts.iter().find(|share| share.part == name).map_or(0.0, |share| share.amount)
}

/// The part that is furthest above its floor, in seconds of a step: of a part that could be hidden, all of
/// it.
fn change(planner: &Planner<'_>, fleet: &Fleet, plan: &Plan) -> Option<Change> {
    let (floor, at_floor) = planner.at_pace(fleet, Pace::Floor)?;
    let floor = floor.describe(&at_floor, String::new());
    let all: f64 = plan.time.iter().map(|share| share.amount).sum();
    let gain = |share: &Share| {
        let is_hideable = HIDEABLE.iter().any(|part| part.name() == share.part);
        let least_s = if is_hideable { 0.0 } else { seconds_of(&floor.time, &share.part) };
        (share.amount - least_s).max(0.0) / all
    };
    let is_open = |share: &&Share| {
        let fixed = [Part::AsMeasured, Part::Waiting, Part::CheckpointsAndFailures];
        !fixed.iter().any(|part| part.name() == share.part)
    };
    let most = plan.time.iter().filter(is_open).max_by(|a, b| gain(a).total_cmp(&gain(b)))?;
    let saves = gain(most);
    let is_hideable = HIDEABLE.iter().any(|part| part.name() == most.part);
    let how = if is_hideable { "hidden behind computing" } else { "at its floor" };
    (saves > 0.005).then(|| Change { change: format!("{} {how}", most.part), saves })
}

fn unmodelled(planner: &Planner<'_>, fleet: &Fleet, plan: &Plan) -> Vec<String> {
    // A measured share of the peak has everything in it.
    if seconds_of(&plan.time, Part::AsMeasured.name()) > 0.0 {
        return vec![];
    }
    let all: f64 = plan.time.iter().map(|share| share.amount).sum();
    let exposed: f64 = HIDEABLE.iter().map(|part| seconds_of(&plan.time, part.name())).sum();
    let mut sentences = vec![
        "Weights and activations take four bytes each; in bf16 what moves would take half: too slow."
            .to_owned(),
        "Products are priced at the peak of bf16; FP8 is not used: too slow on chips that have it."
            .to_owned(),
    ];
    if exposed > 0.001 * all {
        sentences.push(format!(
            "Exchange, all-to-all and pipeline filling are hidden behind nothing: too slow by up to {:.0} %.",
            100.0 * exposed / all
        ));
    }
    let mut used = planner.layouts.iter().zip(&fleet.counts).filter(|(_, count)| **count > 0);
    if planner.model.mtp_layers > 0 && used.any(|(layout, _)| layout.shape.stages > 1) {
        sentences.push(
            "Multi-token prediction lies on the last stage, with no layer less there: too slow.".into(),
        );
    }
    sentences.extend([
        "A share of the batch is a real number, and the network beyond a machine is flat: too fast."
            .to_owned(),
        "The host is taken to launch ops ahead of the device: too fast for small micro-batches.".to_owned(),
    ]);
    sentences
}

impl<'a> Planner<'a> {
    /// The same fleet with its ways priced at another pace: the planner with these, and the fleet's time and
    /// cost. A replica over two types changes as the slower of the two.
    fn at_pace(&self, fleet: &Fleet, pace: Pace) -> Option<(Planner<'a>, Fleet)> {
        let mut question = self.question.clone();
        let mut layouts = self.layouts.clone();
        let used = (0..layouts.len()).filter(|at| fleet.counts.get(*at).is_some_and(|count| *count > 0));
        for at in used {
            let way = &self.question.ways[at];
            if self.request.chips[way.chip].utilisation.is_some() {
                continue;
            }
            let layout = &self.layouts[at];
            let placed = match way.second {
                None => self.placed(way.chip, layout, pace),
                Some(second) => {
                    let slower = |chip| self.slower(chip, layout, pace);
                    scaled(layout, slower(way.chip).max(slower(second.chip)))
                }
            };
            let way = &mut question.ways[at];
            way.tokens_per_s = placed.tokens_per_s;
            way.fixed_s = placed.fixed.total();
            way.least_s = placed.least_s();
            way.exchange_s = placed.exchange_s;
            layouts[at] = placed;
        }
        let found = question.evaluate(fleet.family, &fleet.counts)?;
        Some((self.with(question, layouts), found))
    }

    /// The layout at another pace, on one chip type.
    fn placed(&self, chip: usize, layout: &Layout, pace: Pace) -> Layout {
        let (request, model) = (self.request, &self.model);
        let placer = Placer { request, model, chip: self.chips[chip], profile: self.profile(chip), pace };
        let pieces = placer.pieces(layout.shape.expert_cards, layout.shape.recompute);
        placer.layout(&pieces, layout.shape)
    }

    /// Times that a layout takes on this chip type at another pace, by what it takes at the likely one.
    fn slower(&self, chip: usize, layout: &Layout, pace: Pace) -> f64 {
        let micro = |pace| self.placed(chip, layout, pace).micro.total();
        micro(pace) / micro(Pace::Likely)
    }
}

/// The layout with all its times longer.
fn scaled(layout: &Layout, times: f64) -> Layout {
    let longer = |known: &Times| {
        let mut all = Times::default();
        all.add_times(times, known);
        all
    };
    Layout {
        tokens_per_s: layout.tokens_per_s / times,
        fixed: longer(&layout.fixed),
        micro: longer(&layout.micro),
        exchange_s: layout.exchange_s * times,
        ..layout.clone()
    }
}
