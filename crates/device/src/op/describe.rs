//! How an op describes itself: its operands, how it uses each of them, and its numbers.

use crate::tensor::Tensor;
use lingot_spec::cost::{Cost, moves};

/// How an op uses an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The operand is read.
    Read,
    /// The operand is overwritten; what was there does not matter.
    Write,
    /// The operand is read and written: accumulated into, or changed in place.
    Update,
}

/// A tensor of an op.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// The operand's name, as in errors and traces.
    pub name: &'static str,
    /// The tensor.
    pub tensor: &'a Tensor,
    /// How the op uses it.
    pub access: Access,
}

impl<'a> Operand<'a> {
    pub(super) fn new(name: &'static str, tensor: &'a Tensor, access: Access) -> Option<Operand<'a>> {
        Some(Operand { name, tensor, access })
    }
}

/// The most operands of an op.
const MOST: usize = 10;

/// The operands of an op, in the order in which it declares them.
pub type Operands<'a> = std::iter::Flatten<std::array::IntoIter<Option<Operand<'a>>, MOST>>;

/// The operands among `declared`, which are none where an optional tensor is not given.
pub(super) fn operands<'a, const N: usize>(declared: [Option<Operand<'a>>; N]) -> Operands<'a> {
    let mut all = [None; MOST];
    all[..N].copy_from_slice(&declared);
    all.into_iter().flatten()
}

/// The cost of an op that computes little: `elements` f32 are read or written once.
pub(super) fn moved(elements: usize) -> Cost {
    moves(elements, 4)
}

/// Defines the struct of an op, and from it all that follows: its name, its operands and its numbers as text.
///
/// Each operand has a name and an access: `read`, `write`, `update`; `update_if(NUMBER)` accumulates if that
/// number is true and overwrites otherwise; `read_if_given` and `write_if_given` are of optional tensors. The
/// numbers follow in a second block. The struct cannot be built outside this crate.
macro_rules! op {
    (
        $(#[$meta:meta])*
        $Op:ident = $name:literal {
            $($field:ident = $label:literal: $access:ident $(($condition:ident))?,)*
        }
        $({ $($(#[$about:meta])* $number:ident: $type:ty,)* })?
    ) => {
        $(#[$meta])*
        #[non_exhaustive]
        pub struct $Op<'a> {
            $(
                #[doc = concat!("The operand `", $label, "`.")]
                pub $field: $crate::op::describe::operand_type!('a, $access),
            )*
            $($($(#[$about])* pub $number: $type,)*)?
        }

        impl<'a> $Op<'a> {
            /// The op's name, as in profiles, certificates and errors.
            pub const NAME: &'static str = $name;

            /// The op's tensors.
            pub fn operands(&self) -> $crate::op::Operands<'a> {
                $crate::op::describe::operands([
                    $($crate::op::describe::operand!(self, $field, $label, $access $(($condition))?),)*
                ])
            }

            /// The op's numbers, as in traces.
            pub fn numbers(&self) -> String {
                let numbers: &[String] = &[$($(format!("{} {:?}", stringify!($number), self.$number),)*)?];
                numbers.join(", ")
            }
        }

        impl<'a> From<$Op<'a>> for $crate::op::Op<'a> {
            fn from(op: $Op<'a>) -> $crate::op::Op<'a> {
                $crate::op::Op::$Op(op)
            }
        }
    };
}

/// The type of an operand's field.
macro_rules! operand_type {
    ($a:lifetime, read_if_given) => { Option<&$a $crate::tensor::Tensor> };
    ($a:lifetime, write_if_given) => { Option<&$a $crate::tensor::Tensor> };
    ($a:lifetime, $access:ident) => { &$a $crate::tensor::Tensor };
}

/// An operand, from its field.
macro_rules! operand {
    ($op:expr, $field:ident, $label:literal, read_if_given) => {
        $op.$field.and_then(|tensor| $crate::op::Operand::new($label, tensor, $crate::op::Access::Read))
    };
    ($op:expr, $field:ident, $label:literal, write_if_given) => {
        $op.$field.and_then(|tensor| $crate::op::Operand::new($label, tensor, $crate::op::Access::Write))
    };
    ($op:expr, $field:ident, $label:literal, update_if($condition:ident)) => {{
        let access = if $op.$condition { $crate::op::Access::Update } else { $crate::op::Access::Write };
        $crate::op::Operand::new($label, $op.$field, access)
    }};
    ($op:expr, $field:ident, $label:literal, read) => {
        $crate::op::Operand::new($label, $op.$field, $crate::op::Access::Read)
    };
    ($op:expr, $field:ident, $label:literal, write) => {
        $crate::op::Operand::new($label, $op.$field, $crate::op::Access::Write)
    };
    ($op:expr, $field:ident, $label:literal, update) => {
        $crate::op::Operand::new($label, $op.$field, $crate::op::Access::Update)
    };
}

pub(super) use {op, operand, operand_type};
