//! The number that a bf16 tensor holds: the upper half of an f32, so its range with 8 digits of mantissa.
#![allow(unsafe_code)]

/// A bf16 number: one bit of sign, eight of exponent, seven of mantissa.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(u16);

// SAFETY: all bits zero are the number 0.
unsafe impl bytemuck::Zeroable for Bf16 {}
// SAFETY: one u16, of which every value is a number.
unsafe impl bytemuck::Pod for Bf16 {}

impl Bf16 {
    /// The number of these bits.
    #[inline(always)]
    pub const fn from_bits(bits: u16) -> Bf16 {
        Bf16(bits)
    }

    /// The number's bits.
    #[inline(always)]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// The nearest bf16, ties to even. Infinity where `x` is too large; subnormal numbers are kept.
    ///
    /// ```
    /// # use lingot_device::Bf16;
    /// assert_eq!(Bf16::of(1.0 + 1.0 / 256.0).wide(), 1.0);
    /// assert_eq!(Bf16::of(1.0 + 3.0 / 256.0).wide(), 1.0 + 1.0 / 64.0);
    /// ```
    #[inline(always)]
    pub fn of(x: f32) -> Bf16 {
        let bits = x.to_bits();
        // Adding just under half of the last kept digit carries where it must; an odd last digit tips a tie.
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // A NaN whose digits were all in the lower half would become infinite.
        let none = bits >> 16 | 0x40;
        Bf16(if x.is_nan() { none } else { rounded } as u16)
    }

    /// The bf16 nearest to an f64, rounded once.
    ///
    /// ```
    /// # use lingot_device::Bf16;
    /// // The nearest f32 is a tie between two bf16, and would lose on which side of it x was.
    /// let x = 1.0 + 1.0 / 256.0 + 1e-12;
    /// assert_eq!(Bf16::of_f64(x).wide(), 1.0 + 1.0 / 128.0);
    /// ```
    pub fn of_f64(x: f64) -> Bf16 {
        let nearest = x as f32;
        if f64::from(nearest) == x || !nearest.is_finite() {
            return Bf16::of(nearest);
        }
        // Rounded to odd: towards zero, the last digit then saying that something was left out (Boldo and
        // Melquiond, "When double rounding is odd", 2005).
        let is_beyond = f64::from(nearest).abs() > x.abs();
        let truncated = nearest.to_bits() - u32::from(is_beyond);
        Bf16::of(f32::from_bits(truncated | 1))
    }

    /// The number as an f32, exactly.
    #[inline(always)]
    pub fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::Bf16;

    #[test]
    fn every_number_survives_being_widened() {
        for bits in 0..=u16::MAX {
            let number = Bf16::from_bits(bits);
            let back = Bf16::of(number.wide());
            if number.wide().is_nan() {
                assert!(back.wide().is_nan(), "{bits:#x}");
            } else {
                assert_eq!(back, number);
                assert_eq!(Bf16::of_f64(f64::from(number.wide())), number);
            }
        }
    }

    /// Between two neighbours, subnormal ones and the two at infinity included, the nearer one is found, and
    /// half-way the even one.
    #[test]
    fn the_nearest_is_found_and_ties_go_to_the_even() {
        for bits in (0..0x7f80_u16).chain(0x8000..0xff80) {
            let (low, high) = (Bf16::from_bits(bits), Bf16::from_bits(bits + 1));
            let middle = f32::from_bits(u32::from(bits) << 16 | 0x8000);
            let even = if bits & 1 == 0 { low } else { high };
            for (x, wanted) in [
                (f32::from_bits(middle.to_bits() - 1), low),
                (middle, even),
                (f32::from_bits(middle.to_bits() + 1), high),
            ] {
                assert_eq!(Bf16::of(x), wanted, "{x:e}");
                assert_eq!(Bf16::of_f64(f64::from(x)), wanted, "{x:e}");
            }
            let wide = f64::from(middle);
            assert_eq!(Bf16::of_f64(wide * (1.0 - 1e-12)), low, "just before {wide:e}");
            assert_eq!(Bf16::of_f64(wide * (1.0 + 1e-12)), high, "just after {wide:e}");
        }
    }

    #[test]
    fn what_is_too_large_is_infinite_what_is_too_small_is_zero_and_no_number_stays_none() {
        for sign in [1.0, -1.0] {
            assert_eq!(Bf16::of(sign * f32::MAX).wide(), sign * f32::INFINITY);
            assert_eq!(Bf16::of_f64(f64::from(sign) * 1e300).wide(), sign * f32::INFINITY);
            assert_eq!(Bf16::of_f64(f64::from(sign) * 1e-300).wide().to_bits(), (sign * 0.0).to_bits());
            assert_eq!(Bf16::of(sign * 1e-45).wide().to_bits(), (sign * 0.0).to_bits());
        }
        for bits in [0x7f80_0001, 0xff80_0001, 0x7fff_ffff, 0x7fc0_0000] {
            assert!(Bf16::of(f32::from_bits(bits)).wide().is_nan(), "{bits:#x}");
        }
        assert!(Bf16::of_f64(f64::NAN).wide().is_nan());
    }
}
