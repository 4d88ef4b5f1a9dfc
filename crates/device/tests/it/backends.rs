//! What all backends promise: slots that only their owner accepts, copies that end within them, and a peak of
//! memory that only restarts when it is told to.

use lingot_device::cpu::Cpu;
use lingot_device::null::Null;
use lingot_device::reference::Reference;
use lingot_device::throttled::{Throttle, Throttled};
use lingot_device::timed::Timed;
#[cfg(unix)]
use lingot_device::torch::{Options, Torch};
use lingot_device::{
    Backend, Bf16, Device, Error, Kind, Op, Result, Slot, Tensor, Wrapper, intercepted, ops,
};

/// Two devices of each kind.
fn pairs() -> Vec<[Device; 2]> {
    let mut makers: Vec<fn() -> Result<Device>> = vec![
        || Ok(Device::new(Cpu::new(1))),
        || Ok(Device::new(Reference::new())),
        || Ok(Device::new(Null::new().0)),
        || Ok(Device::new(Timed::new(Device::new(Cpu::new(1))).0)),
        || Ok(Device::new(Throttled::new(Device::new(Cpu::new(1)), "weak", Throttle::default()).0)),
    ];
    #[cfg(unix)]
    makers.push(|| Ok(Device::new(Torch::open("torch:cpu", Options::default())?)));
    let pair = |make: fn() -> Result<Device>| match (make(), make()) {
        (Ok(one), Ok(other)) => Some([one, other]),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("skipped: {error}");
            None
        }
    };
    makers.into_iter().filter_map(pair).collect()
}

#[test]
fn a_slot_of_another_backend_is_refused() {
    for [device, other] in pairs() {
        let foreign = Backend::allocate(&other, 64).unwrap();
        let refused =
            |result: Result<()>| assert!(matches!(result, Err(Error::Foreign { .. })), "{device:?}");
        refused(Backend::write(&device, &foreign, 0, &[1; 8]));
        refused(Backend::read(&device, &foreign, 0, &mut [0; 8]));
        Backend::release(&other, foreign);
    }
}

/// Every number is kept as it is, in pieces that begin and end within a larger number of the device's.
#[test]
fn bf16_numbers_travel_unchanged_at_any_offset() {
    for [device, _] in pairs() {
        if device.info().name == "null" {
            continue;
        }
        let all: Vec<f32> = (0..=u16::MAX).map(|bits| Bf16::from_bits(bits).wide()).collect();
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits() >> 16).collect::<Vec<u32>>();
        let tensor = device.floats(&all, &[all.len()], Kind::Bf16).unwrap();
        // A NaN may lose its digits, but stays none.
        let quiet = |bits: u32| if bits & 0x7fff > 0x7f80 { bits | 0x40 } else { bits };
        let wanted: Vec<u32> = bits(&all).into_iter().map(quiet).collect();
        assert_eq!(bits(&tensor.to_floats().unwrap()), wanted, "{device:?}");
        for (first, count) in [(0, 1), (1, 1), (2, 2), (5, 3), (9, 0), (65_533, 3)] {
            let part = tensor.rows(first, count);
            assert_eq!(bits(&part.to_floats().unwrap()), wanted[first..first + count], "{device:?}");
            let copy = device.empty(&[count], Kind::Bf16).unwrap();
            ops::copy(&copy, &part).unwrap();
            assert_eq!(bits(&copy.to_floats().unwrap()), wanted[first..first + count], "{device:?}");
            part.write_floats(&vec![1.5; count]).unwrap();
        }
        let end = tensor.to_floats().unwrap();
        assert_eq!((end[65_532].to_bits() >> 16, &end[65_533..]), (wanted[65_532], &[1.5; 3][..]));
        assert_eq!((end[3], end[4].to_bits() >> 16, end[5]), (1.5, wanted[4], 1.5), "{device:?}");
    }
}

#[test]
fn what_is_no_number_stays_none_in_either_kind() {
    for [device, _] in pairs() {
        if device.info().name == "null" {
            continue;
        }
        let hard = [f32::NAN, f32::from_bits(0x7f80_0001), f32::INFINITY, f32::NEG_INFINITY];
        let x = device.floats(&hard, &[4], Kind::F32).unwrap();
        let (narrow, wide) =
            (device.zeros(&[4], Kind::Bf16).unwrap(), device.zeros(&[4], Kind::F32).unwrap());
        ops::copy(&narrow, &x).unwrap();
        ops::copy(&wide, &narrow).unwrap();
        let found = wide.to_floats().unwrap();
        assert!(found[0].is_nan() && found[1].is_nan(), "{device:?}: {found:?}");
        assert_eq!(found[2..], hard[2..], "{device:?}");
    }
}

