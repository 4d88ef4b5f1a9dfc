//! Operands in f64, and results rounded to the kind of the tensor that takes them.

use crate::bf16::Bf16;
use crate::host::{view, view_mut};
use crate::precision::{Precision, operand};
use crate::tensor::{Kind, Tensor};

/// The last dimension.
pub(super) fn width(tensor: &Tensor) -> usize {
    tensor.rows_and_width().1
}

/// A float tensor's numbers, exactly.
pub(super) fn floats(tensor: &Tensor) -> Vec<f64> {
    match tensor.kind() {
        Kind::F64 => view::<f64>(tensor).to_vec(),
        Kind::Bf16 => view::<Bf16>(tensor).iter().map(|&x| f64::from(x.wide())).collect(),
        Kind::F32 | Kind::I32 => view::<f32>(tensor).iter().map(|&x| f64::from(x)).collect(),
    }
}

/// The operand of a product: a float tensor's numbers, rounded to `precision`.
pub(super) fn rounded(tensor: &Tensor, precision: Precision) -> Vec<f64> {
    floats(tensor).into_iter().map(|x| operand(precision, x)).collect()
}

/// Whole numbers.
pub(super) fn integers(tensor: &Tensor) -> Vec<i32> {
    view::<i32>(tensor).to_vec()
}

/// Overwrites a float tensor, rounding each value once.
pub(super) fn store(tensor: &Tensor, values: &[f64]) {
    assert_eq!(values.len(), tensor.len(), "values for {tensor:?}");
    match tensor.kind() {
        Kind::F64 => view_mut::<f64>(tensor).copy_from_slice(values),
        Kind::Bf16 => {
            view_mut::<Bf16>(tensor).iter_mut().zip(values).for_each(|(to, &from)| *to = Bf16::of_f64(from));
        }
        Kind::F32 | Kind::I32 => {
            view_mut::<f32>(tensor).iter_mut().zip(values).for_each(|(to, &from)| *to = from as f32);
        }
    }
}

/// Adds to a float tensor, rounding each sum once.
pub(super) fn add(tensor: &Tensor, values: &[f64]) {
    let sums: Vec<f64> = floats(tensor).iter().zip(values).map(|(a, b)| a + b).collect();
    store(tensor, &sums);
}

/// Overwrites a float tensor, or adds to it.
pub(super) fn store_or_add(tensor: &Tensor, values: &[f64], adds: bool) {
    if adds { add(tensor, values) } else { store(tensor, values) }
}

/// Overwrites a tensor of whole numbers.
pub(super) fn store_integers(tensor: &Tensor, values: &[i32]) {
    view_mut::<i32>(tensor).copy_from_slice(values);
}
