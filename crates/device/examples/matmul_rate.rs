//! How fast the CPU's matrix products are, beside the rate at which this processor can multiply and add at
//! all.
//!
//! `cargo run --release -p lingot-device --example matmul_rate [-- THREADS [KERNEL [NAME [bf16]]]]` prints
//! the median of several rounds, with `bf16` on bf16 tensors; the shapes take turns within a round, so that a
//! slow moment of a shared machine hits all alike.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use lingot_device::cpu::{Cpu, Kernel};
use lingot_device::{Device, Flip, Kind, Result, Tensor, ops};
use std::time::Instant;

const ROUNDS: usize = 15;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map(|text| text.parse().unwrap());
    let name = arguments.next();
    let kernel =
        Kernel::all().into_iter().find(|kernel| name.as_deref().is_none_or(|name| kernel.name() == name));
    let kernel = kernel.unwrap();
    let part = arguments.next().unwrap_or_default();
    let in_bf16 = arguments.next().is_some_and(|kind| kind == "bf16");
    let kind = if in_bf16 { Kind::Bf16 } else { Kind::F32 };
    for threads in threads.map_or(vec![1, 2], |threads| vec![threads]) {
        let numbers = Numbers { device: Device::new(Cpu::with_kernel(threads, kernel)), kind };
        report(&numbers, threads, &part)?;
    }
    Ok(())
}

/// Times those whose names have `part`.
fn report(numbers: &Numbers, threads: usize, part: &str) -> Result<()> {
    let mut works = works(numbers)?;
    works.retain(|work| work.name.contains(part));
    works.insert(0, registers(threads));
    let mut rates = vec![vec![]; works.len()];
    for _ in 0..ROUNDS {
        for (work, rates) in works.iter_mut().zip(&mut rates) {
            rates.push(work.flops * work.times as f64 / time_s(work, threads)? / 1e9);
        }
    }
    let (device, kind) = (&numbers.device.info().description, numbers.kind.name());
    println!("{device}, {kind}: GFLOP/s, median and best of {ROUNDS} rounds");
    let [peak, _] = median_and_best(&mut rates[0]);
    for (work, rates) in works.iter().zip(&mut rates) {
        let [median, best] = median_and_best(rates);
        println!("{median:>8.1} {best:>8.1}  {:>4.0} %  {}", 100.0 * median / peak, work.name);
    }
    Ok(())
}

/// One thing to time: `flops` floating-point operations, done `times` times in a row.
struct Work {
    name: String,
    flops: f64,
    times: usize,
    run: Box<dyn FnMut() -> Result<()>>,
}

fn time_s(work: &mut Work, threads: usize) -> Result<f64> {
    let now_s = if threads == 1 { processor_s } else { wall_s };
    let start_s = now_s();
    for _ in 0..work.times {
        (work.run)()?;
    }
    Ok(now_s() - start_s)
}

