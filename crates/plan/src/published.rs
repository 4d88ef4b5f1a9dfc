//! Published training speeds, and what the planner's distances from the floor say of each: the page
//! `docs/forecasts.md`.
//!
//! Each run is predicted for its own practice (precision, expert parallelism, overlap), which is not
//! Lingot's, by the same table of distances that prices a chip without a profile. Two numbers are shared by
//! all runs and none belongs to one: what FP8 makes of products, and what running on many machines costs.

mod runs;

use crate::floors::{Pace, link_share, over_floor};
use runs::RUNS;
use std::fmt::Write;

/// Times by which FP8 with block scales makes a product faster than bf16: half of the way to the peak's two,
/// about, after DeepSeek-V3's and Ling 2.0's reports.
const FP8: f64 = 1.3;
/// The share of a step that pipelines, stragglers and the network's diameter add beyond one machine.
const BEYOND_A_MACHINE: f64 = 0.15;
/// Cards of a machine.
const MACHINE: f64 = 8.0;

/// The sizes of a model that its speed depends on.
#[derive(Clone, Copy)]
struct Sizes {
    layers: f64,
    width: f64,
    heads: f64,
    kv_heads: f64,
    head_width: f64,
    experts: f64,
    choices: f64,
    expert_width: f64,
    /// Inner width of what every token visits.
    shared_width: f64,
    vocabulary: f64,
    dense_layers: f64,
    dense_width: f64,
    /// Parameters of a layer's attention, where they do not follow from the heads.
    attention: Option<f64>,
    /// Keys that every second layer sees at most.
    window: Option<f64>,
}

/// A card by its data sheet.
#[derive(Clone, Copy)]
struct Card {
    name: &'static str,
    /// Dense bf16.
    peak_flops: f64,
    bandwidth_bytes_per_s: f64,
    link_bytes_per_s: f64,
    network_bytes_per_s: f64,
}

/// How the run was done.
#[derive(Clone, Copy)]
struct Practice {
    has_fp8: bool,
    sequence: f64,
    cards: f64,
    /// Cards that share the experts of a layer.
    expert_cards: f64,
    /// Machines that a token's choices may lie on.
    machines: f64,
    /// Whether all-to-all is hidden behind computing.
    overlaps: bool,
}

/// A published run.
struct Run {
    name: &'static str,
    sizes: Sizes,
    card: Card,
    practice: Practice,
    /// Tokens per second and card; or, where the source gives them, model TFLOP/s per card.
    published: Speed,
    source: &'static str,
    /// What the source says of the practice, or what is assumed of it.
    remark: &'static str,
}

#[derive(Clone, Copy)]
enum Speed {
    Tokens(f64),
    Teraflops(f64),
}

/// Multiply-adds of one token forward, by part.
struct Work {
    products: f64,
    experts: f64,
    head: f64,
    attention: f64,
}

impl Work {
    fn total(&self) -> f64 {
        self.products + self.experts + self.head + self.attention
    }
}

impl Run {
    fn work(&self) -> Work {
        let Sizes { layers, width: d, heads, kv_heads, head_width: c, .. } = self.sizes;
        let of_heads = d * c * (2.0 * heads + 2.0 * kv_heads);
        let routed = layers - self.sizes.dense_layers;
        let shared = self.sizes.shared_width * 3.0 * d + d * self.sizes.experts;
        let context = self.practice.sequence / 2.0;
        let context = self.sizes.window.map_or(context, |window| (context + window) / 2.0);
        Work {
            products: layers * self.sizes.attention.unwrap_or(of_heads)
                + routed * shared
                + self.sizes.dense_layers * 3.0 * d * self.sizes.dense_width,
            experts: routed * self.sizes.choices * 3.0 * d * self.sizes.expert_width,
            head: self.sizes.vocabulary * d,
            attention: layers * 2.0 * context * heads * c,
        }
    }

    /// Tokens per second and card as published.
    fn published(&self) -> f64 {
        match self.published {
            Speed::Tokens(tokens) => tokens,
            Speed::Teraflops(teraflops) => teraflops * 1e12 / (6.0 * self.work().total()),
        }
    }

