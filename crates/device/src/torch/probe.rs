//! Trials of operators when a device is opened: random operands, and a comparison with the composed op.
#![allow(unsafe_code)]

use super::Torch;
use super::refusal::Refusal;
use super::value::{Value, row_major};
use crate::conformance::Random;
use crate::precision::{Precision, epsilon};

/// How far two right answers may lie apart, in units of the precision's epsilon and of the largest number.
const MOST_UNITS: f64 = 16.0;

/// Random operands on a device, the same ones at every opening.
pub(super) struct Numbers<'a> {
    pub(super) torch: &'a Torch,
    stream: Random,
}

impl<'a> Numbers<'a> {
    pub(super) fn new(torch: &'a Torch) -> Numbers<'a> {
        Numbers { torch, stream: Random::new(1) }
    }

    /// Normally distributed f32.
    pub(super) fn random(&mut self, sizes: &[i64]) -> Result<Value, Refusal> {
        let count = sizes.iter().product::<i64>();
        let numbers: Vec<f32> = (0..count).map(|_| self.stream.normal() as f32).collect();
        self.torch.hosted(&numbers, sizes)
    }
}

/// Whether products of the device's precision agree, forward or backward.
pub(super) fn agree(torch: &Torch, what: &str, found: &Value, wanted: &Value) -> Result<(), Refusal> {
    agree_in(torch, torch.options.precision, what, found, wanted)
}

/// Whether numbers that are computed in f32 agree.
pub(super) fn agree_in_f32(torch: &Torch, what: &str, found: &Value, wanted: &Value) -> Result<(), Refusal> {
    agree_in(torch, Precision::F32, what, found, wanted)
}

fn agree_in(
    torch: &Torch,
    precision: Precision,
    what: &str,
    found: &Value,
    wanted: &Value,
) -> Result<(), Refusal> {
    if found.sizes()? != wanted.sizes()? {
        return Err(format!("{what} is {:?}, composed {:?}", found.sizes()?, wanted.sizes()?).into());
    }
    let (found, wanted) = (numbers(torch, found)?, numbers(torch, wanted)?);
    let size = wanted.iter().fold(0.0, |size: f64, &x| size.max(f64::from(x).abs()));
    let error = |(&found, &wanted): (&f32, &f32)| (f64::from(found) - f64::from(wanted)).abs();
    // An error that is not a number is the largest of all.
    let worst = found.iter().zip(&wanted).map(error).max_by(f64::total_cmp).unwrap_or(0.0);
    let units = worst / (size * epsilon(precision));
    if worst == 0.0 || units <= MOST_UNITS {
        return Ok(());
    }
    Err(format!("{what} differs from the composed by {units:.0} units, {MOST_UNITS} at most").into())
}

/// On the host, row by row.
fn numbers(torch: &Torch, x: &Value) -> Result<Vec<f32>, Refusal> {
    let sizes = x.sizes()?;
    let dense = torch.converted(x, &sizes, torch.torch.dtypes.f32)?;
    let count = sizes.iter().product::<i64>();
    let mut numbers = vec![0.0_f32; count as usize];
    let data = numbers.as_mut_ptr().cast();
    // SAFETY: the copy waits, and is done before `numbers` can go.
    let host = unsafe { Value::on_host(torch.torch, data, numbers.len(), torch.torch.dtypes.f32) }?;
    host.set(&dense.strided(&[count], &row_major(&[count]), 0)?)?;
    Ok(numbers)
}
