//! The measured speed of one device for each kind of op: the content of `profile.toml`.
//!
//! The time of an op is a sum of terms that follow from its sizes (one per call, per multiply-add, per number
//! of each operand), each with a fitted factor of 0 or more. Near measured sizes the sum is corrected by the
//! residuals there, weighted by nearness in the logarithms of the sizes. Far from all measurements the
//! correction fades and the sum alone answers.

use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::Precision;
use lingot_spec::step::StepOp;
use serde::{Deserialize, Serialize};

/// How far a measurement corrects its neighbours, in natural logarithms of sizes.
const REACH: f64 = 0.6;

/// Weight of the assumption that the sum needs no correction; one measurement at the same sizes weighs 1.
const PRIOR: f64 = 0.25;

/// Below this the clock dominates; errors are relative to at least this many seconds.
const LEAST_S: f64 = 1e-5;

/// A device's measured speed, as in `profile.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The device's own description.
    pub device: String,
    /// CPU threads that it used; 0 if the device is an accelerator.
    pub threads: usize,
    /// What activations and working weights were held in.
    #[serde(default)]
    pub precision: Precision,
    /// Bytes of the process besides tensors.
    pub base_bytes: u64,
    /// Seconds of a step outside its ops: per op, and per byte that its ops move.
    pub between_s: [f64; 2],
    /// Copies between host and device; none where the device is the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<Links>,
    /// One entry per kind and form of op.
    pub family: Vec<Family>,
}

/// Measured copies between the host's ordinary memory and a device, in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Links {
    /// From host to device.
    pub to_device_bytes_per_s: f64,
    /// From device to host.
    pub to_host_bytes_per_s: f64,
    /// Both directions together, while both go on at once.
    pub both_bytes_per_s: f64,
}

/// One kind of op in one form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// The name of the op.
    pub op: String,
    /// Which operand is stored transposed, as in [`StepOp::form`].
    pub form: String,
    /// Seconds of the host until a call returns, while the device is busy; 0 on a host device.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub enqueue_s: f64,
    /// Whether the host waits for the device in each call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// Seconds per unit of each term; the source of this module lists the terms.
    pub factors: Vec<f64>,
    /// Median relative error at the measured sizes, each left out of its own correction.
    pub left_out_error: f64,
    /// The measurements.
    pub points: Vec<Point>,
}

/// The measurement of one op at one set of sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// As in [`StepOp::sizes`].
    pub sizes: [usize; 5],
    /// Median seconds of one call.
    pub seconds: f64,
    /// Least and most seconds of one call.
    pub range_s: [f64; 2],
}

/// A measurement and the op it belongs to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The name of the op.
    pub op: String,
    /// Which operand is stored transposed, as in [`StepOp::form`].
    pub form: String,
    /// Sizes and seconds.
    pub point: Point,
    /// As in [`Family::enqueue_s`].
    pub enqueue_s: f64,
    /// As in [`Family::waits`].
    pub waits: bool,
}

/// What one call of an op takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Call {
    /// Seconds on the device.
    pub seconds: f64,
    /// As in [`Family::enqueue_s`].
    pub enqueue_s: f64,
    /// As in [`Family::waits`].
    pub waits: bool,
}

/// The device that measurements were made on.
#[derive(Clone, Debug)]
pub struct Subject {
    /// As in [`Profile::device`].
    pub device: String,
    /// As in [`Profile::threads`].
    pub threads: usize,
    /// As in [`Profile::precision`].
    pub precision: Precision,
    /// As in [`Profile::base_bytes`].
    pub base_bytes: u64,
    /// As in [`Profile::links`].
    pub links: Option<Links>,
}

/// The time of a measured step outside its ops.
#[derive(Clone, Copy, Debug)]
pub struct Between {
    /// Ops of the step.
    pub ops: f64,
    /// Bytes that its ops move.
    pub bytes: f64,
    /// Seconds of the step outside its ops.
    pub seconds: f64,
}

