//! Whole answers to random requests: every plan in them keeps every constraint, and more to choose from never
//! makes the best one worse.

use crate::chips::{Chip, answered};
use crate::search::Numbers;
use lingot_plan::answer::{Answer, Plan};

/// A request for two or three chips of two vendors.
#[derive(Clone)]
struct Case {
    chips: Vec<Chip>,
    objective: &'static str,
    deadline_h: Option<f64>,
    budget: Option<f64>,
    without: Option<String>,
}

impl Case {
    fn new(seed: u64) -> Case {
        let mut numbers = Numbers(seed);
        let count = 2 + numbers.below(2);
        let mut chip = |at: u64| Chip {
            name: format!("chip{at}"),
            vendor: format!("vendor{}", at % 2),
            memory_gb: numbers.between(16.0, 160.0),
            peak: numbers.between(1e14, 1e15),
            flops_per_byte: 200.0,
            network_bytes_per_s: 2e10,
            per_hour: numbers.between(0.5, 4.0),
            available: 1 + numbers.below(24),
        };
        let chips = (0..count).map(&mut chip).collect();
        let objective = if numbers.below(3) == 0 { "time" } else { "money" };
        let some = |numbers: &mut Numbers, value: f64| (numbers.below(3) == 0).then_some(value);
        let deadline = numbers.between(1.0, 40.0);
        let budget = numbers.between(40.0, 400.0);
        let deadline_h = some(&mut numbers, deadline);
        let budget = some(&mut numbers, budget);
        let without = (numbers.below(5) == 0).then(|| "vendor1".to_owned());
        Case { chips, objective, deadline_h, budget, without }
    }

    fn answer(&self) -> Answer {
        let mut limits: Vec<String> = Vec::new();
        limits.extend(self.deadline_h.map(|hours| format!("deadline_hours = {hours}")));
        limits.extend(
            self.budget.map(|amount| format!("budget = {{ amount = {amount}, currency = \"USD\" }}")),
        );
        limits.extend(self.without.iter().map(|vendor| format!("without = [\"{vendor}\"]")));
        let mut request = format!(
            "model = \"ling-lite\"\ntokens = 1e9\nsequence = 2048\nbatch_sequences = 64\ncurrency = \"USD\"\n\
             objective = \"{}\"\nconstraints = {{ {} }}\n",
            self.objective,
            limits.join(", ")
        );
        for chip in &self.chips {
            request += &format!("[[chips]]\nname = \"{}\"\n", chip.name);
        }
        answered(&request, &self.chips)
    }

    /// Checks a plan of the front, the best or the next best against the limits.
    fn check(&self, seed: u64, plan: &Plan) {
        let above = 1.0 + 1e-9;
        let hours = plan.seconds / 3600.0;
        assert!(self.deadline_h.is_none_or(|limit| hours <= limit * above), "{seed}: {hours} h");
        assert!(self.budget.is_none_or(|limit| plan.cost.amount <= limit * above), "{seed}: {:?}", plan.cost);
        for part in &plan.fleet {
            let chip = self.chips.iter().find(|chip| chip.name == part.chip).unwrap();
            assert!(part.count <= chip.available, "{seed}: {}", plan.name);
            assert_ne!(Some(&part.vendor), self.without.as_ref(), "{seed}: {}", plan.name);
        }
        for memory in &plan.memory {
            let full: f64 = memory.parts.iter().map(|part| part.amount).sum();
            assert!(full <= 0.95 * memory.has_bytes * above, "{seed}: {full} on {}", memory.chip);
        }
        let busy: f64 = plan.time.iter().map(|part| part.amount).sum();
        let steps = 1e9 / (64.0 * 2048.0);
        assert!((busy * steps / plan.seconds - 1.0).abs() < 1e-3, "{seed}: the parts of a step are the step");
    }

    /// The value of the objective; infinite where no fleet is allowed.
    fn value(&self, answer: &Answer) -> f64 {
        answer.best.as_ref().map_or(f64::INFINITY, |best| match self.objective {
            "time" => best.seconds,
            _ => best.cost.amount,
        })
    }
}

#[test]
fn every_plan_of_an_answer_keeps_every_constraint() {
    let (mut plans, mut over_two) = (0, 0);
    for seed in 0..60 {
        let case = Case::new(seed);
        let answer = case.answer();
        assert_eq!(answer.best.is_some(), answer.binding.is_none(), "{seed}");
        for plan in answer.best.iter().chain(&answer.pareto).chain(&answer.next_best) {
            case.check(seed, plan);
            plans += 1;
            over_two += usize::from(plan.layout.contains(" with "));
        }
        for pair in answer.pareto.windows(2) {
            assert!(pair[0].cost.amount <= pair[1].cost.amount && pair[0].seconds > pair[1].seconds);
        }
    }
    assert!(plans > 100 && over_two > 10, "{plans} plans, {over_two} with a replica over two types");
}

#[test]
fn another_type_more_cards_a_lower_price_and_looser_limits_never_make_an_answer_worse() {
    let mut compared = 0;
    for seed in 0..30 {
        let case = Case::new(seed);
        let before = case.value(&case.answer());
        let mut changes = vec![("a lower price", case.clone()), ("more cards", case.clone())];
        changes[0].1.chips[(seed % 2) as usize].per_hour *= 0.7;
        changes[1].1.chips.iter_mut().for_each(|chip| chip.available += 3);
        let mut more = case.clone();
        let added = Chip { name: "another".into(), ..case.chips[0].clone() };
        more.chips.push(Chip { memory_gb: 0.8 * added.memory_gb, peak: 1.3 * added.peak, ..added });
        changes.push(("another type", more));
        let mut looser = case.clone();
        looser.deadline_h = case.deadline_h.map(|hours| 1.5 * hours);
        looser.budget = case.budget.map(|amount| 1.5 * amount);
        looser.without = None;
        changes.push(("looser limits", looser));
        for (what, changed) in changes {
            let after = changed.value(&changed.answer());
            // The searches stop when they are within a ten thousandth of the best.
            assert!(after <= before * 1.0002, "{seed}, {what}: {before} became {after}");
            compared += usize::from(before.is_finite());
        }
    }
    assert!(compared > 40, "{compared}");
}
