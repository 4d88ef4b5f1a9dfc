//! A device that behaves like a weaker one: slower, smaller, with more latency, and failing when told to.
//!
//! With it, fleets of any shape can be tried on a few cores. It computes the numbers of the device behind it.

use super::thread_clock;
use crate::backend::{Backend, DeviceInfo, Wrapper};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::op::Op;
use crate::slot::Slot;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Sleeps shorter than this are saved up: the system's timer is too coarse for them.
const SLEEP_LEAST_S: f64 = 0.5e-3;

/// The longest wait for a core that a device makes up for.
const CREDIT_MOST_S: f64 = 0.05;

/// How much weaker a device is than the one behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throttle {
    /// A share of the device's own speed, above 0 and at most 1.
    pub speed: f64,
    /// Memory that tensors may take, in bytes; all of the device's if not given.
    pub memory_bytes: Option<u64>,
    /// Time that every op takes longer.
    pub latency: Duration,
    /// The number of ops and copies after which something happens to the device, and what.
    pub fault: Option<(u64, Fault)>,
}

/// What can happen to a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Every call is refused.
    Dies,
    /// Calls do not return until it recovers.
    Hangs,
    /// Its speed becomes this share of its own.
    Slows(f64),
    /// All numbers that are read are NaN.
    Corrupts,
}

/// The device.
pub struct Throttled {
    inner: Device,
    info: DeviceInfo,
    /// Whether it computes on the calling thread: then time spent waiting for a core is not the device's.
    computes_here: bool,
    throttle: Throttle,
    used_bytes: AtomicU64,
    ops: AtomicU64,
    /// Seconds that it still has to sleep; below 0 if a sleep took too long.
    debt_s: Mutex<f64>,
    controls: Controls,
}

/// Changes a throttled device while it works, from any thread.
#[derive(Clone)]
pub struct Controls(Arc<(Mutex<State>, Condvar)>);

struct State {
    speed: f64,
    fault: Option<Fault>,
}

impl Default for Throttle {
    fn default() -> Throttle {
        Throttle { speed: 1.0, memory_bytes: None, latency: Duration::ZERO, fault: None }
    }
}

impl Throttled {
    /// `inner`, weaker, under the name `name`.
    pub fn new(inner: Device, name: &str, throttle: Throttle) -> (Throttled, Controls) {
        let own = inner.info();
        let own_name = own.name.clone();
        let info = DeviceInfo {
            name: name.into(),
            description: format!("{} at {} of its speed", own.description, throttle.speed),
            memory_bytes: throttle.memory_bytes.unwrap_or(own.memory_bytes),
            threads: own.threads,
        };
        let controls =
            Controls(Arc::new((Mutex::new(State { speed: throttle.speed, fault: None }), Condvar::new())));
        let throttled = Throttled {
            computes_here: matches!(own_name.as_str(), "cpu" | "reference"),
            inner,
            info,
            throttle,
            used_bytes: AtomicU64::new(0),
            ops: AtomicU64::new(0),
            debt_s: Mutex::default(),
            controls: controls.clone(),
        };
        (throttled, controls)
    }

    /// Counts an op or a copy, and makes the planned fault happen if its time has come.
    fn count(&self) -> Result<()> {
        let before = self.ops.fetch_add(1, Ordering::Relaxed);
        if let Some((_, fault)) = self.throttle.fault.filter(|(ops, _)| *ops == before) {
            self.controls.set(fault);
        }
        self.check()
    }

    /// Waits while the device hangs. Errors if it is dead.
    fn check(&self) -> Result<()> {
        if self.controls.is_dead_once_awake() {
            let reason = "the device has died, as it was told to".into();
            return Err(Error::Lost { device: self.info.name.clone(), reason });
        }
        Ok(())
    }

    /// Does the work, then sleeps for as long as a slower device would still compute.
    fn slowed(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let (begin, core_before) = (Instant::now(), thread_clock::now());
        work()?;
        let wall = begin.elapsed();
        let on_core = thread_clock::now().zip(core_before).map(|(now, before)| now - before);
        let computing = on_core.filter(|_| self.computes_here).unwrap_or(wall);
        let whole_s = computing.as_secs_f64() / self.controls.state().speed;
        let mut debt_s = self.debt_s.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *debt_s += whole_s + self.throttle.latency.as_secs_f64() - wall.as_secs_f64();
        *debt_s = debt_s.max(-CREDIT_MOST_S);
        if *debt_s >= SLEEP_LEAST_S {
            let begin = Instant::now();
            std::thread::sleep(Duration::from_secs_f64(*debt_s));
            *debt_s -= begin.elapsed().as_secs_f64();
        }
        Ok(())
    }
}

impl Controls {
    /// Makes `fault` happen now.
    pub fn set(&self, fault: Fault) {
        let mut state = self.state();
        match fault {
            Fault::Slows(speed) => state.speed = speed,
            other => state.fault = Some(other),
        }
        self.0.1.notify_all();
    }

    /// Ends any fault; the speed stays as it is.
    pub fn recover(&self) {
        self.state().fault = None;
        self.0.1.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn is_dead_once_awake(&self) -> bool {
        let hangs = |state: &mut State| state.fault == Some(Fault::Hangs);
        let state = self.0.1.wait_while(self.state(), hangs);
        state.unwrap_or_else(|poisoned| poisoned.into_inner()).fault == Some(Fault::Dies)
    }
}

impl Wrapper for Throttled {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn allocate(&self, bytes: usize) -> Result<Slot> {
        self.check()?;
        let used = self.used_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let has_bytes = self.throttle.memory_bytes.map(|limit| limit.saturating_sub(used));
        let slot = match has_bytes.filter(|&has_bytes| (bytes as u64) > has_bytes) {
            None => self.inner().allocate(bytes),
            Some(has_bytes) => {
                let device = self.info.name.clone();
                Err(Error::OutOfMemory { device, needs_bytes: bytes as u64, has_bytes })
            }
        };
        if slot.is_err() {
            self.used_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
        }
        slot
    }

    fn release(&self, slot: Slot) {
        self.used_bytes.fetch_sub(slot.bytes() as u64, Ordering::Relaxed);
        self.inner().release(slot);
    }

    fn write(&self, slot: &Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        self.count()?;
        self.inner().write(slot, offset_bytes, from_host)
    }

    fn read(&self, slot: &Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        self.count()?;
        self.inner().read(slot, offset_bytes, to_host)?;
        if self.controls.state().fault == Some(Fault::Corrupts) {
            to_host.fill(0xff);
        }
        Ok(())
    }

    fn run(&self, op: &Op<'_>) -> Result<()> {
        self.count()?;
        self.slowed(|| self.inner().run(op))
    }

    fn finish(&self) -> Result<()> {
        self.check()?;
        self.slowed(|| self.inner().finish())
    }
}
