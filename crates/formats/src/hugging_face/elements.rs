//! The element types of tensors on disk, and their conversion to and from f32.

use serde::{Deserialize, Serialize};

/// How one number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ElementType {
    /// IEEE single precision.
    F32,
    /// The upper half of F32: 8 bits of exponent.
    Bf16,
    /// IEEE half precision: 5 bits of exponent.
    F16,
}

impl ElementType {
    /// All of them.
    pub const ALL: [ElementType; 3] = [ElementType::F32, ElementType::Bf16, ElementType::F16];

    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        match self {
            ElementType::F32 => 4,
            ElementType::Bf16 | ElementType::F16 => 2,
        }
    }

    /// Its name in the header of a safetensors file.
    pub(super) fn header_name(self) -> &'static str {
        match self {
            ElementType::F32 => "F32",
            ElementType::Bf16 => "BF16",
            ElementType::F16 => "F16",
        }
    }

    /// Its name in config.json.
    pub(super) fn config_name(self) -> &'static str {
        match self {
            ElementType::F32 => "float32",
            ElementType::Bf16 => "bfloat16",
            ElementType::F16 => "float16",
        }
    }

    /// Appends the values, rounded to nearest. Errors with the first finite value that would become infinite.
    pub(crate) fn encode(self, values: &[f32], bytes: &mut Vec<u8>) -> Result<(), f32> {
        match self {
            ElementType::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            ElementType::Bf16 => encode_halves(values, bytes, bf16_bits, 0x7f80)?,
            ElementType::F16 => {
                encode_halves(values, bytes, |value| half::f16::from_f32(value).to_bits(), 0x7c00)?
            }
        }
        Ok(())
    }

    /// Fills `values` from the bytes, which hold at least that many numbers.
    pub(super) fn decode(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            ElementType::F32 => {
                for (value, four) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*four);
                }
            }
            ElementType::Bf16 => {
                for (value, two) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(*two)) << 16);
                }
            }
            ElementType::F16 => {
                for (value, two) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = half::f16::from_le_bytes(*two).to_f32();
                }
            }
        }
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.header_name())
    }
}

/// The bits of a value rounded to bf16. A value that came from bf16 goes back bit for bit, NaN payloads
/// included.
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if bits & 0xffff == 0 { (bits >> 16) as u16 } else { half::bf16::from_f32(value).to_bits() }
}

fn encode_halves(
    values: &[f32],
    bytes: &mut Vec<u8>,
    bits_of: impl Fn(f32) -> u16,
    infinity: u16,
) -> Result<(), f32> {
    for &value in values {
        let bits = bits_of(value);
        if bits & 0x7fff == infinity && value.is_finite() {
            return Err(value);
        }
        bytes.extend(bits.to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_precision_number_goes_through_f32_unchanged() {
        for element in [ElementType::Bf16, ElementType::F16] {
            for bits in 0..=u16::MAX {
                let mut value = [0.0];
                element.decode(&bits.to_le_bytes(), &mut value);
                if value[0].is_nan() && element == ElementType::F16 {
                    continue;
                }
                let mut bytes = Vec::new();
                element.encode(&value, &mut bytes).unwrap();
                assert_eq!(bytes, bits.to_le_bytes(), "{element} {bits:04x}");
            }
        }
    }

    #[test]
    fn a_finite_value_that_would_become_infinite_is_named() {
        assert_eq!(ElementType::F16.encode(&[1.0, 70_000.0], &mut Vec::new()), Err(70_000.0));
        assert_eq!(ElementType::Bf16.encode(&[f32::MAX], &mut Vec::new()), Err(f32::MAX));
        assert_eq!(ElementType::Bf16.encode(&[f32::INFINITY], &mut Vec::new()), Ok(()));
    }
}
