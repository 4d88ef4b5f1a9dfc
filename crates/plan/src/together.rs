//! Predicted speed of the devices of one machine that share every step in whole micro-batches: what
//! `lingot bench fleet` measures.

use crate::uneven::{Holder, apportion};

/// The speed of a device, measured alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Device {
    /// Seconds of one micro-batch.
    pub micro_s: f64,
    /// Seconds of each step whatever its micro-batches: taking the weights, bringing the gradients.
    pub fixed_s: f64,
    /// Most micro-batches of a step that it can compute; `u32::MAX` where nothing bounds them.
    pub most: u32,
}

/// The predicted step of a fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct Together {
    /// Micro-batches by device.
    pub counts: Vec<u32>,
    /// Seconds until the last device is through, the host's part included.
    pub step_s: f64,
    /// Micro-batches per second of the fleet.
    pub micros_per_s: f64,
    /// That over the sum of the speeds of devices that compute whole steps alone.
    pub efficiency: f64,
}

impl Device {
    /// Seconds of a whole step alone.
    fn alone_s(&self, micros: u32, host_s: f64) -> f64 {
        self.fixed_s + self.micro_s * f64::from(micros) + host_s
    }
}

/// Predicts a step of `micros` micro-batches. `host_s` are the seconds in which the host works once in every
/// step while the devices wait, such as for the optimizer's step; 0 where the devices' `fixed_s` includes
/// them. None where the devices have no room for the micro-batches, or there are no devices or no
/// micro-batches.
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
}