impl Profile {
    /// Reads `profile.toml`.
    ///
    /// Errors if it is no profile, or if its figures are impossible.
    pub fn parse(text: &str) -> Result<Profile> {
        let refused = |problem: String| Problem::new(problem, "`lingot bench ops` writes profiles");
        let profile: Profile = toml::from_str(text).map_err(|error| refused(error.to_string()))?;
        let numbers = profile.family.iter().flat_map(|family| &family.factors).chain(&profile.between_s);
        if let Some(number) = numbers.into_iter().find(|number| !number.is_finite() || **number < 0.0) {
            return Err(refused(format!(
                "a factor of the profile is {number}; factors are finite and at least 0"
            )));
        }
        if let Some(family) = profile.family.iter().find(|family| !family.is_sound()) {
            return Err(refused(format!(
                "the profile's measurements of `{}` are incomplete or not positive",
                family.op
            )));
        }
        Ok(profile)
    }

    /// Returns the content of `profile.toml`.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// Fits a profile to measurements in any order.
    pub fn fit(subject: Subject, mut measured: Vec<Measured>, between: &[Between]) -> Profile {
        measured.sort_by(|a, b| (&a.op, &a.form, a.point.sizes).cmp(&(&b.op, &b.form, b.point.sizes)));
        let family = measured
            .chunk_by(|a, b| (&a.op, &a.form) == (&b.op, &b.form))
            .map(|group| {
                let points = merged(group.iter().map(|measured| &measured.point));
                let mut enqueue_s: Vec<f64> = group.iter().map(|measured| measured.enqueue_s).collect();
                enqueue_s.sort_by(f64::total_cmp);
                Family {
                    enqueue_s: enqueue_s[enqueue_s.len() / 2],
                    waits: 2 * group.iter().filter(|measured| measured.waits).count() > group.len(),
                    ..Family::fit(&group[0].op, &group[0].form, points)
                }
            })
            .collect();
        let rows: Vec<Vec<f64>> = between.iter().map(|rest| vec![rest.ops, rest.bytes]).collect();
        let seconds: Vec<f64> = between.iter().map(|rest| rest.seconds).collect();
        let factors = factors(&rows, &seconds);
        let between_s = [factors[0], factors[1]];
        let Subject { device, threads, precision, base_bytes, links } = subject;
        Profile { device, threads, precision, base_bytes, between_s, links, family }
    }

    /// Whether the device is an accelerator, which computes while its host enqueues.
    pub fn is_of_accelerator(&self) -> bool {
        self.threads == 0
    }

    /// Returns what one call takes; none where no op of that kind and form was measured.
    pub fn call(&self, op: &StepOp) -> Option<Call> {
        let family = self.family.iter().find(|family| family.op == op.name && family.form == op.form)?;
        let seconds = family.seconds(&op.sizes, None);
        Some(Call { seconds, enqueue_s: family.enqueue_s, waits: family.waits })
    }

    /// Returns the seconds of one call on the device; none where no op of that kind and form was measured.
    pub fn seconds(&self, op: &StepOp) -> Option<f64> {
        self.call(op).map(|call| call.seconds)
    }
}

impl Family {
    fn fit(op: &str, form: &str, points: Vec<Point>) -> Family {
        let rows: Vec<Vec<f64>> = points.iter().map(|point| terms(op, &point.sizes)).collect();
        let seconds: Vec<f64> = points.iter().map(|point| point.seconds).collect();
        let mut family = Family {
            op: op.to_owned(),
            form: form.to_owned(),
            enqueue_s: 0.0,
            waits: false,
            factors: factors(&rows, &seconds),
            left_out_error: 0.0,
            points,
        };
        let mut errors: Vec<f64> = (0..family.points.len())
            .map(|at| {
                let point = &family.points[at];
                (family.seconds(&point.sizes, Some(at)) - point.seconds).abs() / point.seconds.max(LEAST_S)
            })
            .collect();
        errors.sort_by(f64::total_cmp);
        family.left_out_error = errors.get(errors.len() / 2).copied().unwrap_or(0.0);
        family
    }

    fn is_sound(&self) -> bool {
        !self.points.is_empty()
            && self.factors.len() == terms(&self.op, &self.points[0].sizes).len()
            && self.enqueue_s.is_finite()
            && self.enqueue_s >= 0.0
            && self.points.iter().all(|point| point.seconds.is_finite() && point.seconds > 0.0)
    }

    fn sum(&self, sizes: &[usize; 5]) -> f64 {
        terms(&self.op, sizes).iter().zip(&self.factors).map(|(term, factor)| term * factor).sum::<f64>()
    }