fn wall_s() -> f64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// The time that this thread ran: one thread's rate is then the same on a busy machine, but for shared
/// caches.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[allow(unsafe_code)]
fn processor_s() -> f64 {
    unsafe extern "C" {
        fn clock_gettime(clock: i32, to: *mut [i64; 2]) -> i32;
    }
    const THREAD_CPUTIME: i32 = 3;
    let mut time = [0; 2];
    // SAFETY: a timespec is two 64-bit numbers on such systems.
    unsafe { clock_gettime(THREAD_CPUTIME, &mut time) };
    time[0] as f64 + time[1] as f64 * 1e-9
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn processor_s() -> f64 {
    wall_s()
}

fn registers(threads: usize) -> Work {
    Work {
        name: "multiply-adds in registers".into(),
        flops: lingot_device::cpu::multiply_adds_in_registers(threads),
        times: 1,
        run: Box::new(move || {
            std::hint::black_box(lingot_device::cpu::multiply_adds_in_registers(threads));
            Ok(())
        }),
    }
}

fn works(numbers: &Numbers) -> Result<Vec<Work>> {
    let mut works = vec![];
    for (m, k, n) in
        [(256, 512, 256), (256, 256, 512), (256, 512, 512), (1024, 1024, 1024), (2048, 256, 8192)]
    {
        for (flip, name) in [(Flip::B, "x W^T"), (Flip::NONE, "dy W"), (Flip::A, "dy^T x")] {
            works.push(product(numbers, [m, n, k], flip, name)?);
        }
    }
    for flip in [false, true] {
        works.push(grouped(numbers, flip)?);
    }
    works.push(grouped_weights(numbers)?);
    works.push(head(numbers)?);
    Ok(works)
}

fn product(numbers: &Numbers, [m, n, k]: [usize; 3], flip: Flip, name: &str) -> Result<Work> {
    let a = numbers.values(&if flip.a { [k, m] } else { [m, k] })?;
    let b = numbers.values(&if flip.b { [n, k] } else { [k, n] })?;
    let flops = 2.0 * (m * n * k) as f64;
    Ok(Work {
        name: format!("{m} x {k} x {n}, {name}"),
        flops,
        times: times(flops),
        run: Box::new(move || ops::matmul(&a, &b, flip).map(drop)),
    })
}

const EXPERTS: usize = 16;
const ROWS: usize = 4096;
const WIDTHS: [usize; 2] = [512, 256];

fn grouped(numbers: &Numbers, flip: bool) -> Result<Work> {
    let [n, k] = WIDTHS;
    let x = numbers.values(&[ROWS, if flip { n } else { k }])?;
    let w = numbers.values(&[EXPERTS, n, k])?;
    let ends = ends(&numbers.device)?;
    let flops = 2.0 * (ROWS * n * k) as f64;
    Ok(Work {
        name: format!("{EXPERTS} experts, {ROWS} rows, {n} x {k}, {}", if flip { "dy W" } else { "x W^T" }),
        flops,
        times: times(flops),
        run: Box::new(move || ops::grouped_matmul(&x, &w, &ends, flip).map(drop)),
    })
}

fn grouped_weights(numbers: &Numbers) -> Result<Work> {
    let [n, k] = WIDTHS;
    let (dy, x) = (numbers.values(&[ROWS, n])?, numbers.values(&[ROWS, k])?);
    let dw = numbers.sums(&[EXPERTS, n, k])?;
    let ends = ends(&numbers.device)?;
    let flops = 2.0 * (ROWS * n * k) as f64;
    Ok(Work {
        name: format!("{EXPERTS} experts, {ROWS} rows, {n} x {k}, dy^T x"),
        flops,
        times: times(flops),
        run: Box::new(move || ops::grouped_matmul_weights(&dy, &x, &ends, &dw, true)),
    })
}

/// Loads as uneven as in training.
fn ends(device: &Device) -> Result<Tensor> {
    let mut end = 0;
    let ends: Vec<i32> = (0..EXPERTS)
        .map(|e| {
            end += ROWS / EXPERTS * (e + 9) * 2 / (EXPERTS + 17);
            (if e == EXPERTS - 1 { ROWS } else { end.min(ROWS) }) as i32
        })
        .collect();
    device.integers(&ends, &[EXPERTS])
}

fn head(numbers: &Numbers) -> Result<Work> {
    let (t, d, v) = (2048, 256, 8192);
    let (x, w, d_w) = (numbers.values(&[t, d])?, numbers.values(&[v, d])?, numbers.sums(&[v, d])?);
    let targets = numbers.device.integers(&vec![7; t], &[t])?;
    let flops = 6.0 * (t * d * v) as f64;
    Ok(Work {
        name: format!("head and cross-entropy with gradients, {t} x {d} x {v}"),
        flops,
        times: 1,
        run: Box::new(move || ops::cross_entropy_grad(&x, &w, &targets, 1.0, &d_w, true).map(drop)),
    })
}

/// Where operands lie, and the kind of their values.
struct Numbers {
    device: Device,
    kind: Kind,
}

impl Numbers {
    fn values(&self, shape: &[usize]) -> Result<Tensor> {
        self.of(shape, self.kind)
    }

    fn sums(&self, shape: &[usize]) -> Result<Tensor> {
        self.of(shape, self.kind.sums())
    }

    fn of(&self, shape: &[usize], kind: Kind) -> Result<Tensor> {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|i: usize| (i * 7919 % 1013) as f32 / 1013.0 - 0.5).collect();
        self.device.floats(&values, shape, kind)
    }
}

/// Some milliseconds' worth.
fn times(flops: f64) -> usize {
    (1e9 / flops).ceil() as usize
}

fn median_and_best(values: &mut [f64]) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [values[values.len() / 2], values[values.len() - 1]]
}
