//! What devices of one machine reach together when they share every step in whole micro-batches: the planner's word on
//! a fleet that `lingot bench fleet` measures.

use crate::uneven::{Holder, apportion};

/// A device as it was measured alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Device {
    /// Of one micro-batch.
    pub micro_s: f64,
    /// Of each step, however few micro-batches it computes: taking the weights, bringing the gradients.
    pub fixed_s: f64,
    /// Micro-batches of a step that it can take on; `u32::MAX` where nothing bounds them.
    pub most: u32,
}

/// A fleet's step.
#[derive(Clone, Debug, PartialEq)]
pub struct Together {
    /// Micro-batches by device.
    pub counts: Vec<u32>,
    /// Until the last is through, the host's part included.
    pub step_s: f64,
    /// Micro-batches per second of all together.
    pub micros_per_s: f64,
    /// That over the sum of what each device reaches when it computes whole steps alone.
    pub efficiency: f64,
}

impl Device {
    /// From the seconds of steps of two lengths, each with its micro-batches: a line through both. None where the lengths
    /// are the same or the longer step did not take longer; what lies below zero at no micro-batches is taken for 0.
    pub fn measured([short, long]: [(u32, f64); 2]) -> Option<Device> {
        let micro_s = (long.1 - short.1) / (f64::from(long.0) - f64::from(short.0));
        let fixed_s = (short.1 - micro_s * f64::from(short.0)).max(0.0);
        (micro_s > 0.0 && micro_s.is_finite()).then_some(Device { micro_s, fixed_s, most: u32::MAX })
    }

    /// A whole step alone.
    fn alone_s(&self, micros: u32, host_s: f64) -> f64 {
        self.fixed_s + self.micro_s * f64::from(micros) + host_s
    }
}

/// Predicts a step of so many micro-batches. `host_s` is what the host does once in every step while the devices wait,
/// such as the optimizer's step; 0 where the devices' `fixed_s` holds it already. None where the devices together have
/// no room for the micro-batches, or there are none of either.
pub fn together(micros: u32, devices: &[Device], host_s: f64) -> Option<Together> {
    let holder = |device: &Device| Holder {
        fixed_s: device.fixed_s,
        each_s: device.micro_s,
        least: 0,
        most: device.most,
    };
    let holders: Vec<Holder> = devices.iter().map(holder).collect();
    let counts = apportion(micros, &holders).filter(|_| micros > 0)?;
    let busy = holders.iter().zip(&counts).filter(|(_, count)| **count > 0);
    let step_s = host_s + busy.map(|(holder, count)| holder.seconds(*count)).fold(0.0, f64::max);
    let alone: f64 = devices.iter().map(|device| 1.0 / device.alone_s(micros, host_s)).sum();
    Some(Together {
        counts,
        step_s,
        micros_per_s: f64::from(micros) / step_s,
        efficiency: 1.0 / (step_s * alone),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Device = Device { micro_s: 0.1, fixed_s: 0.0, most: u32::MAX };

    #[test]
    fn speeds_that_divide_the_step_reach_their_sum_and_one_device_reaches_itself() {
        let devices = [1.0, 2.0, 4.0].map(|times| Device { micro_s: times * 0.1, ..FAST });
        let fleet = together(112, &devices, 0.0).unwrap();
        assert_eq!(fleet.counts, [64, 32, 16]);
        assert!((fleet.efficiency - 1.0).abs() < 1e-12 && (fleet.step_s - 6.4).abs() < 1e-12, "{fleet:?}");
        let alone = together(7, &[Device { fixed_s: 0.3, ..FAST }], 0.2).unwrap();
        assert!((alone.efficiency - 1.0).abs() < 1e-12 && (alone.step_s - 1.2).abs() < 1e-12, "{alone:?}");
    }

    #[test]
    fn what_every_device_does_in_each_step_is_what_a_fleet_loses() {
        // Alone 11.2 + 1 s; together each computes half of that, and still has its second.
        let fleet = together(112, &[Device { fixed_s: 1.0, ..FAST }; 2], 0.0).unwrap();
        assert_eq!(fleet.counts, [56, 56]);
        assert!((fleet.efficiency - 12.2 / (2.0 * 6.6)).abs() < 1e-12, "{fleet:?}");
        let hosted = together(112, &[FAST; 2], 1.0).unwrap();
        assert!((hosted.efficiency - fleet.efficiency).abs() < 1e-12, "whoever does it: {hosted:?}");
    }

    #[test]
    fn a_device_that_would_be_last_with_one_micro_batch_gets_none_and_room_is_kept() {
        let slow = Device { micro_s: 9.0, ..FAST };
        assert_eq!(together(8, &[FAST, slow], 0.0).unwrap().counts, [8, 0]);
        assert_eq!(together(8, &[Device { most: 3, ..FAST }, slow], 0.0).unwrap().counts, [3, 5]);
        assert_eq!(together(8, &[Device { most: 3, ..FAST }; 2], 0.0), None);
        assert_eq!(together(8, &[], 0.0), None);
        assert_eq!(together(0, &[FAST], 0.0), None);
    }

    #[test]
    fn steps_of_two_lengths_tell_what_a_micro_batch_takes() {
        let device = Device::measured([(28, 3.3), (112, 11.7)]).unwrap();
        assert!((device.micro_s - 0.1).abs() < 1e-12 && (device.fixed_s - 0.5).abs() < 1e-9, "{device:?}");
        assert_eq!(Device::measured([(28, 3.3), (28, 3.4)]), None);
        assert_eq!(Device::measured([(28, 3.3), (112, 3.2)]), None);
    }
}
