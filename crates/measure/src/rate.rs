//! Ceilings that steps and ops are compared with: the rates of plain matrix products and of copies.

use crate::spread::Spread;
use lingot_device::{Device, Flip, Kind, Tensor, ops};
use lingot_spec::ModelSpec;
use lingot_spec::Result;
use serde::Serialize;
use std::time::Instant;

/// Samples of products, and of register work.
const ROUNDS: usize = 15;

/// Seconds that a sample takes at least: long beside the time in which the host enqueues it.
const SAMPLE_S: f64 = 0.02;

/// Rows of the largest square product that is tried.
const SQUARE_MOST: usize = 8192;

/// Bytes of the tensor whose copy is timed: more than any cache holds.
const COPY_BYTES: usize = 256 << 20;

/// Rates of products in which each expert has an equal share of the tokens.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    /// Rows of one expert, the model's width, the columns of gate and up.
    pub shape: [usize; 3],
    /// GFLOP/s of forward products and those of both gradients, in equal parts.
    pub gflops_per_s: Spread,
    /// GFLOP/s of multiply-adds in registers, the processor's own limit; none where the device is no
    /// processor.
    pub registers_gflops_per_s: Option<Spread>,
}

/// What a device reaches where nothing but the size of the work counts.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ceilings {
    /// Rows of the square product.
    pub square: usize,
    /// FLOP/s of that product.
    pub product_flops_per_s: f64,
    /// Bytes per second of a copy on the device, reads and writes together.
    pub copy_bytes_per_s: f64,
}

impl Ceilings {
    /// Returns the seconds that work of this cost takes at least: its FLOPs at the rate of products or its
    /// bytes at that of copies, whichever take longer.
    pub fn floor_s(&self, cost: lingot_spec::Cost) -> f64 {
        (cost.flops / self.product_flops_per_s).max(cost.bytes / self.copy_bytes_per_s)
    }
}

/// Measures products at the shapes of a model's experts for `tokens` tokens, in `kind`. On a processor,
/// samples of products and of register work take turns.
pub(crate) fn measure(model: &ModelSpec, tokens: usize, device: &Device, kind: Kind) -> Result<Rates> {
    let rows = (tokens * model.choices as usize).div_ceil(model.experts as usize);
    let [width, columns] = [model.width as usize, 2 * model.expert_width as usize];
    let (x, w, dy) = (
        numbers(device, &[rows, width], kind)?,
        numbers(device, &[columns, width], kind)?,
        numbers(device, &[rows, columns], kind)?,
    );
    let flops = 6.0 * (rows * width * columns) as f64;
    let products = || -> Result<()> {
        ops::matmul(&x, &w, Flip::B)?;
        ops::matmul(&dy, &w, Flip::NONE)?;
        ops::matmul(&dy, &x, Flip::A)?;
        Ok(())
    };
    let times = repeats(device, &products)?;
    let threads = device.info().threads;
    let (mut rates, mut registers) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        rates.push(flops / each_s(device, times, &products)? / 1e9);
        if threads > 0 {
            let start = Instant::now();
            let done = lingot_device::cpu::multiply_adds_in_registers(threads);
            registers.push(done / start.elapsed().as_secs_f64() / 1e9);
        }
    }
    Ok(Rates {
        shape: [rows, width, columns],
        gflops_per_s: Spread::of(rates),
        registers_gflops_per_s: (threads > 0).then(|| Spread::of(registers)),
    })
}

/// Measures the largest rates of a square product and of a copy, in `kind`.
///
/// The product grows until one takes a quarter of a sample, so that a slow device is not kept busy for long.
pub fn ceilings(device: &Device, kind: Kind) -> Result<Ceilings> {
    let (mut square, mut best) = (512, 0.0_f64);
    loop {
        let [a, b] = [numbers(device, &[square, square], kind)?, numbers(device, &[square, square], kind)?];
        let product = || ops::matmul(&a, &b, Flip::B).map(drop).map_err(Into::into);
        let each_s = least_s(device, &product)?;
        best = best.max(2.0 * (square as f64).powi(3) / each_s);
        if each_s > SAMPLE_S / 4.0 || square == SQUARE_MOST {
            break;
        }
        square *= 2;
    }
    let [from, to] =
        [device.zeros(&[COPY_BYTES / 4], Kind::F32)?, device.zeros(&[COPY_BYTES / 4], Kind::F32)?];
    let copy = || ops::copy(&to, &from).map_err(Into::into);
    let copy_bytes_per_s = 2.0 * COPY_BYTES as f64 / least_s(device, &copy)?;
    Ok(Ceilings { square, product_flops_per_s: best, copy_bytes_per_s })
}

/// Seconds of one piece of work, the least of three samples.
fn least_s(device: &Device, work: &dyn Fn() -> Result<()>) -> Result<f64> {
    let times = repeats(device, work)?;
    (0..3).try_fold(f64::INFINITY, |least, _| Ok(f64::min(least, each_s(device, times, work)?)))
}

/// How often a sample repeats the work.
fn repeats(device: &Device, work: &dyn Fn() -> Result<()>) -> Result<usize> {
    work()?;
    device.finish()?;
    Ok((SAMPLE_S / each_s(device, 1, work)?).clamp(1.0, 1000.0).ceil() as usize)
}

/// Seconds of one of `times` pieces of work that the device is given at once.
fn each_s(device: &Device, times: usize, work: &dyn Fn() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    (0..times).try_for_each(|_| work())?;
    device.finish()?;
    Ok(begin.elapsed().as_secs_f64() / times as f64)
}

fn numbers(device: &Device, shape: &[usize], kind: Kind) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i * 7919 % 1013) as f32 / 1013.0 - 0.5).collect();
    Ok(device.floats(&values, shape, kind)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lingot_device::cpu::Cpu;
    use lingot_spec::Cost;

    #[test]
    fn an_op_takes_as_long_as_the_scarcer_of_flops_and_bytes() {
        let ceilings = Ceilings { square: 1, product_flops_per_s: 100.0, copy_bytes_per_s: 10.0 };
        assert!((ceilings.floor_s(Cost { flops: 500.0, bytes: 1.0 }) - 5.0).abs() < 1e-12);
        assert!((ceilings.floor_s(Cost { flops: 500.0, bytes: 90.0 }) - 9.0).abs() < 1e-12);
    }

    #[test]
    fn a_processor_has_ceilings_in_both_precisions() {
        let device = Device::new(Cpu::new(1));
        for kind in [Kind::F32, Kind::Bf16] {
            let found = ceilings(&device, kind).unwrap();
            assert!(found.product_flops_per_s > 1e8 && found.copy_bytes_per_s > 1e8, "{kind:?} {found:?}");
        }
    }
}
