//! Rates of copies between host and device.

use lingot_device::{Device, Kind, Tensor};
use lingot_spec::Result;
use serde::Serialize;
use std::time::Instant;

/// Numbers of a tensor that is copied: 128 MiB.
const COPIED: usize = 32 << 20;

/// Samples of each direction; the fastest counts.
const ROUNDS: usize = 3;

/// Bytes per second between the host's ordinary (pageable) memory and a device.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Links {
    /// From host to device.
    pub to_device_bytes_per_s: f64,
    /// From device to host.
    pub to_host_bytes_per_s: f64,
    /// Both directions together, while both go on at once.
    pub both_bytes_per_s: f64,
}

/// Measures copies of 128 MiB between host and device: each way alone, then both ways at once, each from a
/// thread of its own.
pub fn measure(device: &Device) -> Result<Links> {
    let tensors = [device.zeros(&[COPIED], Kind::F32)?, device.zeros(&[COPIED], Kind::F32)?];
    let values = vec![1.0_f32; COPIED];
    let bytes = (4 * COPIED) as f64;
    let least_s = |work: &dyn Fn() -> Result<()>| -> Result<f64> {
        let mut least_s = f64::INFINITY;
        for _ in 0..=ROUNDS {
            let begin = Instant::now();
            work()?;
            device.finish()?;
            least_s = least_s.min(begin.elapsed().as_secs_f64());
        }
        Ok(least_s)
    };
    let up = |tensor: &Tensor| -> Result<()> { Ok(tensor.write_floats(&values)?) };
    let down = |tensor: &Tensor| -> Result<()> { Ok(tensor.to_floats().map(drop)?) };
    let up_s = least_s(&|| up(&tensors[0]))?;
    let down_s = least_s(&|| down(&tensors[1]))?;
    let both_s = least_s(&|| {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| down(&tensors[1]));
            let first = up(&tensors[0]);
            first.and(other.join().unwrap_or(Ok(())))
        })
    })?;
    Ok(Links {
        to_device_bytes_per_s: bytes / up_s,
        to_host_bytes_per_s: bytes / down_s,
        both_bytes_per_s: 2.0 * bytes / both_s,
    })
}
