//! Attention by one operator of torch's each way, whichever of them the device has.
//!
//! An op's gradient knows the output and the log-sum-exp, but not what else the operator handed out: the
//! state of a dropout. Nothing is dropped here, so what a first call handed out serves all; that it does is
//! tried, on other sizes.
//!
//! Makers outside torch's tree have `_scaled_dot_product_fused_attention_overrideable`, which returns numbers
//! among its tensors and so cannot be called: see `aten`.

use super::attention_composed::Heads;
use super::attention_cudnn::Cudnn;
use super::attention_packed::Packed;
use super::attention_trials as trials;
use super::determinism::deterministic;
use super::matmul::operand_of;
use super::probe::Numbers;
use super::refusal::Refusal;
use super::value::Value;
use super::{Torch, sizes};
use crate::precision::Precision;
use crate::tensor::{Kind, Tensor};

/// torch's operators that hand out a log-sum-exp and have a gradient.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Operator {
    Cpu,
    /// Of cuda, AMD's included: bf16 alone.
    Flash,
    /// Of cuda: f32 too.
    Efficient,
}

impl Operator {
    pub(super) fn name(self) -> &'static str {
        match self {
            Operator::Cpu => "_scaled_dot_product_flash_attention_for_cpu",
            Operator::Flash => "_flash_attention_forward",
            Operator::Efficient => "_scaled_dot_product_efficient_attention",
        }
    }
}

/// An operator, and how this device wants it to be called.
pub(super) struct Fused {
    operator: Operator,
    /// Whether each query head wants a kv head of its own.
    repeats: bool,
    /// Rows of the log-sum-exp are a multiple of this.
    lse_multiple: i64,
    /// The seed and the offset that the first call handed out.
    kept: SavedState,
    /// Whether documents of any lengths go in one call, or why not.
    packs: Result<(), Refusal>,
    /// A faster forward operator, or why there is none.
    cudnn: Result<Cudnn, Refusal>,
}

/// What the gradients of the fused operators take besides results: the seed and the offset of a dropout.
pub(super) type SavedState = [Value; 2];

impl Fused {
    /// The first operator that agrees with the composed attention, forward and backward, or why none does.
    pub(super) fn find(torch: &Torch) -> Result<Fused, Refusal> {
        if torch.on_cpu() && torch.options.precision == Precision::Bf16 {
            return Err("the CPU's operator does not round the softmax's weights to bf16".into());
        }
        let candidates: &[Operator] = match torch.on_cpu() {
            true => &[Operator::Cpu],
            false => &[Operator::Flash, Operator::Efficient],
        };
        let mut refused: Vec<String> = vec![];
        for &operator in candidates {
            for repeats in [false, true] {
                match Fused::tried(torch, operator, repeats) {
                    Ok(fused) => return Ok(fused),
                    Err(refusal) if refused.last() == Some(&refusal.to_string()) => {}
                    Err(refusal) => refused.push(refusal.to_string()),
                }
            }
        }
        Err(refused.join("; ").into())
    }

    fn tried(torch: &Torch, operator: Operator, repeats: bool) -> Result<Fused, Refusal> {
        let mut numbers = Numbers::new(torch);
        let first = trials::random(&mut numbers, 1, [5, 5])?;
        let (_, lse, kept) = call(operator, &first, operands(&first, repeats)?)?;
        let rows = lse.sizes()?.get(2).copied().unwrap_or(5);
        let lse_multiple = if rows == 5 { 1 } else { rows };
        let nothing = || Refusal::from("nothing else was tried");
        let (packs, cudnn) = (Err(nothing()), Err(nothing()));
        let mut fused = Fused { operator, repeats, lse_multiple, kept, packs, cudnn };
        for (documents, sizes) in [(1, [5, 5]), (2, [37, 37]), (1, [1, 7])] {
            trials::assert_agrees(&fused, &mut numbers, documents, sizes)?;
        }
        fused.packs = match operator {
            Operator::Flash if !repeats => trials::assert_packs(&fused, &mut numbers),
            _ => Err("the operator takes documents of one length only".into()),
        };
        if operator == Operator::Flash {
            fused.cudnn = Cudnn::find(torch);
            let outcome = trials::assert_agrees(&fused, &mut numbers, 2, [37, 37]);
            if let (Ok(_), Err(why)) = (&fused.cudnn, outcome) {
                fused.cudnn = Err(why);
            }
        }
        Ok(fused)
    }

    /// The seed and the offset that the gradients take.
    pub(super) fn kept(&self) -> &SavedState {
        &self.kept
    }

