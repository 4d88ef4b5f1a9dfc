//! A device that behaves like a weaker one: slower, smaller, farther away, and failing when told to.
//!
//! So fleets of any shape can be tried on a few cores. What it computes is what the device below computes.

use crate::backend::{Backend, DeviceInfo, MemoryUse, Slot};
use crate::error::{Error, Result};
use crate::op::Op;
use crate::tensor::Device;
use crate::thread_clock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Sleeps shorter than this are saved up: the system's timer is too coarse for them.
const SLEEP_LEAST_S: f64 = 0.5e-3;

/// A device that had to wait for a core makes up for so much of it.
const CREDIT_MOST_S: f64 = 0.05;

/// How much weaker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throttle {
    /// A share of the device's own speed, above 0 and at most 1.
    pub speed: f64,
    /// Memory that tensors may take; none for all of the device's.
    pub memory_bytes: Option<u64>,
    /// What every op takes longer.
    pub latency: Duration,
    /// What happens to it after so many ops and copies.
    pub fault: Option<(u64, Fault)>,
}

/// What can happen to a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Every call is refused.
    Dies,
    /// Calls do not return until it recovers.
    Hangs,
    /// From now on its speed is this.
    Slows(f64),
    /// What is read is not a number.
    Corrupts,
}

/// The device.
pub struct Throttled {
    inner: Device,
    info: DeviceInfo,
    /// On the thread that calls it: then waiting for a core is this machine's slowness and not the device's.
    computes_here: bool,
    throttle: Throttle,
    used_bytes: AtomicU64,
    ops: AtomicU64,
    /// Seconds that it still has to take; below 0 where a sleep took too long.
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

    /// One more op or copy: what was to happen then happens.
    fn count(&self) -> Result<()> {
        let before = self.ops.fetch_add(1, Ordering::Relaxed);
        if let Some((_, fault)) = self.throttle.fault.filter(|(ops, _)| *ops == before) {
            self.controls.set(fault);
        }
        self.check()
    }

    /// Waits while it hangs; an error when it is dead.
    fn check(&self) -> Result<()> {
        if self.controls.is_dead_once_awake() {
            let reason = "the device has died, as it was told to".into();
            return Err(Error::Lost { device: self.info.name.clone(), reason });
        }
        Ok(())
    }

    /// Does the work, and takes as much longer as a slower device would.
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
    pub fn set(&self, fault: Fault) {
        let mut state = self.state();
        match fault {
            Fault::Slows(speed) => state.speed = speed,
            other => state.fault = Some(other),
        }
        self.0.1.notify_all();
    }

    /// No fault any more; the speed stays.
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

impl Backend for Throttled {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn allocate(&self, bytes: usize) -> Result<Slot> {
        self.check()?;
        let used = self.used_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let has_bytes = self.throttle.memory_bytes.map(|limit| limit.saturating_sub(used));
        let slot = match has_bytes.filter(|&has_bytes| (bytes as u64) > has_bytes) {
            None => self.inner.allocate(bytes),
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

    fn release(&self, slot: Slot, bytes: usize) {
        self.used_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
        self.inner.release(slot, bytes);
    }

    fn write(&self, slot: Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        self.count()?;
        self.inner.write(slot, offset_bytes, from_host)
    }

    fn read(&self, slot: Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        self.count()?;
        self.inner.read(slot, offset_bytes, to_host)?;
        if self.controls.state().fault == Some(Fault::Corrupts) {
            to_host.fill(0xff);
        }
        Ok(())
    }

    fn run(&self, op: Op<'_>) -> Result<()> {
        self.count()?;
        self.slowed(|| self.inner.run(op))
    }

    fn finish(&self) -> Result<()> {
        self.check()?;
        self.slowed(|| self.inner.finish())
    }

    fn memory_in_use(&self) -> MemoryUse {
        self.inner.memory_in_use()
    }
}
