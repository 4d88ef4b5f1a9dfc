//! The search against looking at every fleet there is, on many small questions.

use lingot_plan::fleet::{Cap, Family, Fleet, Question, Second, Way};
use lingot_plan::search::{Effort, Least, search};
use lingot_spec::run::Strategy;

/// A small generator of numbers, so that a failing case can be made again from its seed.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.below(1 << 20) as f64 / f64::from(1 << 20)
    }

    fn often(&mut self, value: f64) -> f64 {
        if self.below(3) == 0 { 0.0 } else { value }
    }
}

/// Sometimes, a replica over the first and the last chip.
fn over_two(ways: &[Way], numbers: &mut Numbers) -> Option<Way> {
    let (first, other) = (ways.first()?.clone(), ways.last()?);
    let share = numbers.between(0.1, 0.9);
    let second = Second { chip: other.chip, cards: other.cards, share, price_per_s: other.price_per_s };
    (first.chip != other.chip && numbers.below(2) == 0).then(|| Way {
        second: Some(second),
        tokens_per_s: (first.tokens_per_s + other.tokens_per_s) * numbers.between(0.7, 1.1),
        failures_per_s: first.failures_per_s + other.failures_per_s,
        price_per_s: first.price_per_s + other.price_per_s,
        ..first
    })
}

/// One to three chips in up to two ways each, some with constraints.
fn question(seed: u64) -> Question {
    let mut numbers = Numbers(seed);
    let chips = 1 + numbers.below(3) as usize;
    let cards: Vec<u32> = (0..chips).map(|_| numbers.below(7) as u32).collect();
    let mut ways = Vec::new();
    for chip in 0..chips {
        let per_card = numbers.between(1.0, 9.0);
        let failures = numbers.between(0.0, 1e-4);
        for _ in 0..=numbers.below(2) {
            let cards = 1 + numbers.below(2) as u32;
            ways.push(Way {
                chip,
                cards,
                second: None,
                tokens_per_s: f64::from(cards) * numbers.between(10.0, 90.0),
                fixed_s: {
                    let value = numbers.between(0.0, 3.0);
                    numbers.often(value)
                },
                least_s: {
                    let value = numbers.between(0.0, 20.0);
                    numbers.often(value)
                },
                exchange_s: {
                    let value = numbers.between(0.0, 10.0);
                    numbers.often(value)
                },
                failures_per_s: failures * f64::from(cards),
                price_per_s: per_card * f64::from(cards),
            });
        }
    }
    ways.extend(over_two(&ways, &mut numbers));
    let family = |strategy, steps_per_exchange, is_gated| Family { strategy, steps_per_exchange, is_gated };
    let mut families = vec![family(Strategy::EveryStep, 1.0, true)];
    if numbers.below(2) == 0 {
        families.push(family(Strategy::AEdit, 16.0, false));
    }
    let caps = if numbers.below(3) == 0 {
        let counts = (0..chips).map(|_| numbers.below(2) == 0).collect();
        vec![Cap { vendor: "one".into(), counts, share: numbers.between(0.0, 1.0) }]
    } else {
        vec![]
    };
    let mut question = Question {
        ways,
        families,
        cards,
        batch_tokens: 1000.0,
        steps: 100.0,
        checkpoint_s: 60.0,
        restart_s: 600.0,
        deadline_s: None,
        budget: None,
        caps,
    };
    // Constraints that are about as often kept as broken.
    if let Some(fleet) = every_fleet(&question).get(seed as usize % 7).cloned() {
        question.deadline_s = (numbers.below(2) == 0).then_some(fleet.seconds * numbers.between(0.3, 1.5));
        question.budget = (numbers.below(2) == 0).then_some(fleet.money * numbers.between(0.8, 2.0));
    }
    question
}