    /// The operator for documents of any lengths in one call, if it takes them.
    pub(super) fn packed<'a>(&'a self, torch: &'a Torch) -> Option<Packed<'a>> {
        self.packs.is_ok().then_some(Packed { torch, kept: &self.kept })
    }

    /// The operators, for people: that of both directions, or that of each.
    pub(super) fn name(&self) -> String {
        let own = self.operator.name();
        if self.cudnn.is_ok() { format!("{}, and {own} for its gradient", Cudnn::NAME) } else { own.into() }
    }

    /// How documents of several lengths are computed, and why no faster operator is, for people.
    pub(super) fn details(&self) -> Vec<String> {
        let packs = match &self.packs {
            Ok(()) => format!("one call of {}", self.operator.name()),
            Err(why) => format!("one after the other ({why})"),
        };
        let packs = format!("attention of documents of several lengths: {packs}");
        let cudnn = self.cudnn.as_ref().err().filter(|_| self.operator == Operator::Flash);
        [packs].into_iter().chain(cudnn.map(|why| format!("attention by cuDNN: no ({why})"))).collect()
    }

    /// Whether heads are as wide, and lie where, the operators of accelerators ask them to.
    pub(super) fn takes(&self, torch: &Torch, tensors: [&Tensor; 3]) -> bool {
        let width = tensors[0].shape()[2];
        // Operands of another kind than that of products are copies.
        let is_copied = (tensors[0].kind() == Kind::Bf16) != torch.multiplies_bf16();
        let lies_well = |tensor: &&Tensor| is_copied || tensor.place().offset_bytes.is_multiple_of(16);
        self.operator == Operator::Cpu
            || (width.is_multiple_of(8) && width <= 256 && tensors.iter().all(lies_well))
    }

    /// The output [B, H, t, C], and the logarithm of each softmax's denominator [B, H, t].
    pub(super) fn forward(&self, given: &Heads<'_>) -> Result<(Value, Value), Refusal> {
        let operands = operands(given, self.repeats)?;
        if let Some(cudnn) = self.cudnn.as_ref().ok().filter(|cudnn| cudnn.takes(given)) {
            return cudnn.forward(given, &operands);
        }
        let (out, lse, _) = call(self.operator, given, operands)?;
        if self.lse_multiple == 1 {
            return Ok((out, lse));
        }
        let lse = lse.narrow(2, 0, given.queries)?;
        Ok((out, lse))
    }

    /// The gradients by queries [B, H, t, C], keys and values [B, G, s, C], of the output and log-sum-exp.
    pub(super) fn backward(
        &self,
        given: &Heads<'_>,
        d_out: &Value,
        (out, lse): (&Value, &Value),
    ) -> Result<(Value, Value, Value), Refusal> {
        let (torch, aten) = (given.torch, given.torch.aten());
        let [q, k, v] = &operands(given, self.repeats)?;
        let of_out = sizes(&[given.documents, given.heads, given.queries, given.width]);
        let rounded = |x: &Value| operand_of(torch, x.again()?, &of_out, given.kind);
        let (d_out, out) = (&rounded(d_out)?, &rounded(out)?);
        let lse = &self.padded(given, lse)?;
        let ([seed, offset], none) = (&self.kept, &Value::undefined(torch.torch)?);
        let (causal, scale) = (given.queries > 1, Some(given.scale));
        let (d_q, d_k, d_v) = match self.operator {
            Operator::Cpu => aten.flash_cpu_backward(d_out, q, k, v, out, lse, 0.0, causal, None, scale)?,
            Operator::Flash => {
                let [d_out, q, k, v, out] = &rows_first([d_out, q, k, v, out])?;
                let (most_q, most_k) = (given.queries as i64, given.keys as i64);
                let (d_q, d_k, d_v) = deterministic(torch, |aten| {
                    aten.flash_backward(
                        d_out, q, k, v, out, lse, none, none, most_q, most_k, 0.0, causal, seed, offset,
                        scale,
                    )
                })?;
                let [d_q, d_k, d_v] = rows_first([&d_q, &d_k, &d_v])?;
                (d_q, d_k, d_v)
            }
            Operator::Efficient => {
                let wanted = &[true, true, true, false][..];
                let found = deterministic(torch, |aten| {
                    aten.efficient_backward(
                        d_out, q, k, v, none, out, lse, seed, offset, 0.0, wanted, causal, scale,
                    )
                })?;
                (found.0, found.1, found.2)
            }
        };
        Ok((d_q, self.of_kv_heads(given, d_k)?, self.of_kv_heads(given, d_v)?))
    }

