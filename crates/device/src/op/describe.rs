//! How an op describes itself: its operands, how it uses each of them, its scalar parameters and its cost.

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
    pub(super) fn new(field: &'static str, tensor: &'a Tensor, access: Access) -> Option<Operand<'a>> {
        Some(Operand { name: label(field), tensor, access })
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

/// The cost of an op that computes little: `elements` f32 are read or written once. Tensors of indices are
/// small and are not counted.
pub(super) fn moved(elements: usize) -> Cost {
    moves(elements, 4)
}

/// The name of an operand: its field's, without the letters of the shape at its end (`out_td` is `out`).
pub(super) const fn label(field: &'static str) -> &'static str {
    const LETTERS: &[u8] = b"tsdhgcvekrfnm123456789";
    let name = field.as_bytes();
    let mut end = name.len();
    while end > 0 && name[end - 1] != b'_' {
        let mut letter = 0;
        while LETTERS[letter] != name[end - 1] {
            letter += 1;
            if letter == LETTERS.len() {
                return field;
            }
        }
        end -= 1;
    }
    if end < 2 { field } else { field.split_at(end - 1).0 }
}

/// Defines the struct of an op, and from it all that follows: its name, operands, scalar parameters and cost.
///
/// Each operand is a field with an access before it: `read`, `write`, `update`; `update_if(FLAG)` accumulates
/// if that parameter is true and overwrites otherwise; `read_if_given` and `write_if_given` are of optional
/// tensors. The scalar parameters may follow in a second block, then the cost. The struct cannot be built
/// outside this crate.
macro_rules! op {
    (
        $(#[$meta:meta])*
        $Op:ident = $name:literal { $($access:ident $(($condition:ident))? $field:ident),* $(,)? }
        $({ $($(#[$about:meta])* $number:ident: $type:ty,)* })?
        cost |$op:ident| $cost:expr
    ) => {
        $(#[$meta])*
        #[non_exhaustive]
        pub struct $Op<'a> {
            $(
                #[doc = concat!("The operand `", stringify!($field), "`.")]
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
                    $($crate::op::describe::operand!(self, $field, $access $(($condition))?),)*
                ])
            }

            /// The op's scalar parameters as text, as in traces.
            pub fn numbers(&self) -> String {
                let numbers: &[String] = &[$($(format!("{} {:?}", stringify!($number), self.$number),)*)?];
                numbers.join(", ")
            }

            /// The op's floating-point operations, and the fewest bytes that it must read and write.
            pub fn cost(&self) -> lingot_spec::Cost {
                let $op = self;
                $cost
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
    ($op:expr, $field:ident, read_if_given) => {
        $op.$field
            .and_then(|tensor| $crate::op::Operand::new(stringify!($field), tensor, $crate::op::Access::Read))
    };
    ($op:expr, $field:ident, write_if_given) => {
        $op.$field.and_then(|tensor| {
            $crate::op::Operand::new(stringify!($field), tensor, $crate::op::Access::Write)
        })
    };
    ($op:expr, $field:ident, update_if($condition:ident)) => {{
        let access = if $op.$condition { $crate::op::Access::Update } else { $crate::op::Access::Write };
        $crate::op::Operand::new(stringify!($field), $op.$field, access)
    }};
    ($op:expr, $field:ident, read) => {
        $crate::op::Operand::new(stringify!($field), $op.$field, $crate::op::Access::Read)
    };
    ($op:expr, $field:ident, write) => {
        $crate::op::Operand::new(stringify!($field), $op.$field, $crate::op::Access::Write)
    };
    ($op:expr, $field:ident, update) => {
        $crate::op::Operand::new(stringify!($field), $op.$field, $crate::op::Access::Update)
    };
}

pub(super) use {op, operand, operand_type};

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn an_operand_is_named_without_its_shape() {
        for (field, name) in [
            ("out_td", "out"),
            ("d_gate_up", "d_gate_up"),
            ("losses_2", "losses"),
            ("d_x", "d_x"),
            ("x", "x"),
            ("k_sgc", "k"),
            ("_e", "_e"),
        ] {
            assert_eq!(label(field), name);
        }
    }
}
