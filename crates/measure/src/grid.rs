//! Setups whose steps are measured: a grid to fit profiles to, and held-out ones to compare predictions with.

use crate::case::Case;
use lingot_spec::ModelSpec;
use lingot_spec::presets::preset;
use lingot_spec::run::{Precision, Recompute};

/// A model, and the batch and policy of its step.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `g1`, `g2`, ... in the grid; `h1`, `h2`, ..., `G` and `Q` held out.
    pub name: String,
    /// The model.
    pub model: ModelSpec,
    /// Sequences of a micro-batch.
    pub micro: usize,
    /// Micro-batches of a step.
    pub micros: usize,
    /// Tokens of a sequence.
    pub sequence: usize,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// What activations and working weights are held in.
    pub precision: Precision,
}

impl Setup {
    /// Returns a case of the training benchmark as a setup.
    pub fn of(case: &Case, precision: Precision) -> Setup {
        Setup {
            name: case.name.clone(),
            model: case.model.clone(),
            micro: case.sequences,
            micros: case.micros,
            sequence: case.sequence,
            recompute: case.recompute,
            precision,
        }
    }

    /// Returns the batch as `spec::step` takes it.
    pub fn batch(&self) -> lingot_spec::step::Batch<'_> {
        lingot_spec::step::Batch {
            micro: self.micro,
            micros: self.micros,
            sequence: self.sequence,
            recompute: std::slice::from_ref(&self.recompute),
            warming: false,
            widths: self.precision.into(),
        }
    }
}

/// Width, heads, kv heads, head width; experts, choices, expert width, shared experts; vocabulary, sequences,
/// sequence.
type Row = [u32; 11];

/// Shapes of the grid. One layer or two are enough: an op's time does not depend on how many follow.
const GRID: [Row; 16] = [
    [128, 4, 2, 32, 16, 2, 96, 1, 2048, 4, 128],
    [128, 4, 2, 32, 16, 2, 96, 1, 2048, 8, 256],
    [128, 2, 1, 64, 8, 2, 256, 1, 4096, 16, 128],
    [256, 4, 2, 64, 16, 2, 256, 1, 8192, 4, 256],
    [256, 4, 4, 64, 64, 4, 128, 2, 4096, 4, 512],
    [256, 8, 2, 32, 32, 8, 64, 0, 8192, 2, 1024],
    [384, 6, 2, 64, 8, 1, 768, 1, 8192, 4, 256],
    [384, 6, 2, 64, 24, 3, 384, 0, 4096, 8, 128],
    [512, 8, 2, 64, 32, 4, 512, 1, 8192, 4, 256],
    [512, 8, 2, 64, 64, 6, 192, 2, 16_384, 2, 512],
    [512, 4, 4, 128, 16, 2, 256, 1, 4096, 1, 1024],
    [512, 8, 2, 64, 8, 2, 1024, 1, 8192, 8, 256],
    [768, 12, 4, 64, 16, 2, 512, 1, 8192, 2, 512],
    [768, 6, 2, 128, 32, 4, 384, 1, 4096, 4, 256],
    [1024, 8, 4, 128, 16, 2, 512, 1, 8192, 2, 256],
    [256, 4, 2, 64, 32, 4, 256, 1, 16_384, 8, 512],
];

/// Shapes of held-out setups, none of which is in the grid.
const HELD_OUT: [Row; 14] = [
    [192, 6, 2, 32, 12, 3, 160, 1, 3000, 6, 160],
    [192, 3, 1, 64, 48, 6, 96, 2, 6000, 3, 384],
    [320, 5, 1, 64, 20, 2, 320, 1, 5000, 5, 192],
    [320, 5, 5, 64, 40, 4, 160, 0, 10_000, 2, 768],
    [256, 4, 2, 64, 16, 2, 256, 1, 8192, 8, 256],
    [448, 7, 1, 64, 24, 3, 448, 1, 7000, 3, 320],
    [448, 7, 7, 64, 56, 5, 224, 1, 12_000, 4, 224],
    [640, 10, 2, 64, 12, 2, 640, 1, 6000, 2, 448],
    [640, 5, 5, 128, 40, 4, 320, 1, 9000, 3, 256],
    [896, 7, 7, 128, 20, 2, 448, 1, 6000, 2, 320],
    [384, 6, 2, 64, 16, 2, 384, 1, 6000, 1, 896],
    [320, 5, 1, 64, 10, 1, 640, 2, 6000, 4, 384],
    [512, 8, 2, 64, 32, 4, 512, 1, 16_384, 4, 512],
    [576, 9, 3, 64, 36, 6, 288, 1, 8000, 3, 288],
];

/// Shapes of the grid for accelerators, which are only busy with thousands of tokens.
const LARGE_GRID: [Row; 10] = [
    [512, 8, 2, 64, 16, 2, 512, 1, 8192, 8, 512],
    [768, 12, 4, 64, 32, 4, 512, 1, 16_384, 8, 1024],
    [1024, 16, 2, 64, 32, 4, 768, 1, 24_576, 12, 1024],
    [1280, 10, 2, 128, 48, 6, 512, 0, 16_384, 8, 2048],
    [1536, 12, 4, 128, 32, 4, 768, 2, 32_768, 8, 1024],
    [2048, 16, 4, 128, 64, 8, 768, 1, 32_768, 4, 2048],
    [2048, 16, 2, 128, 16, 2, 1536, 1, 32_768, 16, 1024],
    [1024, 8, 8, 128, 16, 2, 1024, 1, 65_536, 4, 4096],
    [512, 8, 4, 64, 64, 8, 256, 1, 32_768, 32, 1024],
    [3072, 24, 4, 128, 8, 2, 1536, 0, 32_768, 4, 1024],
];

