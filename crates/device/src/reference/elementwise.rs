//! Element by element: `out + x`, `x` and a value, with no more to define than their rounding.

use super::operands::{add as add_to, floats, integers, store, store_integers};
use crate::op;
use crate::tensor::Kind;

pub(super) fn add(op: &op::Add<'_>) {
    add_to(op.out, &floats(op.x));
}

pub(super) fn copy(op: &op::Copy<'_>) {
    match op.out.kind() {
        Kind::I32 => store_integers(op.out, &integers(op.x)),
        Kind::F32 | Kind::F64 | Kind::Bf16 => store(op.out, &floats(op.x)),
    }
}

pub(super) fn fill(op: &op::Fill<'_>) {
    match op.out.kind() {
        Kind::I32 => store_integers(op.out, &vec![op.value as i32; op.out.len()]),
        Kind::F32 | Kind::F64 | Kind::Bf16 => store(op.out, &vec![op.value; op.out.len()]),
    }
}
