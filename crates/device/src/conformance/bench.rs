//! What a case of the suite is made of: the same operands on whichever device, and outputs with their bounds.

use super::Sort;
use super::random::Random;
use crate::bf16::Bf16;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::{Kind, Tensor};

type Run = Box<dyn Fn(&mut Bench<'_>) -> Result<Vec<Output>>>;

/// One op on one shape.
pub(super) struct Case {
    pub(super) op: &'static str,
    pub(super) label: String,
    run: Run,
}

impl Case {
    pub(super) fn new(
        op: &'static str,
        label: impl Into<String>,
        run: impl Fn(&mut Bench<'_>) -> Result<Vec<Output>> + 'static,
    ) -> Case {
        Case { op, label: label.into(), run: Box::new(run) }
    }

    /// The outputs, and a fingerprint of the operands: every run of a case draws the same numbers.
    pub(super) fn run(&self, device: &Device, numbers: Drawn) -> Result<(Vec<Output>, u64)> {
        let seed = self
            .op
            .bytes()
            .chain(self.label.bytes())
            .fold(0, |seed: u64, byte| seed * 31 % 1_000_003 + u64::from(byte));
        let mut bench = Bench { device, numbers, random: Random::new(seed) };
        let outputs = (self.run)(&mut bench)?;
        // The seed says which numbers were drawn, and the state after it how many.
        Ok((outputs, bench.random.fingerprint()))
    }
}

/// What operands are drawn as, and held in. All are rounded to f32 first, and values to bf16 where a bf16
/// device is compared, so that both sides get the same numbers.
#[derive(Clone, Copy)]
pub(super) struct Drawn {
    /// The kind of values; that of sums follows.
    kind: Kind,
    rounds: bool,
}

impl Drawn {
    /// The operands of a device whose values are of `kind`.
    pub(super) fn of(kind: Kind) -> Drawn {
        Drawn { kind, rounds: kind == Kind::Bf16 }
    }

    /// The same operands in f64, for the definition.
    pub(super) fn exact(self) -> Drawn {
        Drawn { kind: Kind::F64, ..self }
    }
}

/// The device on which a case runs, and the numbers of its operands.
pub(super) struct Bench<'a> {
    pub(super) device: &'a Device,
    numbers: Drawn,
    pub(super) random: Random,
}

impl Bench<'_> {
    /// The kind of values.
    pub(super) fn kind(&self) -> Kind {
        self.numbers.kind
    }

    /// The kind of sums.
    pub(super) fn kind_of_sums(&self) -> Kind {
        self.numbers.kind.sums()
    }

    /// Whether values are bf16, so that sums are of another kind.
    pub(super) fn rounds(&self) -> bool {
        self.numbers.rounds
    }

    /// Numbers of mean 0 and deviation 1.
    pub(super) fn normal(&mut self, shape: &[usize]) -> Result<Tensor> {
        self.scaled(shape, 1.0)
    }

    pub(super) fn scaled(&mut self, shape: &[usize], deviation: f64) -> Result<Tensor> {
        let mut values = self.drawn(shape, deviation);
        if self.numbers.rounds {
            values.iter_mut().for_each(|value| *value = Bf16::of(*value).wide());
        }
        self.device.floats(&values, shape, self.kind())
    }

    /// Sums of mean 0 and deviation 1.
    pub(super) fn normal_sums(&mut self, shape: &[usize]) -> Result<Tensor> {
        self.scaled_sums(shape, 1.0)
    }

    pub(super) fn scaled_sums(&mut self, shape: &[usize], deviation: f64) -> Result<Tensor> {
        let values = self.drawn(shape, deviation);
        self.device.floats(&values, shape, self.kind_of_sums())
    }

    /// As `scaled_sums`, but none below zero.
    pub(super) fn positive_sums(&mut self, shape: &[usize], deviation: f64) -> Result<Tensor> {
        let values: Vec<f32> = self.drawn(shape, deviation).into_iter().map(f32::abs).collect();
        self.device.floats(&values, shape, self.kind_of_sums())
    }

    fn drawn(&mut self, shape: &[usize], deviation: f64) -> Vec<f32> {
        (0..shape.iter().product()).map(|_| (deviation * self.random.normal()) as f32).collect()
    }

    pub(super) fn zeros(&self, shape: &[usize]) -> Result<Tensor> {
        self.device.zeros(shape, self.kind())
    }

    pub(super) fn zero_sums(&self, shape: &[usize]) -> Result<Tensor> {
        self.device.zeros(shape, self.kind_of_sums())
    }

    pub(super) fn integers(&self, values: &[i32]) -> Result<Tensor> {
        self.device.integers(values, &[values.len()])
    }

    /// `count` whole numbers below `below`.
    pub(super) fn indices(&mut self, count: usize, below: usize) -> Vec<i32> {
        (0..count).map(|_| self.random.below(below) as i32).collect()
    }
}

/// An output, and the error that a backend may make.
pub(super) struct Output {
    pub(super) name: &'static str,
    tensor: Tensor,
    terms: usize,
    condition: f64,
    /// The size of an element if nothing cancels.
    pub(super) size: f64,
}

impl Output {
    /// Each element is a sum of `terms` terms.
    pub(super) fn sum(name: &'static str, tensor: Tensor, terms: usize) -> Output {
        Output { name, tensor, terms, condition: 0.0, size: 0.0 }
    }

    /// A few roundings, no sums.
    pub(super) fn plain(name: &'static str, tensor: Tensor) -> Output {
        Output::sum(name, tensor, 0)
    }

    /// Whole numbers, or floats that nothing may round: no error at all.
    pub(super) fn exact(name: &'static str, tensor: Tensor) -> Output {
        Output { name, tensor, terms: 0, condition: f64::NEG_INFINITY, size: 0.0 }
    }

    pub(super) fn of_size(self, size: f64) -> Output {
        Output { size, ..self }
    }

    pub(super) fn condition(self, condition: f64) -> Output {
        Output { condition, ..self }
    }

    /// The kind that the tensor holds.
    pub(super) fn kind(&self) -> Kind {
        self.tensor.kind()
    }

    pub(super) fn bound_units(&self, sort: Sort) -> f64 {
        let terms = if sort == Sort::OfProducts { 0.0 } else { (self.terms as f64).sqrt() };
        (4.0 + terms + self.condition).max(0.0)
    }

    pub(super) fn numbers(&self) -> Result<Numbers> {
        Ok(match self.tensor.kind() {
            Kind::I32 => Numbers::Integers(self.tensor.to_integers()?),
            Kind::F32 | Kind::F64 | Kind::Bf16 => Numbers::Floats(self.tensor.to_doubles()?),
        })
    }

    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        Ok(match self.numbers()? {
            Numbers::Integers(numbers) => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Numbers::Floats(numbers) => numbers.iter().flat_map(|x| x.to_bits().to_le_bytes()).collect(),
        })
    }
}

/// An output on the host.
pub(super) enum Numbers {
    Floats(Vec<f64>),
    Integers(Vec<i32>),
}

impl Numbers {
    pub(super) fn len(&self) -> usize {
        match self {
            Numbers::Floats(numbers) => numbers.len(),
            Numbers::Integers(numbers) => numbers.len(),
        }
    }
}
