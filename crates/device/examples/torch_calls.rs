//! What an op costs before it computes anything: nanoseconds per call on single numbers, through torch and on
//! the CPU backend.
//!
//!     LINGOT_TORCH=FOLDER cargo run --release -p lingot-device --example torch_calls

#![allow(clippy::print_stdout, reason = "a program that prints figures")]

use lingot_device::cpu::Cpu;
use lingot_device::torch::{Options, Torch};
use lingot_device::{Device, Flip, Kind, Result, ops};
use std::time::Instant;

const CALLS: u32 = 5_000;
const ROUNDS: usize = 15;

fn main() -> Result<()> {
    let torch = Device::new(Torch::open("torch:cpu", Options { threads: 1, ..Options::default() })?);
    let cpu = Device::new(Cpu::new(1));
    println!("ns per call, median (least to most) of {ROUNDS} rounds of {CALLS}\n");
    println!("{:<18} {:>28} {:>28}", "", torch.info().name, cpu.info().name);
    let names = ["make and drop", "fill", "add", "matmul", "rms_norm"];
    let [torch, cpu] = [measure(&torch)?, measure(&cpu)?];
    for (name, (torch, cpu)) in names.iter().zip(torch.iter().zip(cpu)) {
        println!("{name:<18} {torch:>28} {cpu:>28}");
    }
    Ok(())
}

/// The same calls on one device, those of a round one after the other.
fn measure(device: &Device) -> Result<Vec<String>> {
    let one = device.floats(&[0.5], &[1, 1], Kind::F32)?;
    let (out, scale) = (device.zeros(&[1, 1], Kind::F32)?, device.floats(&[1.0], &[1], Kind::F32)?);
    let calls: [&dyn Fn() -> Result<()>; 5] = [
        &|| device.empty(&[1, 1], Kind::F32).map(drop),
        &|| ops::fill(&out, 0.0),
        &|| ops::add(&out, &one),
        &|| ops::matmul(&one, &one, Flip::NONE).map(drop),
        &|| ops::rms_norm(&one, &scale, 1e-6).map(drop),
    ];
    let mut times = vec![vec![]; calls.len()];
    for _ in 0..ROUNDS {
        for (call, times) in calls.iter().zip(&mut times) {
            let begin = Instant::now();
            for _ in 0..CALLS {
                call()?;
            }
            times.push(begin.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
        }
    }
    Ok(times.into_iter().map(spread).collect())
}

fn spread(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    format!("{:.0} ({:.0} to {:.0})", times[times.len() / 2], times[0], times[times.len() - 1])
}
