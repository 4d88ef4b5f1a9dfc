//! What surrounds the best plan: each chip alone, the front between money and time, what was ruled out, and
//! what the numbers rest on.

use crate::answer::{Answer, Independence, Plan, Sensitivity};
use crate::binding::binding;
use crate::fleet::{Fleet, Question};
use crate::floors::MEASURED;
use crate::forecast;
use crate::planner::{EXPLANATORY, MAIN, Planner};
use crate::rejected::rejections;
use crate::request::ModelChoice;
use crate::search::Least;
use lingot_spec::run::Strategy;
use std::collections::BTreeMap;

/// Points between the cheapest and the fastest.
const FRONT: i32 = 8;

pub(crate) fn answer(planner: &Planner<'_>) -> Answer {
    let request = planner.request;
    let found = planner.search(&planner.question, planner.least(), MAIN);
    let best = found.best.as_ref();
    let plan = best.map(|fleet| Plan {
        range: forecast::range(planner, fleet),
        ..planner.describe(fleet, String::new())
    });
    let name = match &request.model {
        ModelChoice::Preset(name) => name.clone(),
        ModelChoice::Spec(_) => "a model of its own".into(),
    };
    Answer {
        model: name,
        parameters: planner.model.parameters() + planner.model.mtp_parameters(),
        tokens: request.tokens,
        objective: objective(planner),
        feasible: best.is_some(),
        binding: best.is_none().then(|| binding(planner)),
        why: best.zip(plan.as_ref()).map(|(fleet, plan)| forecast::why(planner, fleet, plan)),
        best: plan,
        single_chip: single(planner, best),
        pareto: best.map(|_| front(planner, best)).unwrap_or_default(),
        next_best: best.map(|best| next(planner, best)).unwrap_or_default(),
        rejected: rejections(planner).iter().map(|one| one.words(planner)).collect(),
        independence: best.map(|best| independence(planner, best)).unwrap_or_default(),
        sensitivity: best.map(|best| sensitivity(planner, best)).unwrap_or_default(),
        assumptions: assumptions(planner, found.gap, found.boxes),
    }
}

fn objective(planner: &Planner<'_>) -> String {
    let limits = &planner.request.constraints;
    let mut text = match planner.least() {
        Least::Money => "lowest cost".to_owned(),
        Least::Seconds => "shortest time".to_owned(),
    };
    if let Some(hours) = limits.deadline_hours {
        text += &format!(", within {hours} h");
    }
    if let Some(budget) = &limits.budget {
        text += &format!(", for at most {} {}", budget.amount, budget.currency);
    }
    for vendor in &limits.without {
        text += &format!(", without {vendor}");
    }
    for (vendor, share) in &limits.max_share {
        text += &format!(", at most {:.0} % by {vendor}", share * 100.0);
    }
    text
}

/// The best fleet of each chip alone; a cap on a vendor's share means nothing there.
fn single(planner: &Planner<'_>, best: Option<&Fleet>) -> BTreeMap<String, Plan> {
    let alone = |at: usize| {
        let question = Question { caps: Vec::new(), ..planner.only(|chip| chip == at) };
        let fleet = planner.search(&question, planner.least(), EXPLANATORY).best?;
        Some((planner.chips[at].name.clone(), planner.describe(&fleet, why(planner, &fleet, best))))
    };
    (0..planner.chips.len()).filter_map(alone).collect()
}

fn why(planner: &Planner<'_>, fleet: &Fleet, best: Option<&Fleet>) -> String {
    let Some(best) = best else { return "no fleet keeps all constraints".into() };
    let is_money = planner.least() == Least::Money;
    let ratio = if is_money { fleet.money / best.money } else { fleet.seconds / best.seconds };
    let percent = (ratio - 1.0).abs() * 100.0;
    let same = (ratio - 1.0).abs() < 1e-9;
    match (is_money, ratio < 1.0) {
        (true, _) if same => "costs as much as the best".into(),
        (false, _) if same => "takes as long as the best".into(),
        (true, true) => format!("costs {percent:.1} % less, but exceeds a vendor's greatest share"),
        (false, true) => format!("is {percent:.1} % faster, but exceeds a vendor's greatest share"),
        (true, false) => format!("costs {percent:.1} % more than the best"),
        (false, false) => format!("takes {percent:.1} % longer than the best"),
    }
}

/// Plans between the cheapest and the fastest that no other plan beats in both; all keep the constraints.
fn front(planner: &Planner<'_>, best: Option<&Fleet>) -> Vec<Plan> {
    let find = |question: &Question, least| planner.search(question, least, EXPLANATORY).best;
    let cheapest = find(&planner.question, Least::Money);
    let fastest = find(&planner.question, Least::Seconds);
    let mut fleets: Vec<Fleet> =
        [best.cloned(), cheapest.clone(), fastest.clone()].into_iter().flatten().collect();
    if let Some((cheapest, fastest)) = cheapest.zip(fastest) {
        for point in 1..FRONT {
            let ratio = (cheapest.seconds / fastest.seconds).powf(f64::from(point) / f64::from(FRONT));
            let deadline_s = Some(fastest.seconds * ratio);
            fleets.extend(find(&Question { deadline_s, ..planner.question.clone() }, Least::Money));
        }
    }
    fleets.sort_by(|a, b| a.money.total_cmp(&b.money).then(a.seconds.total_cmp(&b.seconds)));
    let mut kept: Vec<Fleet> = Vec::new();
    for fleet in fleets {
        if kept.last().is_none_or(|last| fleet.seconds < last.seconds) {
            kept.push(fleet);
        }
    }
    kept.iter().map(|fleet| planner.describe(fleet, String::new())).collect()
}

