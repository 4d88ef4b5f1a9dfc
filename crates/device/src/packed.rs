//! Small tensors of several kinds in one allocation, which are cleared by one op and read by one copy.

use crate::device::Device;
use crate::error::Result;
use crate::ops;
use crate::tensor::{Kind, Tensor};

/// Tensors that lie one after the other. Ops use each as any other tensor; the host reads them all at once,
/// since every read waits for the device.
pub struct Packed {
    /// All of the memory, as whole numbers.
    words: Tensor,
    parts: Vec<Tensor>,
}

impl Packed {
    /// Allocates zeros of these shapes and kinds, in this order.
    ///
    /// # Panics
    /// If f64 come after an odd number of narrower elements, or a part is bf16.
    pub fn zeros(device: &Device, parts: &[(&[usize], Kind)]) -> Result<Packed> {
        let words_of = |(shape, kind): &(&[usize], Kind)| {
            assert!(*kind != Kind::Bf16, "packed parts consist of whole words");
            shape.iter().product::<usize>() * kind.bytes() / Kind::I32.bytes()
        };
        let words = device.zeros(&[parts.iter().map(words_of).sum()], Kind::I32)?;
        let mut from = 0;
        let place = |part: &(&[usize], Kind)| {
            let first = from * Kind::I32.bytes();
            from += words_of(part);
            words.part(first, part.0, part.1)
        };
        Ok(Packed { parts: parts.iter().map(place).collect(), words })
    }

    /// The tensors, in the order that was given.
    pub fn parts(&self) -> &[Tensor] {
        &self.parts
    }

    /// Sets all numbers to zero, by one op.
    pub fn clear(&self) -> Result<()> {
        ops::fill(&self.words, 0.0)
    }

    /// Waits for the device and reads all parts by one copy; whole numbers as f64 too, which holds them
    /// exactly.
    pub fn read(&self) -> Result<Vec<Vec<f64>>> {
        let words = self.words.to_integers()?;
        let mut rest = words.as_slice();
        let doubles = |part: &Tensor| {
            let (own, after) = rest.split_at(part.place().bytes / Kind::I32.bytes());
            rest = after;
            match part.kind() {
                Kind::F64 => own.chunks_exact(2).map(double).collect(),
                Kind::F32 => own.iter().map(|&word| f64::from(f32::from_bits(word as u32))).collect(),
                Kind::I32 | Kind::Bf16 => own.iter().copied().map(f64::from).collect(),
            }
        };
        Ok(self.parts.iter().map(doubles).collect())
    }

    /// Overwrites all parts by one copy, each number rounded to its part's kind.
    ///
    /// # Panics
    /// If there are not as many numbers as elements.
    pub fn write(&self, parts: &[Vec<f64>]) -> Result<()> {
        assert_eq!(parts.len(), self.parts.len(), "parts");
        let mut words: Vec<i32> = Vec::with_capacity(self.words.len());
        for (part, numbers) in self.parts.iter().zip(parts) {
            assert_eq!(numbers.len(), part.len(), "numbers for {:?}", part.shape());
            match part.kind() {
                Kind::F64 => words.extend(bytemuck::cast_slice::<f64, i32>(numbers)),
                Kind::F32 => words.extend(numbers.iter().map(|&x| (x as f32).to_bits() as i32)),
                Kind::I32 | Kind::Bf16 => words.extend(numbers.iter().map(|&x| x as i32)),
            }
        }
        self.words.write_integers(&words)
    }
}

/// The f64 of two words.
fn double(words: &[i32]) -> f64 {
    bytemuck::pod_read_unaligned(bytemuck::cast_slice(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Reference;

    #[test]
    fn parts_are_tensors_of_their_own_that_are_read_and_written_together() -> Result<()> {
        let device = Device::new(Reference::new());
        for kind in [Kind::F64, Kind::F32] {
            let shapes: [(&[usize], Kind); 4] =
                [(&[2], kind), (&[0], kind), (&[1], kind), (&[1, 3], Kind::I32)];
            let packed = Packed::zeros(&device, &shapes)?;
            let [pair, _, one, three] = packed.parts() else { panic!("four parts") };
            assert_eq!(three.shape(), [1, 3]);
            ops::fill(pair, 1.5)?;
            ops::fill(three, -7.0)?;
            assert_eq!(packed.read()?, [vec![1.5; 2], vec![], vec![0.0], vec![-7.0; 3]]);
            packed.write(&[vec![0.25, 3.0], vec![], vec![0.5], vec![1.0, 2.0, 3.0]])?;
            assert_eq!((pair.to_doubles()?, one.to_doubles()?), (vec![0.25, 3.0], vec![0.5]));
            assert_eq!(three.to_integers()?, [1, 2, 3]);
            packed.clear()?;
            assert!(packed.read()?.iter().flatten().all(|&x| x == 0.0));
        }
        Ok(())
    }
}
