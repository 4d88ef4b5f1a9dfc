//! How an op describes itself: its operands, what each of them holds and how the op uses it, its scalar
//! parameters and its cost.

use crate::tensor::{Kind, Tensor};
use lingot_spec::cost::{Cost, Widths, moves};

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

/// What an operand holds. An op computes with values of one kind (f32, f64 or bf16); what would lose by being
/// rounded to bf16 is held in that kind's [`Kind::sums`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Values: activations, working weights, and gradients by activations.
    Values,
    /// Sums, statistics, routing and losses; master weights, moments and gradients by weights.
    Sums,
    /// Either of both: the caller's choice.
    ValuesOrSums,
    /// Whole numbers: ids, indices, counts.
    Ids,
    /// Numbers of any kind.
    Any,
}

impl Holds {
    /// Whether the kind is right beside values, or sums alone, of these kinds; else the name of what is.
    pub(super) fn check(self, kind: Kind, values: Option<Kind>, sums: Kind) -> Result<(), &'static str> {
        let is_right = match self {
            Holds::Values => Some(kind) == values,
            Holds::Sums => kind == sums,
            Holds::ValuesOrSums => match values {
                Some(values) => kind == values || kind == sums,
                None => kind.sums() == sums,
            },
            Holds::Ids => kind == Kind::I32,
            Holds::Any => true,
        };
        match self {
            _ if is_right => Ok(()),
            Holds::Values => Err(values.unwrap_or(sums).name()),
            Holds::ValuesOrSums if sums == Kind::F32 && values != Some(Kind::F32) => Err("bf16 or f32"),
            Holds::Ids => Err(Kind::I32.name()),
            _ => Err(sums.name()),
        }
    }
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
    /// What it holds.
    pub holds: Holds,
}

impl<'a> Operand<'a> {
    pub(super) fn new(field: &'static str, tensor: &'a Tensor, access: Access) -> Option<Operand<'a>> {
        Some(Operand { name: label(field), tensor, access, holds: Holds::Values })
    }

    pub(super) fn holding(self, holds: Holds) -> Operand<'a> {
        Operand { holds, ..self }
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

/// The cost of an op that computes little: `elements` numbers of the tensor's kind are read or written once.
/// Tensors of indices are small and are not counted.
pub(super) fn moved(elements: usize, of: &Tensor) -> Cost {
    moves(elements, of.kind().bytes())
}

/// Bytes of an op's values, and of sums beside them.
pub(super) fn widths(values: &Tensor) -> Widths {
    let kind = values.kind();
    Widths { values: kind.bytes(), sums: kind.sums().bytes() }
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
/// tensors. After it may stand what it holds (see [`Holds`]): `sums`, `values_or_sums`, `ids`, `any`; else it
/// holds values. The scalar parameters may follow in a second block, then the cost. The struct cannot be
/// built outside this crate.
macro_rules! op {
    (
        $(#[$meta:meta])*
        $Op:ident = $name:literal {
            $($access:ident $(($condition:ident))? $field:ident $(: $holds:ident)?),* $(,)?
        }
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
                    $(
                        $crate::op::describe::operand!(self, $field, $access $(($condition))?)
                            .map(|operand| operand.holding($crate::op::describe::holds!($($holds)?))),
                    )*
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

/// What an operand holds, from the word after its field.
macro_rules! holds {
    () => {
        $crate::op::Holds::Values
    };
    (sums) => {
        $crate::op::Holds::Sums
    };
    (values_or_sums) => {
        $crate::op::Holds::ValuesOrSums
    };
    (ids) => {
        $crate::op::Holds::Ids
    };
    (any) => {
        $crate::op::Holds::Any
    };
}

pub(super) use {holds, op, operand, operand_type};

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
