//! The routers' state that no gradient trains: selection biases, and statistics of the logits.

use crate::inputs::Totals;
use crate::tally::Tally;
use crate::transformer::Model;
use lingot_device::{Result, ops};
use lingot_spec::tensors::buffers;

/// How the names of selection biases end.
const SELECTION_BIAS: &str = "selection_bias";

/// The running statistics of a router's raw logits, over tokens and experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitStatistics {
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
}

impl Default for LogitStatistics {
    /// Those of standard normal numbers.
    fn default() -> LogitStatistics {
        LogitStatistics { mean: 0.0, deviation: 1.0 }
    }
}

impl Model {
    /// Moves the selection biases towards equal loads: `b += rate (sign(e) - mean(sign(e)))`, e = mean load -
    /// load (DeepSeek-V3, arXiv 2412.19437, section 2.1.2; the zero mean is Ling 2.0's). To be called once
    /// per step, with the whole step's loads.
    pub fn balance(&self, tally: &Tally) -> Result<()> {
        for (bias_e, routed) in self.biases.iter().zip(&tally.routed) {
            ops::balance_bias(bias_e, &routed.loads_e, self.spec.router.bias_rate)?;
        }
        Ok(())
    }

    /// Updates the running statistics of the logits from those of step `step`: by a tenth of the difference,
    /// and in step 0 by all of it. `moments` are those of the step's [`Counts`](crate::Counts).
    pub fn follow_logits(&mut self, moments: &[[f64; 2]], totals: Totals, step: u64) {
        let count = totals.tokens as f64 * f64::from(self.spec.experts);
        let share = if step == 0 { 1.0 } else { 0.1 };
        for (running, sums) in self.statistics.iter_mut().zip(moments) {
            let mean = sums[0] / count;
            let deviation = (sums[1] / count - mean * mean).max(0.0).sqrt();
            // Rounded to f32, which is what a checkpoint holds: a resumed run must see the same numbers.
            running.mean = f64::from((running.mean + share * (mean - running.mean)) as f32);
            running.deviation =
                f64::from((running.deviation + share * (deviation - running.deviation)) as f32);
        }
    }

    /// Returns the routers' state by name, as `spec::tensors::buffers` lists it. Waits for the device.
    pub fn buffers(&self) -> Result<Vec<(String, Vec<f32>)>> {
        let mut biases = self.biases.iter();
        let mut statistics = self.statistics.iter();
        buffers(&self.spec)
            .into_iter()
            .map(|buffer| {
                let values = if buffer.name.ends_with(SELECTION_BIAS) {
                    biases.next().map_or(Ok(Vec::new()), |bias_e| bias_e.to_floats())?
                } else {
                    let values =
                        |running: &LogitStatistics| vec![running.mean as f32, running.deviation as f32];
                    statistics.next().map(values).unwrap_or_default()
                };
                Ok((buffer.name, values))
            })
            .collect()
    }

    /// Returns the routers' state in the order that [`Model::set_buffers`] takes it. Waits for the device.
    pub fn buffer_values(&self) -> Result<Vec<Vec<f32>>> {
        Ok(self.buffers()?.into_iter().map(|(_, values)| values).collect())
    }

    /// Sets the routers' state to `values`, which are in the order of `spec::tensors::buffers`.
    ///
    /// # Panics
    /// If a selection bias has another length than the model has experts.
    pub fn set_buffers(&mut self, values: &[Vec<f32>]) -> Result<()> {
        let mut biases = self.biases.iter();
        let mut statistics = self.statistics.iter_mut();
        for (buffer, values) in buffers(&self.spec).iter().zip(values) {
            if buffer.name.ends_with(SELECTION_BIAS) {
                biases.next().map_or(Ok(()), |bias_e| bias_e.write_floats(values))?;
            } else if let (Some(running), [mean, deviation]) = (statistics.next(), values.as_slice()) {
                *running = LogitStatistics { mean: f64::from(*mean), deviation: f64::from(*deviation) };
            }
        }
        Ok(())
    }
}