/// The best plan of each other strategy.
fn next(planner: &Planner<'_>, best: &Fleet) -> Vec<Plan> {
    let others = planner.question.families.iter().enumerate().filter(|(at, _)| *at != best.family);
    let other = |(_, family): (usize, &crate::fleet::Family)| {
        let question = Question { families: vec![*family], ..planner.question.clone() };
        let fleet = planner.search(&question, planner.least(), EXPLANATORY).best?;
        let family = planner.question.families.iter().position(|known| known == family)?;
        let fleet = Fleet { family, ..fleet };
        let mut plan = planner.describe(&fleet, why(planner, &fleet, Some(best)));
        plan.name = format!("{} ({})", plan.name, strategy_word(planner.question.families[family].strategy));
        Some(plan)
    };
    others.filter_map(other).collect()
}

fn strategy_word(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::EveryStep => "every step",
        Strategy::Edit => "EDiT",
        Strategy::AEdit => "A-EDiT",
    }
}

fn vendors(planner: &Planner<'_>) -> Vec<String> {
    let mut vendors: Vec<String> = planner.chips.iter().map(|chip| chip.vendor.clone()).collect();
    vendors.sort();
    vendors.dedup();
    vendors
}

fn independence(planner: &Planner<'_>, best: &Fleet) -> Vec<Independence> {
    let row = |vendor: String| {
        let without = planner.search(&planner.without(&vendor), planner.least(), EXPLANATORY).best;
        Independence { without: without.map(|fleet| fleet.money), with: Some(best.money), vendor }
    };
    vendors(planner).into_iter().map(row).collect()
}

/// What the best plan costs when the price of one of its chips rises.
fn sensitivity(planner: &Planner<'_>, best: &Fleet) -> Vec<Sensitivity> {
    let is_used = |at: usize| {
        planner
            .question
            .ways
            .iter()
            .zip(&best.counts)
            .any(|(way, count)| way.uses().any(|(chip, _)| chip == at) && *count > 0)
    };
    let row = |at: usize| {
        let mut question = planner.question.clone();
        question.ways.iter_mut().for_each(|way| way.reprice(at, 1.1));
        let raised = planner.search(&question, planner.least(), EXPLANATORY).best;
        Sensitivity {
            change: format!("{} at a 10 % higher price", planner.chips[at].name),
            with: best.money,
            then: raised.map(|fleet| fleet.money),
        }
    };
    (0..planner.chips.len()).filter(|&at| is_used(at)).map(row).collect()
}

/// Hours with one digit.
pub(crate) fn hours(seconds: f64) -> String {
    format!("{:.1} h", seconds / 3600.0)
}

/// An amount in the request's currency.
pub(crate) fn amount(planner: &Planner<'_>, money: f64) -> String {
    format!("{money:.2} {}", planner.request.currency)
}

/// What the times of ops rest on.
fn rests_on(planner: &Planner<'_>) -> String {
    let assume = &planner.request.assume;
    match (assume.compute_efficiency, assume.bandwidth_efficiency) {
        (Some(compute), Some(bandwidth)) => format!(
            "Where no profile is given, products reach {:.0} % of the peak, memory and links {:.0} % of \
             their bandwidth (as given)",
            compute * 100.0,
            bandwidth * 100.0
        ),
        _ => format!(
            "Where no profile is given, each kind of op is as far from its floor as on {MEASURED}, and links \
             reach 70 % of their bandwidth, 50 to 90 %: no chip's links were measured"
        ),
    }
}

fn assumptions(planner: &Planner<'_>, gap: f64, boxes: usize) -> Vec<String> {
    let request = planner.request;
    let assume = &request.assume;
    let mut all = vec![format!(
        "The search examined {boxes} sets of fleets; by this cost model, no fleet is better by more than \
         {:.3} %.",
        gap * 100.0
    )];
    for (chip, used) in planner.chips.iter().zip(&request.chips) {
        let price = chip.price.as_ref().map(|price| {
            format!("{} {} an hour ({}, {})", price.per_hour, price.currency, price.source, price.date)
        });
        all.push(format!("{}: {}.", chip.name, price.unwrap_or_default()));
        if let Some(share) = used.utilisation {
            all.push(format!(
                "{} reaches {:.1} % of its peak in fleets of any size, failures and exchange included (as \
                 given).",
                chip.name,
                share * 100.0
            ));
        }
    }
    if request.chips.iter().any(|used| used.utilisation.is_none()) {
        all.push(format!(
            "{}; the busiest expert has {:.3} times the mean load.",
            rests_on(planner),
            assume.skew
        ));
        all.push(format!(
            "A card fails {:e} times per hour; a checkpoint takes {} s, a restart {} s.",
            assume.failures_per_device_hour, assume.checkpoint_s, assume.restart_s
        ));
    }
    if request.strategies.iter().any(|strategy| *strategy != Strategy::EveryStep) {
        all.push("EDiT and A-EDiT are assumed to need no more tokens than agreeing in every step.".into());
    }
    all
}
