//! Operands as views of slots, and numbers of the host's on the device.
#![allow(unsafe_code)]

use super::Torch;
use super::counts::wait;
use super::known::whole_numbers;
use super::refusal::Refusal;
use super::value::{Value, row_major};
use crate::op::{Access, Op, Operand};
use crate::slot::Slot;
use crate::tensor::{Kind, Place, Tensor};
use std::cell::RefCell;
use std::sync::Arc;

impl Torch {
    /// Calls `use_` with torch's tensor behind a slot, which stays the slot's.
    pub(super) fn with_slot<R>(&self, slot: &Slot, use_: impl FnOnce(&Value) -> R) -> R {
        let value = std::mem::ManuallyDrop::new(Value::from_number(self.torch, slot.address()));
        use_(&value)
    }

    /// A float tensor under its own shape, as `strided` gives it.
    pub(super) fn floats(&self, tensor: &Tensor) -> Result<Value, Refusal> {
        self.reshaped(tensor, &sizes(tensor.shape()))
    }

    /// A float tensor under other sizes, as `strided` gives it.
    pub(super) fn reshaped(&self, tensor: &Tensor, sizes: &[i64]) -> Result<Value, Refusal> {
        self.strided(tensor, sizes, &row_major(sizes), 0)
    }

    /// Other sizes and strides over a float tensor, from its element `first` on; of a bf16 tensor over its
    /// f32 twin, where `with_twins` has made one.
    pub(super) fn strided(
        &self,
        tensor: &Tensor,
        sizes: &[i64],
        strides: &[i64],
        first: usize,
    ) -> Result<Value, Refusal> {
        match tensor.kind() {
            Kind::F32 => self.typed(tensor, sizes, strides, first),
            Kind::Bf16 => {
                TWINS.with_borrow(|twins| match twins.iter().find(|twin| twin.place == tensor.place()) {
                    Some(twin) => twin.value.strided(sizes, strides, first),
                    None => self.typed(tensor, sizes, strides, first),
                })
            }
            Kind::F64 | Kind::I32 => {
                Err(format!("{} tensors are not computed with; use f32", tensor.kind().name()).into())
            }
        }
    }

    /// Sizes and strides over a tensor of any kind, from its element `first` on.
    fn typed(&self, tensor: &Tensor, sizes: &[i64], strides: &[i64], first: usize) -> Result<Value, Refusal> {
        let (dtype, kind) = (self.dtype(tensor.kind()), tensor.kind());
        let first_bytes = tensor.place().offset_bytes + first * kind.bytes();
        self.with_slot(tensor.slot(), |slot| slot.typed(dtype, sizes, strides, first_bytes))
    }

    /// torch's number of a kind.
    pub(super) fn dtype(&self, kind: Kind) -> i32 {
        let dtypes = self.torch.dtypes;
        match kind {
            Kind::F64 => dtypes.f64,
            Kind::F32 => dtypes.f32,
            Kind::Bf16 => dtypes.bf16,
            Kind::I32 => dtypes.i32,
        }
    }

    /// Runs an op on f32 twins of its bf16 tensors: made of them before it, and rounded to them afterwards
    /// where it writes to them. So ops that are composed of several operators round what they give once. Ops
    /// that only move numbers need none, nor do products, attention and the head's loss, which take bf16 as
    /// it is.
    pub(super) fn with_twins(
        &self,
        op: &Op<'_>,
        run: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        // Those of an op that failed half-way must not be taken for this one's.
        TWINS.take();
        let is_bf16 = |operand: &Operand<'_>| operand.tensor.kind() == Kind::Bf16;
        let moves =
            matches!(op, Op::Copy(_) | Op::Fill(_) | Op::AdamW(_) | Op::Embedding(_) | Op::Dispatch(_));
        let multiplies = matches!(op, Op::MatMul(_) | Op::GroupedMatMul(_) | Op::GroupedMatMulWeights(_));
        let attends = matches!(op, Op::Attention(_) | Op::AttentionGrad(_));
        let is_loss = matches!(op, Op::CrossEntropy(_) | Op::CrossEntropyGrad(_));
        let takes_bf16 = moves || multiplies || attends || is_loss;
        if takes_bf16 || !op.operands().any(|operand| is_bf16(&operand)) {
            return run();
        }
        let f32 = self.torch.dtypes.f32;
        for operand in op.operands().filter(is_bf16) {
            let count = [operand.tensor.len() as i64];
            let value = self.empty(&count, f32)?;
            if operand.access != Access::Write {
                value.set(&self.flat(operand.tensor)?)?;
            }
            TWINS.with_borrow_mut(|twins| twins.push(Twin { place: operand.tensor.place(), value }));
        }
        let outcome = run();
        let twins = TWINS.take();
        outcome?;
        for (operand, twin) in op.operands().filter(is_bf16).zip(twins) {
            if operand.access != Access::Read {
                self.flat(operand.tensor)?.set(&twin.value)?;
            }
        }
        Ok(())
    }