#[test]
fn a_copy_beyond_the_end_of_a_slot_is_refused() {
    for [device, _] in pairs() {
        let slot = Backend::allocate(&device, 64).unwrap();
        assert_eq!(slot.bytes(), 64);
        Backend::write(&device, &slot, 56, &[1; 8]).unwrap();
        let refused = |result: Result<()>| assert!(matches!(result, Err(Error::Beyond { .. })), "{device:?}");
        for offset_bytes in [60, 64, 1 << 40, usize::MAX] {
            refused(Backend::write(&device, &slot, offset_bytes, &[1; 8]));
            refused(Backend::read(&device, &slot, offset_bytes, &mut [0; 8]));
        }
        Backend::release(&device, slot);
    }
}

#[test]
fn memory_in_use_only_reads_and_the_peak_restarts_when_it_is_told_to() {
    for [device, _] in pairs() {
        let kept = device.empty(&[256], Kind::F32).unwrap();
        drop(device.empty(&[1024], Kind::F32).unwrap());
        let both = device.memory_in_use();
        assert_eq!((both.now_bytes, both.peak_bytes), (1024, 1024 + 4096), "{device:?}");
        assert_eq!(device.memory_in_use(), both, "{device:?}: reading changes the figure");
        device.restart_peak();
        assert_eq!(device.memory_in_use().peak_bytes, 1024, "{device:?}");
        drop(kept);
        assert_eq!(device.memory_in_use().now_bytes, 0, "{device:?}");
    }
}

#[test]
fn an_op_on_memory_of_another_backend_is_refused() {
    for [device, other] in pairs() {
        let elsewhere = other.clone();
        let wrapper =
            intercepted::Intercepted::new(device.clone(), move |op: &Op<'_>| Backend::run(&elsewhere, op));
        let tensor = Device::new(wrapper).empty(&[4], Kind::F32).unwrap();
        let refused = ops::fill(&tensor, 1.0);
        assert!(matches!(refused, Err(Error::Foreign { what: "fill" })), "{device:?}");
        let moved = device.empty(&[4], Kind::F32).unwrap().on(&other);
        assert!(matches!(ops::fill(&moved, 1.0), Err(Error::Foreign { .. })), "{device:?}");
        assert!(moved.to_floats().is_err(), "{device:?}");
    }
}

#[test]
fn a_tensor_is_the_same_on_the_device_behind_a_wrapper() {
    let cpu = Device::new(Cpu::new(1));
    let behind = cpu.clone();
    let twice = intercepted::Intercepted::new(cpu, move |op: &Op<'_>| match op {
        Op::Add(op) => {
            let [x, out]: [Tensor; 2] = [op.x, op.out].map(|tensor| tensor.on(&behind));
            ops::add(&out, &x)?;
            ops::add(&out, &x)
        }
        op => Backend::run(&behind, op),
    });
    let device = Device::new(twice);
    let out = device.floats(&[1.0, 2.0], &[2], Kind::F32).unwrap();
    ops::add(&out, &device.floats(&[10.0, 20.0], &[2], Kind::F32).unwrap()).unwrap();
    assert_eq!(out.to_floats().unwrap(), [21.0, 42.0]);
}

/// A wrapper that hands out less memory than it is asked for.
struct Stingy(Device);

impl Wrapper for Stingy {
    fn inner(&self) -> &dyn Backend {
        &self.0
    }

    fn allocate(&self, bytes: usize) -> Result<Slot> {
        self.inner().allocate(bytes / 2)
    }
}

#[test]
fn a_tensor_is_never_longer_than_its_memory() {
    let device = Device::new(Stingy(Device::new(Cpu::new(1))));
    assert!(matches!(device.empty(&[64], Kind::F32), Err(Error::Beyond { bytes: 256, slot_bytes: 128, .. })));
    let cpu = Device::new(Cpu::new(1));
    for shape in [&[1 << 62][..], &[1 << 40, 1 << 40], &[usize::MAX, 2, 3]] {
        assert!(matches!(cpu.empty(shape, Kind::F32), Err(Error::OutOfMemory { .. })), "{shape:?}");
    }
    assert!(matches!(Backend::allocate(&cpu, usize::MAX), Err(Error::OutOfMemory { .. })));
}
