//! The largest of each row, the first of equals, among sums that no rounding makes equal.
//!
//! Sums of two f32 are held in f64, or where the device has none, as pairs of f32: what was rounded, and what
//! the rounding left out (Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B).

use super::Torch;
use super::refusal::Refusal;
use super::value::Value;

/// Rows of sums. NaN counts as the lowest number; only excluded elements, minus infinity, lie below it.
pub(super) struct Selection<'a> {
    torch: &'a Torch,
    sizes: [i64; 2],
    high: Value,
    low: Option<Value>,
}

impl<'a> Selection<'a> {
    /// `x + y`, [rows, width] and [width]; both f32.
    pub(super) fn of(
        torch: &'a Torch,
        sizes: [i64; 2],
        x: &Value,
        y: Option<&Value>,
    ) -> Result<Selection<'a>, Refusal> {
        let wide = |x: &Value, sizes: &[i64]| {
            let dtypes = torch.torch.dtypes;
            torch.converted(x, sizes, if torch.has_f64 { dtypes.f64 } else { dtypes.f32 })
        };
        let x = wide(x, &sizes)?;
        let Some(y) = y else { return Selection { torch, sizes, high: x, low: None }.comparable() };
        let y = wide(y, &sizes[1..])?;
        let (high, low) = if torch.has_f64 { (x.plus(&y)?, None) } else { pair(&x, &y)? };
        Selection { torch, sizes, high, low }.comparable()
    }

    fn comparable(self) -> Result<Selection<'a>, Refusal> {
        let lowest = Some(if self.torch.has_f64 { f64::MIN } else { f64::from(f32::MIN) });
        let aten = self.torch.aten();
        let high = aten.nan_to_num(&self.high, lowest, None, lowest)?;
        let low = self.low.map(|low| aten.nan_to_num(&low, Some(0.0), Some(0.0), Some(0.0))).transpose()?;
        Ok(Selection { high, low, ..self })
    }

    /// The places of the `count` largest of each row, largest first, each [rows, 1]. They become excluded.
    pub(super) fn take_largest(&self, count: usize) -> Result<Vec<Value>, Refusal> {
        (0..count).map(|_| self.take_one()).collect()
    }

    fn take_one(&self) -> Result<Value, Refusal> {
        let aten = self.torch.aten();
        let (most, mut place) = aten.max(&self.high, 1, true)?;
        if let Some(low) = &self.low {
            let lows = aten.where_(&aten.eq(&self.high, &most)?, low, &self.excluded()?)?;
            place = aten.max(&lows, 1, true)?.1;
        }
        most.fill(f64::NEG_INFINITY)?;
        aten.scatter_(&self.high, 1, &place, &most)?;
        Ok(place)
    }

    fn excluded(&self) -> Result<Value, Refusal> {
        if self.torch.has_f64 {
            Value::f64(self.torch.torch, f64::NEG_INFINITY)
        } else {
            self.torch.scalar(f64::NEG_INFINITY)
        }
    }

    /// Excludes all but the `kept` groups whose two largest have the largest sums.
    pub(super) fn keep_groups(self, groups: usize, kept: usize) -> Result<Selection<'a>, Refusal> {
        let aten = self.torch.aten();
        let [rows, width] = self.sizes;
        let (groups, size) = (groups as i64, width / groups as i64);
        let best = self.sums_of_best_two([rows * groups, size])?.shaped([rows, groups])?;
        best.take_largest(kept)?;
        let taken = aten.eq(&best.high, &best.excluded()?)?.shaped(&[rows, groups, 1], 0)?;
        let by_group = self.high.shaped(&[rows, groups, size], 0)?;
        let high = aten.where_(&taken, &by_group, &self.excluded()?)?.shaped(&self.sizes, 0)?;
        Ok(Selection { high, ..self })
    }

    /// The sum of the two largest of each row, the same numbers being cut into other rows; [rows, 1].
    fn sums_of_best_two(&self, sizes: [i64; 2]) -> Result<Selection<'a>, Refusal> {
        let (torch, aten) = (self.torch, self.torch.aten());
        let dtype = if torch.has_f64 { torch.torch.dtypes.f64 } else { torch.torch.dtypes.f32 };
        let high = self.high.shaped(&sizes, 0)?;
        let low = self.low.as_ref().map(|low| low.shaped(&sizes, 0)).transpose()?;
        let scratch = Selection { torch, sizes, high: torch.converted(&high, &sizes, dtype)?, low };
        let places = scratch.take_largest(if sizes[1] > 1 { 2 } else { 1 })?;
        let at = |values: &Value, place: &Value| aten.gather(values, 1, place, false);
        let lows = |place| scratch.low.as_ref().map(|low| at(low, place)).transpose();
        let (mut sum, mut rest) = (at(&high, &places[0])?, lows(&places[0])?);
        if let Some(place) = places.get(1) {
            let second = at(&high, place)?;
            (sum, rest) = if torch.has_f64 {
                (sum.plus(&second)?, None)
            } else {
                let (sum, mut rounded) = pair(&sum, &second)?;
                for low in [rest, lows(place)?].into_iter().flatten() {
                    rounded = rounded.map(|rounded| rounded.plus(&low)).transpose()?;
                }
                match rounded {
                    Some(rounded) => pair(&sum, &rounded)?,
                    None => (sum, None),
                }
            };
        }
        Selection { torch, sizes: [sizes[0], 1], high: sum, low: rest }.comparable()
    }

    fn shaped(self, sizes: [i64; 2]) -> Result<Selection<'a>, Refusal> {
        let (high, low) =
            (self.high.shaped(&sizes, 0)?, self.low.map(|low| low.shaped(&sizes, 0)).transpose()?);
        Ok(Selection { high, low, sizes, ..self })
    }
}

/// `a + b`: the rounded sum, and what the rounding left out.
fn pair(a: &Value, b: &Value) -> Result<(Value, Option<Value>), Refusal> {
    let sum = a.plus(b)?;
    let of_b = sum.minus(a, 1.0)?;
    let of_a = sum.minus(&of_b, 1.0)?;
    let left = a.minus(&of_a, 1.0)?.plus(&b.minus(&of_b, 1.0)?)?;
    Ok((sum, Some(left)))
}
