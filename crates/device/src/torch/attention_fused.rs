//! Attention by one operator of torch's each way, whichever of them the device has.
//!
//! An op's gradient knows the output and the log-sum-exp, but not what else the operator handed out: the
//! state of a dropout. Nothing is dropped here, so what a first call handed out serves all; that it does is
//! tried, on other sizes.
//!
//! Makers outside torch's tree have `_scaled_dot_product_fused_attention_overrideable`, which returns numbers
//! among its tensors and so cannot be called: see `aten`.

use super::attention_composed::{self as composed, Heads};
use super::matmul::operand;
use super::probe::{Numbers, agree};
use super::refusal::Refusal;
use super::value::Value;
use super::{Torch, sizes};
use crate::precision::Precision;
use crate::tensor::Tensor;

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
    kept: [Value; 2],
}

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
        let first = random(&mut numbers, 5, 5)?;
        let (_, lse, kept) = call(operator, &first, operands(&first, repeats)?)?;
        let rows = lse.sizes()?.get(2).copied().unwrap_or(5);
        let fused = Fused { operator, repeats, lse_multiple: if rows == 5 { 1 } else { rows }, kept };
        for (queries, keys) in [(5, 5), (37, 37), (1, 7)] {
            fused.assert_agrees(&mut numbers, queries, keys)?;
        }
        Ok(fused)
    }

    fn assert_agrees(&self, numbers: &mut Numbers<'_>, queries: usize, keys: usize) -> Result<(), Refusal> {
        let given = random(numbers, queries, keys)?;
        let d_out = numbers.random(&sizes(&[1, given.heads, queries, given.width]))?;
        let (out, lse) = composed::forward(&given)?;
        let (own_out, own_lse) = self.forward(&given)?;
        agree(given.torch, "the output", &own_out, &out)?;
        agree(given.torch, "the log-sum-exp", &own_lse, &lse)?;
        let wanted = composed::backward(&given, &d_out)?;
        let found = self.backward(&given, &d_out, (&own_out, &own_lse))?;
        agree(given.torch, "the gradient by queries", &found.0, &wanted.0)?;
        agree(given.torch, "the gradient by keys", &found.1, &wanted.1)?;
        agree(given.torch, "the gradient by values", &found.2, &wanted.2)
    }

    pub(super) fn name(&self) -> &'static str {
        self.operator.name()
    }

    /// Whether heads are as wide, and lie where, the operators of accelerators ask them to.
    pub(super) fn takes(&self, torch: &Torch, tensors: [&Tensor; 3]) -> bool {
        let width = tensors[0].shape()[2];
        // In bf16 the operands are copies.
        let lies_well = |tensor: &&Tensor| {
            torch.options.precision == Precision::Bf16 || tensor.place().offset_bytes.is_multiple_of(16)
        };
        self.operator == Operator::Cpu
            || (width.is_multiple_of(8) && width <= 256 && tensors.iter().all(lies_well))
    }

    /// The output [1, H, t, C], and the logarithm of each softmax's denominator [1, H, t].
    pub(super) fn forward(&self, given: &Heads<'_>) -> Result<(Value, Value), Refusal> {
        let (out, lse, _) = call(self.operator, given, operands(given, self.repeats)?)?;
        let lse = given.torch.aten().narrow(&lse, 2, 0, given.queries as i64)?;
        Ok((out, lse))
    }

    /// The gradients by queries [1, H, t, C], keys and values [1, G, s, C], of the output and log-sum-exp.
    pub(super) fn backward(
        &self,
        given: &Heads<'_>,
        d_out: &Value,
        (out, lse): (&Value, &Value),
    ) -> Result<(Value, Value, Value), Refusal> {
        let (torch, aten) = (given.torch, given.torch.aten());
        let [q, k, v] = &operands(given, self.repeats)?;
        let of_out = sizes(&[1, given.heads, given.queries, given.width]);
        let (d_out, out) = (&rounded(torch, d_out, &of_out)?, &rounded(torch, out, &of_out)?);
        let lse = &self.padded(given, lse)?;
        let ([seed, offset], none) = (&self.kept, &Value::undefined(torch.torch)?);
        let (causal, scale) = (given.queries > 1, Some(given.scale));
        let (d_q, d_k, d_v) = match self.operator {
            Operator::Cpu => aten.flash_cpu_backward(d_out, q, k, v, out, lse, 0.0, causal, None, scale)?,
            Operator::Flash => {
                let [d_out, q, k, v, out] = &rows_first(torch, [d_out, q, k, v, out])?;
                let (most_q, most_k) = (given.queries as i64, given.keys as i64);
                let (d_q, d_k, d_v) = aten.flash_backward(
                    d_out, q, k, v, out, lse, none, none, most_q, most_k, 0.0, causal, seed, offset, scale,
                )?;
                let [d_q, d_k, d_v] = rows_first(torch, [&d_q, &d_k, &d_v])?;
                (d_q, d_k, d_v)
            }
            Operator::Efficient => {
                let wanted = &[true, true, true, false][..];
                let found = aten.efficient_backward(
                    d_out, q, k, v, none, out, lse, seed, offset, 0.0, wanted, causal, scale,
                )?;
                (found.0, found.1, found.2)
            }
        };
        Ok((d_q, self.of_kv_heads(given, d_k)?, self.of_kv_heads(given, d_v)?))
    }

    /// The log-sum-exp in as many rows as the operator's own has. No weight is larger than 0 against
    /// infinity.
    fn padded(&self, given: &Heads<'_>, lse: &Value) -> Result<Value, Refusal> {
        if self.operator == Operator::Cpu {
            return lse.again();
        }
        let (torch, rows) = (given.torch, given.queries as i64);
        let all = torch.full(
            &[1, given.heads as i64, (rows as u64).next_multiple_of(self.lse_multiple as u64) as i64],
            torch.torch.dtypes.f32,
            f64::INFINITY,
        )?;
        torch.aten().narrow(&all, 2, 0, rows)?.set(lse)?;
        Ok(all)
    }

    /// What the query heads of one kv head add up to, in f32.
    fn of_kv_heads(&self, given: &Heads<'_>, x: Value) -> Result<Value, Refusal> {
        if !self.repeats {
            return Ok(x);
        }
        let each = given.heads / given.kv_heads;
        let f32 = given.torch.torch.dtypes.f32;
        let dense = given.torch.converted(&x, &sizes(&[1, given.heads, given.keys, given.width]), f32)?;
        let by_kv_head = dense.shaped(&sizes(&[1, given.kv_heads, each, given.keys, given.width]), 0)?;
        given.torch.aten().sum(&by_kv_head, Some(&[2]), false, None)
    }
}