    /// The log-sum-exp in as many rows as the operator's own has. No weight is larger than 0 against
    /// infinity.
    fn padded(&self, given: &Heads<'_>, lse: &Value) -> Result<Value, Refusal> {
        let (torch, rows) = (given.torch, given.queries as i64);
        if self.operator == Operator::Cpu {
            return lse.again();
        }
        let [documents, heads] = [given.documents, given.heads].map(|size| size as i64);
        if self.lse_multiple == 1 {
            return torch.converted(lse, &[documents, heads, rows], torch.torch.dtypes.f32);
        }
        let all = torch.full(
            &[documents, heads, (rows as u64).next_multiple_of(self.lse_multiple as u64) as i64],
            torch.torch.dtypes.f32,
            f64::INFINITY,
        )?;
        all.narrow(2, 0, given.queries)?.set(lse)?;
        Ok(all)
    }

    /// What the query heads of one kv head add up to, in f32.
    fn of_kv_heads(&self, given: &Heads<'_>, x: Value) -> Result<Value, Refusal> {
        if !self.repeats {
            return Ok(x);
        }
        let (documents, each) = (given.documents, given.heads / given.kv_heads);
        let f32 = given.torch.torch.dtypes.f32;
        let all = sizes(&[documents, given.heads, given.keys, given.width]);
        let dense = given.torch.converted(&x, &all, f32)?;
        let by_kv_head = sizes(&[documents, given.kv_heads, each, given.keys, given.width]);
        let by_kv_head = dense.shaped(&by_kv_head, 0)?;
        given.torch.aten().sum(&by_kv_head, Some(&[2]), false, None)
    }
}

/// q, k and v in the precision of products; with a kv head for every query head, where that is wanted.
fn operands(given: &Heads<'_>, repeats: bool) -> Result<[Value; 3], Refusal> {
    let Heads { torch, kind, documents, heads, kv_heads, queries, keys, width, .. } = *given;
    let q = operand_of(torch, given.q.again()?, &sizes(&[documents, heads, queries, width]), kind)?;
    let of_keys = |x: &Value| {
        if !repeats {
            return operand_of(torch, x.again()?, &sizes(&[documents, kv_heads, keys, width]), kind);
        }
        let dtypes = torch.torch.dtypes;
        let dtype = if torch.options.precision == Precision::F32 { dtypes.f32 } else { dtypes.bf16 };
        let all = torch.empty(&sizes(&[documents, kv_heads, heads / kv_heads, keys, width]), dtype)?;
        all.set(&x.unsqueezed(2)?)?;
        all.shaped(&sizes(&[documents, heads, keys, width]), 0)
    };
    Ok([q, of_keys(&given.k)?, of_keys(&given.v)?])
}

/// Heads first to rows first, or back: [1, H, t, C] and [1, t, H, C].
fn rows_first<const N: usize>(values: [&Value; N]) -> Result<[Value; N], Refusal> {
    let turned: Result<Vec<Value>, Refusal> = values.iter().map(|value| value.transposed(1, 2)).collect();
    turned?.try_into().map_err(|_| "as many came as went".into())
}

/// The output, the log-sum-exp, and the seed and offset that the gradient takes.
fn call(
    operator: Operator,
    given: &Heads<'_>,
    [q, k, v]: [Value; 3],
) -> Result<(Value, Value, [Value; 2]), Refusal> {
    let (torch, aten) = (given.torch, given.torch.aten());
    let (causal, scale) = (given.queries > 1, Some(given.scale));
    match operator {
        Operator::Cpu => {
            let (out, lse) = aten.flash_cpu(&q, &k, &v, 0.0, causal, None, scale)?;
            let nothing = || Value::undefined(torch.torch);
            Ok((out, lse, [nothing()?, nothing()?]))
        }
        Operator::Flash => {
            let [q, k, v] = &rows_first([&q, &k, &v])?;
            let (most_q, most_k) = (given.queries as i64, given.keys as i64);
            let (out, lse, seed, offset, _) =
                aten.flash(q, k, v, None, None, most_q, most_k, 0.0, causal, false, scale)?;
            Ok((out.transposed(1, 2)?, lse, [seed, offset]))
        }
        Operator::Efficient => {
            let (out, lse, seed, offset) = aten.efficient(&q, &k, &v, None, true, 0.0, causal, scale)?;
            Ok((out, lse, [seed, offset]))
        }
    }
}
