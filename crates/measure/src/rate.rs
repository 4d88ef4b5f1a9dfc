//! The rate of plain matrix products at the shapes of a model's experts: the ceiling that steps are compared
//! with.

use crate::spread::Spread;
use lingot_device::{Device, Flip, Kind, Tensor, ops};
use lingot_spec::ModelSpec;
use lingot_spec::Result;
use serde::Serialize;
use std::time::Instant;

/// Samples of products, and of register work.
const ROUNDS: usize = 15;

/// FLOPs of one sample, which takes some tens of milliseconds.
const SAMPLE_FLOPS: f64 = 4e9;

/// Rates of products in which each expert has an equal share of the tokens.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    /// Rows of one expert, the model's width, the columns of gate and up.
    pub shape: [usize; 3],
    /// GFLOP/s of forward products and those of both gradients, in equal parts.
    pub gflops_per_s: Spread,
    /// GFLOP/s of multiply-adds in registers: the processor's own limit.
    pub registers_gflops_per_s: Spread,
}

/// Measures both rates; samples of products and of register work take turns.
pub(crate) fn measure(model: &ModelSpec, tokens: usize, device: &Device) -> Result<Rates> {
    let rows = (tokens * model.choices as usize).div_ceil(model.experts as usize);
    let [width, columns] = [model.width as usize, 2 * model.expert_width as usize];
    let (x, w, dy) = (
        numbers(device, &[rows, width])?,
        numbers(device, &[columns, width])?,
        numbers(device, &[rows, columns])?,
    );
    let flops = 6.0 * (rows * width * columns) as f64;
    let times = (SAMPLE_FLOPS / flops).ceil() as usize;
    let threads = device.info().threads;
    let (mut rates, mut registers) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..times {
            ops::matmul(&x, &w, Flip::B)?;
            ops::matmul(&dy, &w, Flip::NONE)?;
            ops::matmul(&dy, &x, Flip::A)?;
        }
        device.finish()?;
        rates.push(flops * times as f64 / start.elapsed().as_secs_f64() / 1e9);
        let start = Instant::now();
        let done = lingot_device::cpu::multiply_adds_in_registers(threads);
        registers.push(done / start.elapsed().as_secs_f64() / 1e9);
    }
    Ok(Rates {
        shape: [rows, width, columns],
        gflops_per_s: Spread::of(rates),
        registers_gflops_per_s: Spread::of(registers),
    })
}

fn numbers(device: &Device, shape: &[usize]) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i * 7919 % 1013) as f32 / 1013.0 - 0.5).collect();
    Ok(device.floats(&values, shape, Kind::F32)?)
}