    /// A tensor of any kind under its own shape, for operators that move numbers.
    pub(super) fn moved(&self, tensor: &Tensor) -> Result<Value, Refusal> {
        let shape = sizes(tensor.shape());
        self.typed(tensor, &shape, &row_major(&shape), 0)
    }

    /// The memory of a tensor of any kind as f32, flat: its bits, not its numbers.
    pub(super) fn bits(&self, tensor: &Tensor) -> Result<Value, Refusal> {
        let Place { offset_bytes, bytes, .. } = tensor.place();
        self.with_slot(tensor.slot(), |slot| slot.shaped(&[bytes as i64 / 4], offset_bytes / 4))
    }

    /// A tensor of any kind, flat.
    pub(super) fn flat(&self, tensor: &Tensor) -> Result<Value, Refusal> {
        self.typed(tensor, &[tensor.len() as i64], &[1], 0)
    }

    /// A piece of a slot in the largest numbers that it consists of, flat, with their type.
    fn piece(&self, slot: &Slot, offset_bytes: usize, bytes: usize) -> Result<(Value, i32), Refusal> {
        let dtypes = self.torch.dtypes;
        let is_whole = offset_bytes.is_multiple_of(4) && bytes.is_multiple_of(4);
        let dtype = if is_whole { dtypes.f32 } else { dtypes.bf16 };
        let count = bytes as i64 / dtypes.bytes(dtype);
        Ok((self.with_slot(slot, |slot| slot.typed(dtype, &[count], &[1], offset_bytes))?, dtype))
    }

    /// Whole numbers as torch's indices, i64.
    pub(super) fn indices(&self, tensor: &Tensor, sizes: &[i64]) -> Result<Value, Refusal> {
        let wide = self.empty(sizes, self.torch.dtypes.i64)?;
        wide.set(&self.typed(tensor, sizes, &row_major(sizes), 0)?)?;
        Ok(wide)
    }

    /// Writes whole numbers of any type into an i32 tensor.
    pub(super) fn store_integers(&self, tensor: &Tensor, values: &Value) -> Result<(), Refusal> {
        let shape = sizes(tensor.shape());
        self.typed(self.written(tensor), &shape, &row_major(&shape), 0)?.set(values)
    }

    /// Whole numbers on the host. Waits for the device the first time, unless the host wrote them.
    pub(super) fn integers(&self, tensor: &Tensor) -> Result<Arc<[i32]>, Refusal> {
        if let Some(known) = self.state().known.get(tensor) {
            return Ok(known);
        }
        let Place { offset_bytes, bytes, .. } = tensor.place();
        let mut numbers = vec![0; bytes];
        self.copy_out(tensor.slot(), offset_bytes, &mut numbers)?;
        let numbers = whole_numbers(&numbers);
        self.state().known.insert(tensor, numbers.clone());
        Ok(numbers)
    }