/// Shapes of held-out setups for accelerators, besides the benchmark's models G and Q.
const LARGE_HELD_OUT: [Row; 5] = [
    [640, 10, 2, 64, 24, 3, 512, 1, 12_000, 8, 768],
    [896, 14, 2, 64, 40, 5, 640, 1, 20_000, 16, 768],
    [1152, 9, 3, 128, 48, 4, 512, 2, 30_000, 6, 2048],
    [1792, 14, 2, 128, 24, 2, 1024, 1, 40_000, 8, 1536],
    [2304, 18, 6, 128, 32, 6, 640, 1, 24_000, 4, 2048],
];

/// What setups are measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// What activations and working weights are held in.
    pub precision: Precision,
    /// Whether it is an accelerator, whose setups are larger.
    pub is_accelerator: bool,
}

/// Returns the setups that profiles are fitted to.
pub fn grid(target: Target) -> Vec<Setup> {
    let rows = if target.is_accelerator { &LARGE_GRID[..] } else { &GRID[..] };
    rows.iter()
        .enumerate()
        .map(|(at, row)| {
            let mut setup = setup(&format!("g{}", at + 1), row, target.precision);
            setup.model.layers = if target.is_accelerator { 1 } else { 2 };
            match at % 4 {
                0 => (setup.model.norm_head, setup.model.qk_norm) = (true, false),
                1 => {
                    (setup.model.dense_layers, setup.model.dense_width) = (1, 2 * setup.model.width);
                    setup.model.layers = 2;
                }
                2 => setup.recompute = Recompute::Experts,
                _ => {}
            }
            if at.is_multiple_of(5) {
                (setup.model.mtp_layers, setup.model.layers) = (1, 1);
            }
            setup
        })
        .collect()
}

/// Returns the setups that predictions are compared with: on an accelerator the models G and Q too.
pub fn held_out(target: Target) -> Vec<Setup> {
    let rows = if target.is_accelerator { &LARGE_HELD_OUT[..] } else { &HELD_OUT[..] };
    let benchmarks = ["G", "Q"].iter().filter(|_| target.is_accelerator);
    let benchmarks = benchmarks.filter_map(|name| Some(Setup::of(&Case::named(name)?, target.precision)));
    let shapes = rows.iter().enumerate().map(|(at, row)| {
        let mut setup = setup(&format!("h{}", at + 1), row, target.precision);
        setup.model.layers = [3, 4, 2, 3, 4, 3, 2][at % 7];
        setup.recompute =
            [Recompute::Nothing, Recompute::Block, Recompute::Nothing, Recompute::Experts][at % 4];
        match at % 5 {
            1 => (setup.model.norm_head, setup.model.qk_norm) = (true, false),
            2 => (setup.model.dense_layers, setup.model.dense_width) = (1, 3 * setup.model.width),
            3 => setup.model.mtp_layers = 1,
            4 => setup.micros = 2,
            _ => {}
        }
        setup
    });
    shapes.chain(benchmarks).collect()
}

fn setup(name: &str, row: &Row, precision: Precision) -> Setup {
    let &[
        width,
        heads,
        kv_heads,
        head_width,
        experts,
        choices,
        expert_width,
        shared_experts,
        vocabulary,
        sequences,
        sequence,
    ] = row;
    let toy = preset("toy").unwrap_or_else(|| unreachable!("the preset is built in"));
    Setup {
        name: name.into(),
        model: ModelSpec {
            vocabulary,
            width,
            layers: 1,
            heads,
            kv_heads,
            head_width,
            dense_layers: 0,
            dense_width: 0,
            experts,
            choices,
            expert_width,
            shared_experts,
            rotary_width: head_width,
            ..toy
        },
        micro: sequences as usize,
        micros: 1,
        sequence: sequence as usize,
        recompute: Recompute::Nothing,
        precision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setup_can_be_built_and_no_held_out_one_is_in_the_grid() {
        for is_accelerator in [false, true] {
            let target = Target { precision: Precision::F32, is_accelerator };
            for setup in grid(target).iter().chain(&held_out(target)) {
                setup.model.check().unwrap();
            }
            for held_out in held_out(target) {
                assert!(grid(target).iter().all(|point| {
                    point.model != held_out.model || point.batch().micro != held_out.batch().micro
                }));
            }
        }
    }

    #[test]
    fn a_large_grid_takes_every_op_that_a_held_out_setup_takes() {
        let target = Target { precision: Precision::Bf16, is_accelerator: true };
        let ops = |setup: &Setup| -> Vec<(&str, &str)> {
            let step = lingot_spec::step::step(&setup.model, &setup.batch());
            step.ops.iter().map(|op| (op.name, op.form)).collect()
        };
        let known: Vec<_> = grid(target).iter().flat_map(ops).collect();
        for setup in held_out(target) {
            let unknown: Vec<_> = ops(&setup).into_iter().filter(|op| !known.contains(op)).collect();
            assert!(unknown.is_empty(), "{}: {unknown:?}", setup.name);
        }
    }
}