/// All that are allowed.
fn every_fleet(question: &Question) -> Vec<Fleet> {
    let most = |way: &Way| way.uses().map(|(chip, cards)| question.cards[chip] / cards).min().unwrap();
    let most: Vec<u32> = question.ways.iter().map(most).collect();
    let mut all = Vec::new();
    let mut counts = vec![0; most.len()];
    loop {
        let fleets = (0..question.families.len()).filter_map(|family| question.evaluate(family, &counts));
        all.extend(fleets.filter(|fleet| question.allows(fleet)));
        let Some(at) = counts.iter().zip(&most).position(|(count, most)| count < most) else { return all };
        counts[at] += 1;
        counts[..at].fill(0);
    }
}

fn least_of(fleets: &[Fleet], least: Least) -> Option<f64> {
    fleets.iter().map(|fleet| value(fleet, least)).min_by(f64::total_cmp)
}

fn value(fleet: &Fleet, least: Least) -> f64 {
    if least == Least::Money { fleet.money } else { fleet.seconds }
}

#[test]
fn the_search_finds_what_looking_at_every_fleet_finds() {
    let (mut found, mut infeasible) = (0, 0);
    for seed in 0..600 {
        let question = question(seed);
        let all = every_fleet(&question);
        for least in [Least::Money, Least::Seconds] {
            let answer = search(&question, least, Effort::PROOF);
            let value = answer.best.as_ref().map(|fleet| value(fleet, least));
            match (least_of(&all, least), value) {
                (None, None) => infeasible += 1,
                (Some(truth), Some(value)) => {
                    assert!((value / truth - 1.0).abs() < 1e-9, "seed {seed}: {value}, truly {truth}");
                    found += 1;
                }
                (truth, value) => panic!("seed {seed}: {value:?}, truly {truth:?}: {question:?}"),
            }
            assert_eq!(answer.gap, 0.0);
            assert!(answer.best.is_none_or(|fleet| question.allows(&fleet)));
        }
    }
    assert!(found > 400 && infeasible > 100, "{found} found, {infeasible} infeasible: a lopsided sample");
}

#[test]
fn a_search_that_is_cut_short_says_how_far_off_it_may_be() {
    for seed in 0..200 {
        let question = question(seed);
        let cut = search(&question, Least::Money, Effort { boxes: 3, gap: 0.0 });
        let truth = least_of(&every_fleet(&question), Least::Money);
        if let Some((found, truth)) = cut.best.map(|fleet| fleet.money).zip(truth) {
            assert!(found * (1.0 - cut.gap) <= truth * (1.0 + 1e-9), "seed {seed}: {found}, truly {truth}");
        }
    }
}

#[test]
fn a_looser_constraint_a_lower_price_and_another_card_never_make_the_answer_worse() {
    let mut compared = 0;
    for seed in 0..300 {
        let question = question(seed);
        let mut changes: Vec<Question> = Vec::new();
        let mut change = |edit: &dyn Fn(&mut Question)| {
            let mut changed = question.clone();
            edit(&mut changed);
            changes.push(changed);
        };
        change(&|question| question.budget = question.budget.map(|budget| budget * 1.3));
        change(&|question| question.deadline_s = question.deadline_s.map(|deadline_s| deadline_s * 1.3));
        change(&|question| question.cards.iter_mut().for_each(|cards| *cards += 1));
        change(&|question| {
            let added = question.cards.len();
            question.cards.push(3);
            question.caps.iter_mut().for_each(|cap| cap.counts.push(false));
            let way = question.ways[0].clone();
            question.ways.push(Way { chip: added, tokens_per_s: way.tokens_per_s * 1.3, ..way });
        });
        change(&|question| {
            let chip = question.ways[0].chip;
            for way in &mut question.ways {
                let others = way.second.map_or(0.0, |second| second.price_per_s);
                if way.chip == chip {
                    way.price_per_s -= 0.1 * (way.price_per_s - others);
                }
            }
        });
        for least in [Least::Money, Least::Seconds] {
            let Some(before) = search(&question, least, Effort::PROOF).best else { continue };
            for changed in &changes {
                let after = search(changed, least, Effort::PROOF).best.expect("there still is one");
                let (before, after) = (value(&before, least), value(&after, least));
                assert!(after <= before * (1.0 + 1e-9), "seed {seed}: {before} became {after}");
                compared += 1;
            }
        }
    }
    assert!(compared > 500, "{compared}");
}
