//! Operands as views of slots, and numbers of the host's on the device.
#![allow(unsafe_code)]

use super::Torch;
use super::aten::Dtype;
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
            Kind::F32 => {
                let before = tensor.place().offset_bytes / 4;
                self.with_slot(tensor.slot(), |slot| slot.strided(sizes, strides, before + first))
            }
            Kind::Bf16 => {
                TWINS.with_borrow(|twins| match twins.iter().find(|twin| twin.place == tensor.place()) {
                    Some(twin) => twin.value.strided(sizes, strides, first),
                    None => self.flat(tensor)?.strided(sizes, strides, first),
                })
            }
            Kind::F64 | Kind::I32 => {
                Err(format!("{} tensors are not computed with; use f32", tensor.kind().name()).into())
            }
        }
    }

    /// Runs an op on f32 twins of its bf16 tensors: made of them before it, and rounded to them afterwards
    /// where it writes to them. So composed ops round what they give once. Ops that only move numbers need
    /// none, nor do products on a chip that multiplies bf16.
    pub(super) fn with_twins(
        &self,
        op: &Op<'_>,
        run: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let is_bf16 = |operand: &Operand<'_>| operand.tensor.kind() == Kind::Bf16;
        let takes_bf16 = match op {
            Op::Copy(_) | Op::Fill(_) | Op::AdamW(_) | Op::Embedding(_) | Op::Dispatch(_) => true,
            Op::MatMul(_) | Op::GroupedMatMul(_) | Op::GroupedMatMulWeights(_) => self.multiplies_bf16(),
            _ => false,
        };
        if takes_bf16 || !op.operands().any(|operand| is_bf16(&operand)) {
            return run();
        }
        let f32 = self.torch.dtypes.f32;
        TWINS.take();
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
        self.flat(tensor)?.shaped(&sizes(tensor.shape()), 0)
    }

    /// The memory of a tensor of any kind as f32, flat: its bits, not its numbers.
    pub(super) fn bits(&self, tensor: &Tensor) -> Result<Value, Refusal> {
        let Place { offset_bytes, bytes, .. } = tensor.place();
        self.with_slot(tensor.slot(), |slot| slot.shaped(&[bytes as i64 / 4], offset_bytes / 4))
    }

    /// A tensor of any kind, flat.
    pub(super) fn flat(&self, tensor: &Tensor) -> Result<Value, Refusal> {
        let dtypes = self.torch.dtypes;
        match tensor.kind() {
            Kind::F32 => self.bits(tensor),
            Kind::F64 => self.aten().view_dtype(&self.bits(tensor)?, Dtype(dtypes.f64)),
            Kind::I32 => self.aten().view_dtype(&self.bits(tensor)?, Dtype(dtypes.i32)),
            Kind::Bf16 => {
                let Place { offset_bytes, bytes, .. } = tensor.place();
                self.halves(tensor.slot(), offset_bytes, bytes)
            }
        }
    }

    /// A piece of a slot as bf16, flat. It may begin in the middle of one of the slot's f32.
    fn halves(&self, slot: &Slot, offset_bytes: usize, bytes: usize) -> Result<Value, Refusal> {
        let all = self.with_slot(slot, |all| self.aten().view_dtype(all, Dtype(self.torch.dtypes.bf16)))?;
        all.shaped(&[bytes as i64 / 2], offset_bytes / 2)
    }

    /// A piece of a slot in the largest numbers that it consists of, flat, with their type.
    fn piece(&self, slot: &Slot, offset_bytes: usize, bytes: usize) -> Result<(Value, i32), Refusal> {
        let dtypes = self.torch.dtypes;
        if offset_bytes.is_multiple_of(4) && bytes.is_multiple_of(4) {
            let floats = |slot: &Value| slot.shaped(&[bytes as i64 / 4], offset_bytes / 4);
            return Ok((self.with_slot(slot, floats)?, dtypes.f32));
        }
        Ok((self.halves(slot, offset_bytes, bytes)?, dtypes.bf16))
    }

    /// Whole numbers as torch's indices, i64.
    pub(super) fn indices(&self, tensor: &Tensor, sizes: &[i64]) -> Result<Value, Refusal> {
        let wide = self.empty(sizes, self.torch.dtypes.i64)?;
        wide.set(&self.flat(tensor)?.shaped(sizes, 0)?)?;
        Ok(wide)
    }

    /// Writes whole numbers of any type into an i32 tensor.
    pub(super) fn store_integers(&self, tensor: &Tensor, values: &Value) -> Result<(), Refusal> {
        let narrow = self.empty(&sizes(tensor.shape()), self.torch.dtypes.i32)?;
        narrow.set(values)?;
        // Through a copy of the same bits: not every chip can give a view another type.
        let bits = self.aten().view_dtype(&narrow, Dtype(self.torch.dtypes.f32))?;
        let first = self.written(tensor).place().offset_bytes / 4;
        self.with_slot(tensor.slot(), |slot| slot.shaped(&sizes(tensor.shape()), first))?.set(&bits)
    }

    /// Whole numbers on the host. Waits for the device the first time.
    pub(super) fn integers(&self, tensor: &Tensor) -> Result<Arc<[i32]>, Refusal> {
        if let Some(known) = self.state().known.get(tensor) {
            return Ok(known);
        }
        let Place { offset_bytes, bytes, .. } = tensor.place();
        let mut numbers = vec![0; bytes];
        self.copy_out(tensor.slot(), offset_bytes, &mut numbers)?;
        let numbers: Arc<[i32]> =
            numbers.chunks_exact(4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
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
        let to = self.empty(sizes, self.torch.dtypes.f32)?;
        if !values.is_empty() {
            let data = values.as_ptr().cast_mut().cast();
            // SAFETY: only read, and the copy is done before `values` can go.
            let host = unsafe { Value::on_host(self.torch, data, values.len(), self.torch.dtypes.f32) }?;
            to.set(&host.shaped(sizes, 0)?)?;
        }
        Ok(to)
    }

    /// Whole numbers of the host's, on the device, as i32.
    pub(super) fn whole_numbers(&self, values: &[i32]) -> Result<Value, Refusal> {
        let (i32, count) = (self.torch.dtypes.i32, values.len());
        let to = self.empty(&[count as i64], i32)?;
        let data = values.as_ptr().cast_mut().cast();
        // SAFETY: only read, and the copy is done before `values` can go.
        to.set(&unsafe { Value::on_host(self.torch, data, count, i32) }?)?;
        Ok(to)
    }

    /// 0, 1, 2, ... as i64, at least `count` of them.
    pub(super) fn counting(&self, count: usize) -> Result<Arc<Value>, Refusal> {
        if let Some((known, numbers)) = &self.state().counting
            && *known >= count
        {
            return Ok(numbers.clone());
        }
        let count = count.next_power_of_two();
        let mut host: Vec<i64> = (0..count as i64).collect();
        let numbers = self.empty(&[count as i64], self.torch.dtypes.i64)?;
        let data = host.as_mut_ptr().cast();
        // SAFETY: only read, and the copy is done before `host` goes.
        numbers.set(&unsafe { Value::on_host(self.torch, data, count, self.torch.dtypes.i64) }?)?;
        let numbers = Arc::new(numbers);
        self.state().counting = Some((count, numbers.clone()));
        Ok(numbers)
    }

    pub(super) fn scalar(&self, value: f64) -> Result<Value, Refusal> {
        Value::f32(self.torch, value as f32)
    }

    /// The first element of a f32 tensor. Waits for the device.
    pub(super) fn first(&self, x: &Value) -> Result<f32, Refusal> {
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

    /// Copies to the device. Waits for the copy.
    pub(super) fn copy_in(&self, slot: &Slot, first_bytes: usize, from: &[u8]) -> Result<(), Refusal> {
        if from.is_empty() {
            return Ok(());
        }
        let (device, dtype) = self.piece(slot, first_bytes, from.len())?;
        let count = from.len() / self.torch.dtypes.bytes(dtype) as usize;
        let data = from.as_ptr().cast_mut().cast();
        // SAFETY: only read, and the copy waits, so it is done before `from` can go.
        device.set(&unsafe { Value::on_host(self.torch, data, count, dtype) }?)
    }

    /// Copies from the device. Waits for all that was enqueued before.
    pub(super) fn copy_out(&self, slot: &Slot, first_bytes: usize, to: &mut [u8]) -> Result<(), Refusal> {
        if to.is_empty() {
            return Ok(());
        }
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