/// Four heads on two kv heads of 16.
fn random<'a>(numbers: &mut Numbers<'a>, queries: usize, keys: usize) -> Result<Heads<'a>, Refusal> {
    let (heads, kv_heads, width) = (4, 2, 16);
    let q = numbers.random(&sizes(&[1, heads, queries, width]))?;
    let k = numbers.random(&sizes(&[1, kv_heads, keys, width]))?;
    let v = numbers.random(&sizes(&[1, kv_heads, keys, width]))?;
    Ok(Heads { torch: numbers.torch, q, k, v, heads, kv_heads, queries, keys, width, scale: 0.25 })
}

/// An operand in the precision of products.
fn rounded(torch: &Torch, x: &Value, sizes: &[i64]) -> Result<Value, Refusal> {
    operand(torch, x.again()?, sizes)
}

/// q, k and v in the precision of products; with a kv head for every query head, where that is wanted.
fn operands(given: &Heads<'_>, repeats: bool) -> Result<[Value; 3], Refusal> {
    let Heads { torch, heads, kv_heads, queries, keys, width, .. } = *given;
    let q = rounded(torch, &given.q, &sizes(&[1, heads, queries, width]))?;
    let of_keys = |x: &Value| {
        if !repeats {
            return rounded(torch, x, &sizes(&[1, kv_heads, keys, width]));
        }
        let dtypes = torch.torch.dtypes;
        let dtype = if torch.options.precision == Precision::F32 { dtypes.f32 } else { dtypes.bf16 };
        let all = torch.empty(&sizes(&[1, kv_heads, heads / kv_heads, keys, width]), dtype)?;
        all.set(&torch.aten().unsqueeze(x, 2)?)?;
        all.shaped(&sizes(&[1, heads, keys, width]), 0)
    };
    Ok([q, of_keys(&given.k)?, of_keys(&given.v)?])
}

/// Heads first to rows first, or back: [1, H, t, C] and [1, t, H, C].
fn rows_first<const N: usize>(torch: &Torch, values: [&Value; N]) -> Result<[Value; N], Refusal> {
    let turned: Result<Vec<Value>, Refusal> =
        values.iter().map(|value| torch.aten().transpose(value, 1, 2)).collect();
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
            let [q, k, v] = &rows_first(torch, [&q, &k, &v])?;
            let (most_q, most_k) = (given.queries as i64, given.keys as i64);
            let (out, lse, seed, offset, _) =
                aten.flash(q, k, v, None, None, most_q, most_k, 0.0, causal, false, scale)?;
            Ok((aten.transpose(&out, 1, 2)?, lse, [seed, offset]))
        }
        Operator::Efficient => {
            let (out, lse, seed, offset) = aten.efficient(&q, &k, &v, None, true, 0.0, causal, scale)?;
            Ok((out, lse, [seed, offset]))
        }
    }
}
