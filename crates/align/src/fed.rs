//! Routing without chance: the router's logits of one training, which another one is given in place of its
//! own.
//!
//! A token whose two best experts are equal up to rounding goes to one of them on one device and to the other
//! on another, both rightly, and from there on the two trainings differ by something that is no error. With
//! the same logits both choose the same experts.

use lingot_device::intercepted::Intercepted;
use lingot_device::{Backend, Device, Op, Result, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// The logits of every call of the router, in order.
#[derive(Clone, Default)]
pub(crate) struct Logits(Arc<Mutex<Vec<Vec<f64>>>>);

/// How far a device's own logits were from those that it was given, and the routers asked so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Apart {
    calls: usize,
    /// The largest difference over the largest logit since it was last taken; infinite where there was
    /// nothing to give.
    pub(crate) worst: f64,
}

impl Logits {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<f64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns `device` with its logits rounded to f32 before it routes, and recorded.
pub(crate) fn record(device: &Device) -> (Device, Logits) {
    let (logits, inner) = (Logits::default(), device.clone());
    let kept = logits.clone();
    let recorded = Intercepted::new(device.clone(), move |op| {
        if let Op::Route(route) = op {
            let tensor = route.logits_te.on(&inner);
            let rounded: Vec<f64> = tensor.to_doubles()?.iter().map(|&x| f64::from(x as f32)).collect();
            tensor.write_doubles(&rounded)?;
            kept.lock().push(rounded);
        }
        Backend::run(&inner, op)
    });
    (Device::new(recorded), logits)
}

/// Returns `device` with its logits replaced by recorded ones.
pub(crate) fn feed(device: &Device, logits: &Logits) -> (Device, Arc<Mutex<Apart>>) {
    let (apart, inner, logits) = (Arc::new(Mutex::new(Apart::default())), device.clone(), logits.clone());
    let noted = apart.clone();
    let fed = Intercepted::new(device.clone(), move |op| {
        if let Op::Route(route) = op {
            let mut apart = noted.lock().unwrap_or_else(PoisonError::into_inner);
            let worst = give(&route.logits_te.on(&inner), logits.lock().get(apart.calls))?;
            // NaN is not less than anything, and must not be forgotten.
            apart.worst = if worst <= apart.worst { apart.worst } else { worst };
            apart.calls += 1;
        }
        Backend::run(&inner, op)
    });
    (Device::new(fed), apart)
}

/// Writes `wanted` over the logits, and returns how far these were from it.
fn give(tensor: &Tensor, wanted: Option<&Vec<f64>>) -> Result<f64> {
    let Some(wanted) = wanted.filter(|wanted| wanted.len() == tensor.len()) else { return Ok(f64::INFINITY) };
    let found = tensor.to_doubles()?;
    let size = wanted.iter().fold(1e-30, |size: f64, x| size.max(x.abs()));
    let mut worst = 0.0_f64;
    for (found, wanted) in found.iter().zip(wanted) {
        let difference = (found - wanted).abs() / size;
        worst = if difference <= worst { worst } else { difference };
    }
    tensor.write_doubles(wanted)?;
    Ok(worst)
}

/// Takes the largest difference since the last call.
pub(crate) fn take(apart: &Mutex<Apart>) -> f64 {
    std::mem::take(&mut apart.lock().unwrap_or_else(PoisonError::into_inner).worst)
}
