//! The time of one op by the device's clock.
//!
//! A host device computes while it is called, so the call is timed. An accelerator computes later: calls are
//! enqueued behind work of known length, so that the device takes one after the other without waiting for
//! the host, and what the whole takes longer than that work alone is theirs.

use lingot_device::backend::Backend;
use lingot_device::op::Op;
use lingot_device::{Device, Kind, Tensor, ops};
use lingot_spec::Result;
use std::collections::BTreeMap;
use std::time::Instant;

/// Numbers of the tensor whose copies are the work of known length: 128 MiB.
const COPIED: usize = 32 << 20;

/// Repeats of an op, at least and at most: more might fill a device's queue.
const REPEATS: [f64; 2] = [2.0, 8.0];

/// Seconds that the repeats of an op should take together, where that needs no more than the most.
const TOGETHER_S: f64 = 2e-3;

/// Copies beyond the time that enqueuing is expected to take.
const MARGIN_S: f64 = 3e-4;

/// What one call of an op takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct OpTime {
    /// Seconds on the device.
    pub(crate) seconds: f64,
    /// Seconds of the host until the call returns, while the device is busy; 0 on a host device, which
    /// computes meanwhile.
    pub(crate) enqueue_s: f64,
    /// Whether the call returned only when the device had done all that was enqueued before.
    pub(crate) waits: bool,
}

/// Times ops on one device.
pub(crate) struct Clock {
    device: Device,
    behind: Option<Behind>,
}

/// Copies that calls are enqueued behind.
struct Behind {
    from: Tensor,
    to: Tensor,
    /// Seconds of one copy.
    each_s: f64,
    /// Seconds from the first call to the end of a number of copies, once measured.
    alone_s: BTreeMap<usize, f64>,
}

impl Clock {
    /// A clock for `device`, which is no wrapper. Where the device is an accelerator it holds 256 MiB there.
    pub(crate) fn new(device: &Device) -> Result<Clock> {
        let behind = device.info().is_accelerator().then(|| Behind::new(device)).transpose()?;
        Ok(Clock { device: device.clone(), behind })
    }

    /// Runs the op, on an accelerator several times. Waits for the device.
    pub(crate) fn time(&mut self, op: &Op<'_>) -> lingot_device::Result<OpTime> {
        let device = &self.device;
        let begin = Instant::now();
        Backend::run(device, op)?;
        let Some(behind) = &mut self.behind else {
            device.finish()?;
            return Ok(OpTime { seconds: begin.elapsed().as_secs_f64(), ..OpTime::default() });
        };
        device.finish()?;
        let begin = Instant::now();
        Backend::run(device, op)?;
        let enqueue_s = begin.elapsed().as_secs_f64();
        device.finish()?;
        let whole_s = begin.elapsed().as_secs_f64();
        let times = (TOGETHER_S / whole_s).clamp(REPEATS[0], REPEATS[1]) as usize;
        let copies = ((1.5 * enqueue_s * times as f64 + MARGIN_S) / behind.each_s).ceil() as usize;
        let alone_s = behind.alone_s(device, copies)?;
        let begin = Instant::now();
        behind.copy(copies)?;
        let first = Instant::now();
        (0..times).try_for_each(|_| Backend::run(device, op))?;
        let enqueue_s = first.elapsed().as_secs_f64();
        device.finish()?;
        let total_s = begin.elapsed().as_secs_f64();
        if enqueue_s < alone_s {
            let each = |seconds: f64| seconds.max(0.0) / times as f64;
            return Ok(OpTime { seconds: each(total_s - alone_s), enqueue_s: each(enqueue_s), waits: false });
        }
        // The host waited for the copies: nothing can be enqueued ahead of this op.
        Ok(OpTime { seconds: whole_s, enqueue_s: whole_s, waits: true })
    }
}

impl Behind {
    fn new(device: &Device) -> Result<Behind> {
        let [from, to] = [device.zeros(&[COPIED], Kind::F32)?, device.zeros(&[COPIED], Kind::F32)?];
        let mut behind = Behind { from, to, each_s: 1.0, alone_s: BTreeMap::new() };
        let [few_s, many_s] = [behind.alone_s(device, 4)?, behind.alone_s(device, 36)?];
        behind.each_s = ((many_s - few_s) / 32.0).max(1e-6);
        Ok(behind)
    }