    /// Returns a tensor that is about to be written to, after forgetting what the host knows of it.
    pub(super) fn written<'a>(&self, tensor: &'a Tensor) -> &'a Tensor {
        self.state().known.forget(tensor.slot().id());
        tensor
    }

    pub(super) fn empty(&self, sizes: &[i64], dtype: i32) -> Result<Value, Refusal> {
        Value::empty(self.torch, sizes, dtype, self.place)
    }

    pub(super) fn full(&self, sizes: &[i64], dtype: i32, value: f64) -> Result<Value, Refusal> {
        let full = self.empty(sizes, dtype)?;
        full.fill(value)?;
        Ok(full)
    }

    /// The same numbers in another type.
    pub(super) fn converted(&self, x: &Value, sizes: &[i64], dtype: i32) -> Result<Value, Refusal> {
        let to = self.empty(sizes, dtype)?;
        to.set(x)?;
        Ok(to)
    }

    /// Floats of the host's, on the device.
    pub(super) fn hosted(&self, values: &[f32], sizes: &[i64]) -> Result<Value, Refusal> {
        let f32 = self.torch.dtypes.f32;
        let to = self.empty(sizes, f32)?;
        self.upload(&to.shaped(&[values.len() as i64], 0)?, bytemuck::cast_slice(values), f32)?;
        Ok(to)
    }

    /// Whole numbers of the host's, on the device, as i32.
    pub(super) fn whole_numbers(&self, values: &[i32]) -> Result<Value, Refusal> {
        let i32 = self.torch.dtypes.i32;
        let to = self.empty(&[values.len() as i64], i32)?;
        self.upload(&to, bytemuck::cast_slice(values), i32)?;
        Ok(to)
    }

    /// 0, 1, 2, ... as i64, at least `count` of them.
    pub(super) fn counting(&self, count: usize) -> Result<Arc<Value>, Refusal> {
        if let Some((known, numbers)) = &self.state().counting
            && *known >= count
        {
            return Ok(numbers.clone());
        }
        let (count, i64) = (count.next_power_of_two(), self.torch.dtypes.i64);
        let host: Vec<i64> = (0..count as i64).collect();
        let numbers = self.empty(&[count as i64], i64)?;
        self.upload(&numbers, bytemuck::cast_slice(&host), i64)?;
        let numbers = Arc::new(numbers);
        self.state().counting = Some((count, numbers.clone()));
        Ok(numbers)
    }

    pub(super) fn scalar(&self, value: f64) -> Result<Value, Refusal> {
        Value::f32(self.torch, value as f32)
    }

    /// The first element of a f32 tensor. Waits for the device.
    pub(super) fn first(&self, x: &Value) -> Result<f32, Refusal> {
        wait();
        let mut found = 0.0_f32;
        let data = (&raw mut found).cast();
        // SAFETY: the copy waits, and is done before `found` goes.
        unsafe { Value::on_host(self.torch, data, 1, self.torch.dtypes.f32) }?.set(&x.strided(
            &[1],
            &[1],
            0,
        )?)?;
        Ok(found)
    }

    /// `out += x`.
    pub(super) fn accumulate(&self, out: &Value, x: &Value) -> Result<(), Refusal> {
        let one = self.scalar(1.0)?;
        self.aten().foreach_addcmul_(&[out], &[x], &[&one], &one.shaped(&[1], 0)?)
    }

    /// Copies to the device, as [`Torch::upload`] does.
    pub(super) fn copy_in(&self, slot: &Slot, first_bytes: usize, from: &[u8]) -> Result<(), Refusal> {
        if from.is_empty() {
            return Ok(());
        }
        let (device, dtype) = self.piece(slot, first_bytes, from.len())?;
        self.upload(&device, from, dtype)
    }

    /// Copies from the device. Waits for all that was enqueued before.
    pub(super) fn copy_out(&self, slot: &Slot, first_bytes: usize, to: &mut [u8]) -> Result<(), Refusal> {
        if to.is_empty() {
            return Ok(());
        }
        wait();
        let (device, dtype) = self.piece(slot, first_bytes, to.len())?;
        let count = to.len() / self.torch.dtypes.bytes(dtype) as usize;
        // SAFETY: the copy waits, and is done before `to` can go.
        unsafe { Value::on_host(self.torch, to.as_mut_ptr().cast(), count, dtype) }?.set(&device)
    }
}

thread_local! {
    /// The twins of the op that this thread runs.
    static TWINS: RefCell<Vec<Twin>> = const { RefCell::new(vec![]) };
}

/// The f32 twin of a bf16 tensor, while an op runs.
struct Twin {
    place: Place,
    /// Its numbers, flat.
    value: Value,
}

/// Sizes as torch takes them.
pub(super) fn sizes(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&size| size as i64).collect()
}
