//! Multiply-adds in registers and nothing else: their rate is the ceiling of every product's.
#![allow(unsafe_code)]

use super::kernel::{Kernel, Set};

/// Returns the floating-point operations that `threads` threads, this one included, do in some milliseconds
/// each.
pub fn multiply_adds_in_registers(threads: usize) -> f64 {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| multiply_add(Kernel::best()))).collect();
        let own = multiply_add(Kernel::best());
        own + others.into_iter().filter_map(|other| other.join().ok()).sum::<f64>()
    })
}

const REPEATS: usize = 4_000_000;

/// Runs chains of multiply-adds, as many as hide their latency; returns the FLOPs done.
fn multiply_add(kernel: Kernel) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if kernel.0 == Set::Amx {
        return super::amx_tiles::multiply_add(REPEATS / 2);
    }
    let (values, flops) = match kernel.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Kernel` of this set exists only where the processor has it.
        Set::Avx512 | Set::Avx512Bf16 => unsafe { (chains_avx512(1.0 - 1e-6), 16.0 * 12.0) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Set::Avx2 => unsafe { (chains_avx2(1.0 - 1e-6), 8.0 * 12.0) },
        _ => (chains(1.0 - 1e-6), 4.0 * 12.0),
    };
    std::hint::black_box(values);
    2.0 * flops * REPEATS as f64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn chains_avx512(factor: f32) -> f32 {
    use std::arch::x86_64::*;
    let factor = _mm512_set1_ps(factor);
    let mut sums = [factor; 12];
    for _ in 0..REPEATS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, factor);
        }
    }
    sums.iter().map(|&sum| _mm512_reduce_add_ps(sum)).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains_avx2(factor: f32) -> f32 {
    use std::arch::x86_64::*;
    let factor = _mm256_set1_ps(factor);
    let mut sums = [factor; 12];
    for _ in 0..REPEATS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, factor);
        }
    }
    sums.iter().map(|&sum| _mm256_cvtss_f32(sum)).sum()
}

fn chains(factor: f32) -> f32 {
    let mut sums = [[factor; 4]; 12];
    for _ in 0..REPEATS {
        for sum in sums.iter_mut().flatten() {
            *sum = *sum * factor + factor;
        }
    }
    sums.iter().flatten().sum()
}