    fn copy(&self, times: usize) -> lingot_device::Result<()> {
        (0..times).try_for_each(|_| ops::copy(&self.to, &self.from))
    }

    /// The least of four measurements, made when a number of copies is first asked for.
    fn alone_s(&mut self, device: &Device, times: usize) -> lingot_device::Result<f64> {
        if let Some(known) = self.alone_s.get(&times) {
            return Ok(*known);
        }
        let mut least_s = f64::INFINITY;
        for _ in 0..4 {
            let begin = Instant::now();
            self.copy(times)?;
            device.finish()?;
            least_s = least_s.min(begin.elapsed().as_secs_f64());
        }
        self.alone_s.insert(times, least_s);
        Ok(least_s)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use lingot_device::backend::{DeviceInfo, Wrapper};
    use lingot_device::cpu::Cpu;
    use lingot_device::intercepted::Intercepted;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    /// A device that computes at once and pretends to be busy for a time that depends on the op: `copy` 0.2
    /// ms, others 0.5 ms. The busy time of what was enqueued adds up, and `finish` waits until it is over.
    pub(crate) struct Later {
        inner: Device,
        info: DeviceInfo,
        free: Mutex<Instant>,
        waits: bool,
    }

    impl Later {
        pub(crate) fn new(waits: bool) -> Later {
            let inner = Device::new(Cpu::new(1));
            let info = DeviceInfo { threads: 0, ..inner.info().clone() };
            Later { inner, info, free: Mutex::new(Instant::now()), waits }
        }

        fn wait(&self) {
            let until = *self.free.lock().unwrap();
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        }
    }

    impl Wrapper for Later {
        fn inner(&self) -> &dyn Backend {
            &self.inner
        }

        fn info(&self) -> &DeviceInfo {
            &self.info
        }

        fn run(&self, op: &Op<'_>) -> lingot_device::Result<()> {
            let is_copy = op.name() == "copy";
            if !is_copy {
                self.inner().run(op)?;
            }
            let takes = Duration::from_micros(if is_copy { 200 } else { 500 });
            {
                let mut free = self.free.lock().unwrap();
                *free = (*free).max(Instant::now()) + takes;
            }
            if self.waits && !is_copy {
                self.wait();
            }
            Ok(())
        }

        fn finish(&self) -> lingot_device::Result<()> {
            self.wait();
            Ok(())
        }
    }

    fn time_of_an_op(device: Device) -> OpTime {
        let found = Arc::new(Mutex::new(OpTime::default()));
        let clock = Mutex::new(Clock::new(&device).unwrap());
        let kept = found.clone();
        let run = move |op: &Op<'_>| {
            *kept.lock().unwrap() = clock.lock().unwrap().time(op)?;
            Ok(())
        };
        let timed = Device::new(Intercepted::new(device, run));
        let tensor = timed.zeros(&[4], Kind::F32).unwrap();
        ops::fill(&tensor, 1.0).unwrap();
        *found.lock().unwrap()
    }

    #[test]
    fn an_op_that_is_computed_later_is_timed_without_what_enqueuing_it_takes() {
        let found = time_of_an_op(Device::new(Later::new(false)));
        assert!((found.seconds / 5e-4 - 1.0).abs() < 0.5, "{found:?}");
        assert!(found.enqueue_s < 2.5e-4 && !found.waits, "{found:?}");
    }

    #[test]
    fn an_op_that_waits_for_the_device_is_found_out() {
        let found = time_of_an_op(Device::new(Later::new(true)));
        assert!(found.waits && found.seconds >= 5e-4, "{found:?}");
    }

    #[test]
    fn a_host_device_computes_while_it_is_called() {
        let found = time_of_an_op(Device::new(Cpu::new(1)));
        assert!(found.seconds > 0.0 && found.enqueue_s == 0.0 && !found.waits, "{found:?}");
    }
}