    /// Seconds of a token on one card, forward and backward, by part.
    fn seconds(&self) -> [(&'static str, f64); 6] {
        let times = |op: &str| over_floor(op, Pace::Likely);
        let (work, flops) = (self.work(), self.card.peak_flops);
        let faster = if self.practice.has_fp8 { FP8 } else { 1.0 };
        let attention = 2.0 * times("attention") + 4.0 * times("attention_grad");
        let mut parts = [
            ("products", 6.0 * work.products / flops * times("matmul") / faster),
            ("experts", 6.0 * work.experts / flops * times("grouped_matmul") / faster),
            ("head", 6.0 * work.head / flops * times("cross_entropy")),
            ("attention", work.attention / flops * attention),
            ("moving", self.moved_s()),
            ("exchange", self.exchange_s()),
        ];
        if self.practice.cards > MACHINE {
            parts.iter_mut().for_each(|(_, seconds)| *seconds *= 1.0 + BEYOND_A_MACHINE);
        }
        parts
    }

    /// Ops that memory limits: norms, residual sums, RoPE, dispatch, combine, SwiGLU, in bf16.
    fn moved_s(&self) -> f64 {
        let Sizes { layers, width: d, choices: k, expert_width: f, .. } = self.sizes;
        let times = |op: &str| over_floor(op, Pace::Likely);
        let heads = (self.sizes.heads + self.sizes.kv_heads) * self.sizes.head_width;
        let every = 20.0 * d * times("rms_norm") + 24.0 * d * times("dispatch") + 8.0 * heads * times("rope");
        let rows = 8.0 * k * d * times("dispatch") + 4.0 * k * d * times("combine");
        let inner = 16.0 * (k * f + self.sizes.shared_width) * times("swiglu");
        let dense = 16.0 * self.sizes.dense_width * times("swiglu");
        let routed = layers - self.sizes.dense_layers;
        let bytes = layers * every + routed * (rows + inner) + self.sizes.dense_layers * dense;
        bytes / self.card.bandwidth_bytes_per_s
    }

    /// Rows to the cards of their experts and back, forward and backward, in bf16: once to each machine, then
    /// to each card.
    fn exchange_s(&self) -> f64 {
        let Practice { expert_cards: cards, machines, overlaps, .. } = self.practice;
        if cards <= 1.0 || overlaps {
            return 0.0;
        }
        let routed = self.sizes.layers - self.sizes.dense_layers;
        let row_bytes = routed * 4.0 * 2.0 * self.sizes.width;
        let inside = cards.min(MACHINE);
        let near_s = row_bytes * self.sizes.choices * (inside - 1.0) / inside / self.card.link_bytes_per_s;
        let all = (cards / MACHINE).max(1.0);
        let reached = self.sizes.choices.min(all).min(machines);
        let far_s = row_bytes * reached * (all - 1.0) / all / self.card.network_bytes_per_s;
        (near_s + far_s) / link_share(Pace::Likely)
    }
}

/// Returns the page: a table of published runs with their forecasts, the errors, and what the worst are due
/// to.
pub fn page() -> String {
    let mut text = String::from(INTRODUCTION);
    let mut errors: Vec<f64> = vec![];
    for (number, run) in RUNS.iter().enumerate() {
        let parts = run.seconds();
        let (predicted, published) = (1.0 / parts.iter().map(|part| part.1).sum::<f64>(), run.published());
        let error = predicted / published - 1.0;
        errors.push(error.abs());
        let precision = if run.practice.has_fp8 { "FP8" } else { "bf16" };
        let _ = writeln!(
            text,
            "| {} | {} | {} x {} | {precision}, {} | {published:.0} | {predicted:.0} | {:+.0} % | {} |",
            number + 1,
            run.name,
            run.practice.cards,
            run.card.name,
            run.practice.sequence,
            100.0 * error,
            shares(&parts)
        );
    }
    errors.sort_by(f64::total_cmp);
    let middle = (errors[(errors.len() - 1) / 2] + errors[errors.len() / 2]) / 2.0;
    let worst = errors.last().copied().unwrap_or(0.0);
    let _ = writeln!(
        text,
        "\nMedian error {:.0} %, worst {:.0} %, over {} runs.\n",
        100.0 * middle,
        100.0 * worst,
        errors.len()
    );
    text += WORST;
    for (number, run) in RUNS.iter().enumerate() {
        text += &wrapped(&format!("{}. {}. {}", number + 1, run.source, run.remark));
    }
    text
}

/// The text in lines of at most 110 columns, those after the first indented as a list's are.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        if column > 0 && column + word.len() >= 110 {
            lines += "\n  ";
            column = 2;
        }
        let gap = if column == 0 { "" } else { " " };
        lines += &format!("{gap}{word}");
        column += word.len() + 1;
    }
    lines + "\n"
}

/// The two largest parts of a forecast.
fn shares(parts: &[(&str, f64)]) -> String {
    let all: f64 = parts.iter().map(|part| part.1).sum();
    let mut sorted: Vec<&(&str, f64)> = parts.iter().collect();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
    let words = sorted.iter().take(2).map(|(part, seconds)| format!("{part} {:.0} %", 100.0 * seconds / all));
    words.collect::<Vec<_>>().join(", ")
}

const INTRODUCTION: &str = "# Forecasts against published runs

`UPDATE_EXPECT=1 cargo test -p lingot-plan published` writes this page; the same test without the variable
fails if it is not what the code says. A forecast rests on the distances of ops from their floors that one
H100 showed (`crates/plan/src/floors.rs`), on data sheets, and on two numbers for all runs: FP8 makes products
1.3 times as fast, and more than one machine costs 15 %. No number belongs to a single run. Dense models are
left out. All forecasts are of the *run's* practice, with bf16 tensors and its own expert parallelism: Lingot
itself is predicted by `lingot plan`.

Tokens per second and card; the parts are those of the forecast.

| | model | cards | precision, sequence | published | forecast | error | largest parts |
|---|---|---|---|---|---|---|---|
";

const WORST: &str = "The worst are those whose practice is not published (the real runs of Ling-Plus, which \
include restarts,\nevaluation and real routing), and a chip whose libraries are further from its floors than \
the H100's are (the\nMI355X): the table of distances has one measured chip so far. Runs with real routing \
(MLPerf) are predicted as\nif loads were even.

## Sources and practice

";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_that_a_token_activates_are_those_of_the_papers() {
        for (name, billions) in [("Qwen3-30B-A3B", 3.04), ("DeepSeek-V3", 36.6), ("Mixtral-8x22B", 39.0)] {
            let run = RUNS.iter().find(|run| run.name == name).unwrap();
            let Work { products, experts, head, .. } = run.work();
            let found = (products + experts + head) / 1e9;
            assert!((found / billions - 1.0).abs() < 0.02, "{name}: {found}");
        }
    }
}