    /// The sum, corrected by the measurements nearby, one of which may be left out.
    fn seconds(&self, sizes: &[usize; 5], without: Option<usize>) -> f64 {
        let (mut evidence, mut residual) = (0.0, 0.0);
        for (at, point) in self.points.iter().enumerate() {
            if Some(at) == without {
                continue;
            }
            let weight = (-distance2(sizes, &point.sizes) / (2.0 * REACH * REACH)).exp();
            let found = (point.seconds + LEAST_S) / (self.sum(&point.sizes) + LEAST_S);
            evidence += weight;
            residual += weight * found.ln();
        }
        let corrected = (self.sum(sizes) + LEAST_S) * (residual / (evidence + PRIOR)).exp() - LEAST_S;
        corrected.max(0.0)
    }
}

fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}

/// Merges points of the same sizes into one, with the mean of their medians.
fn merged<'a>(points: impl Iterator<Item = &'a Point>) -> Vec<Point> {
    let points: Vec<&Point> = points.collect();
    points
        .chunk_by(|a, b| a.sizes == b.sizes)
        .map(|same| Point {
            sizes: same[0].sizes,
            seconds: same.iter().map(|point| point.seconds).sum::<f64>() / same.len() as f64,
            range_s: [
                same.iter().map(|point| point.range_s[0]).fold(f64::INFINITY, f64::min),
                same.iter().map(|point| point.range_s[1]).fold(0.0, f64::max),
            ],
        })
        .collect()
}

fn distance2(a: &[usize; 5], b: &[usize; 5]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| ((a.max(1) as f64) / (b.max(1) as f64)).ln().powi(2)).sum()
}

/// The terms of an op's time; the first stands for the call itself.
fn terms(op: &str, sizes: &[usize; 5]) -> Vec<f64> {
    let [a, b, c, d, e] = sizes.map(|size| size as f64);
    match op {
        "matmul" => vec![1.0, a * b * c, a * c, b * c, a * b],
        // Rows, experts, n, k.
        "grouped_matmul" | "grouped_matmul_weights" => {
            vec![1.0, b, a * c * d, a * d, a * c, b * c * d]
        }
        // Tokens, sequence, heads, kv heads, head width.
        "attention" | "attention_grad" => vec![1.0, a * b * c * e, a * b * c, a * c * e, a * d * e],
        "cross_entropy" | "cross_entropy_grad" => vec![1.0, a * b * c, a * b, b * c, a * c],
        "route" | "route_grad" => vec![1.0, a * b, a * c, a * b * c],
        "combine" => vec![1.0, a * b, a * b * c, a * c],
        "sort_by_expert" => vec![1.0, a, b],
        // Rows and width; beyond the size of a cache each number costs more.
        _ => vec![1.0, a, a * b, (a * b - 262_144.0).max(0.0), (a * b - 4_194_304.0).max(0.0)],
    }
}

/// Factors of 0 or more that minimise the squares of the relative errors, by coordinate descent on the normal
/// equations.
fn factors(rows: &[Vec<f64>], seconds: &[f64]) -> Vec<f64> {
    let width = rows.first().map_or(2, Vec::len);
    let scale: Vec<f64> = (0..width)
        .map(|column| rows.iter().map(|row| row[column]).fold(0.0, f64::max).max(f64::MIN_POSITIVE))
        .collect();
    let weighted: Vec<(Vec<f64>, f64)> = rows
        .iter()
        .zip(seconds)
        .map(|(row, &seconds)| {
            let weight = 1.0 / seconds.max(LEAST_S);
            (row.iter().zip(&scale).map(|(term, scale)| term / scale * weight).collect(), seconds * weight)
        })
        .collect();
    let mut solved = vec![0.0; width];
    for _ in 0..ROUNDS {
        for column in 0..width {
            let (mut up, mut down) = (0.0, 0.0);
            for (row, target) in &weighted {
                let others: f64 = row.iter().zip(&solved).map(|(term, factor)| term * factor).sum();
                up += row[column] * (target - others + row[column] * solved[column]);
                down += row[column] * row[column];
            }
            solved[column] = if down > 0.0 { (up / down).max(0.0) } else { 0.0 };
        }
    }
    solved.iter().zip(&scale).map(|(factor, scale)| factor / scale).collect()
}

/// Rounds of coordinate descent.
const ROUNDS: usize = 2000;

#[cfg(test)]
mod tests;
