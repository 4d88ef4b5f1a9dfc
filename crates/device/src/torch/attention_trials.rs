//! Trials of the fused attention when a device is opened: random documents, and a comparison with the
//! composed attention.

use super::attention_composed::{self as composed, Heads};
use super::attention_fused::Fused;
use super::attention_packed as packed;
use super::documents::Documents;
use super::probe::{Numbers, agree};
use super::refusal::Refusal;
use super::sizes;
use super::value::Value;
use crate::tensor::Kind;

/// Whether documents of one length in one call agree with one after the other.
pub(super) fn assert_agrees(
    fused: &Fused,
    numbers: &mut Numbers<'_>,
    documents: usize,
    [queries, keys]: [usize; 2],
) -> Result<(), Refusal> {
    let given = random(numbers, documents, [queries, keys])?;
    let d_out = numbers.random(&sizes(&[documents, given.heads, queries, given.width]))?;
    let (out, lse) = fused.forward(&given)?;
    let found = fused.backward(&given, &d_out, (&out, &lse))?;
    for document in 0..documents {
        let one = given.document(document)?;
        let part = |x: &Value| x.narrow(0, document, 1);
        let found = [&found.0, &found.1, &found.2].map(part);
        assert_document(&one, &part(&d_out)?, [part(&out)?, part(&lse)?], found)?;
    }
    Ok(())
}

/// Whether documents of several lengths in one call agree with one after the other.
pub(super) fn assert_packs(fused: &Fused, numbers: &mut Numbers<'_>) -> Result<(), Refusal> {
    let torch = numbers.torch;
    let lengths = [5_usize, 3, 38, 18];
    let given = random(numbers, 1, [64, 64])?;
    let d_out = numbers.random(&sizes(&[1, given.heads, 64, given.width]))?;
    let starts = lengths.iter().scan(0, |first, &length| {
        *first += length;
        Some(vec![(*first - length) as i32; length])
    });
    let documents = Documents::new(&starts.flatten().collect::<Vec<_>>(), 0)?;
    let rows = |x: &Value, heads: usize| {
        let x = x.transposed(1, 2)?;
        torch
            .converted(&x, &sizes(&[1, 64, heads, given.width]), torch.dtype(Kind::Bf16))?
            .shaped(&sizes(&[64, heads, given.width]), 0)
    };
    let [q, d_rows] = [rows(&given.q, given.heads)?, rows(&d_out, given.heads)?];
    let [k, v] = [rows(&given.k, given.kv_heads)?, rows(&given.v, given.kv_heads)?];
    let (out, lse, ..) = packed::call(torch, [&q, &k, &v], &documents, given.scale)?;
    let found =
        packed::gradients(torch, [&q, &k, &v], [&d_rows, &out, &lse], &documents, given.scale, fused.kept())?;
    if lse.sizes()? != sizes(&[given.heads, 64]) {
        return Err(format!("the log-sum-exp of packed documents is {:?}", lse.sizes()?).into());
    }
    for run in &documents.runs {
        let part = |x: &Value, heads: usize| {
            let (heads, width) = (heads as i64, given.width as i64);
            let sizes = [1, heads, run.queries as i64, width];
            x.strided(
                &sizes,
                &[64 * heads * width, width, heads * width, 1],
                run.first * (heads * width) as usize,
            )
        };
        let [heads, kv_heads] = [given.heads, given.kv_heads];
        let one = given.rows(run.first, run.queries)?;
        let d_out = d_out.narrow(2, run.first, run.queries)?;
        let lse = lse.strided(&[1, heads as i64, run.queries as i64], &[64, 64, 1], run.first)?;
        let [d_q, d_k, d_v] = &found;
        let found = [part(d_q, heads), part(d_k, kv_heads), part(d_v, kv_heads)];
        assert_document(&one, &d_out, [part(&out, heads)?, lse], found)?;
    }
    Ok(())
}

/// Whether results agree with the composed attention of one document, forward and backward: the output and
/// log-sum-exp, and the gradients by queries, keys and values.
fn assert_document(
    given: &Heads<'_>,
    d_out: &Value,
    [out, lse]: [Value; 2],
    [d_q, d_k, d_v]: [Result<Value, Refusal>; 3],
) -> Result<(), Refusal> {
    let torch = given.torch;
    let (wanted_out, wanted_lse) = composed::forward(given)?;
    agree(torch, "the output", &out, &wanted_out)?;
    agree(torch, "the log-sum-exp", &lse, &wanted_lse)?;
    let wanted = composed::backward(given, d_out)?;
    agree(torch, "the gradient by queries", &d_q?, &wanted.0)?;
    agree(torch, "the gradient by keys", &d_k?, &wanted.1)?;
    agree(torch, "the gradient by values", &d_v?, &wanted.2)
}

/// Four heads on two kv heads of 16, f32.
pub(super) fn random<'a>(
    numbers: &mut Numbers<'a>,
    documents: usize,
    [queries, keys]: [usize; 2],
) -> Result<Heads<'a>, Refusal> {
    let (torch, kind, heads, kv_heads, width) = (numbers.torch, Kind::F32, 4, 2, 16);
    let q = numbers.random(&sizes(&[documents, heads, queries, width]))?;
    let k = numbers.random(&sizes(&[documents, kv_heads, keys, width]))?;
    let v = numbers.random(&sizes(&[documents, kv_heads, keys, width]))?;
    Ok(Heads { torch, kind, q, k, v, documents, heads, kv_heads, queries, keys, width, scale: 0.25 })
}

impl<'a> Heads<'a> {
    /// One of several documents.
    fn document(&self, number: usize) -> Result<Heads<'a>, Refusal> {
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| x.narrow(0, number, 1));
        Ok(Heads { q: q?, k: k?, v: v?, documents: 1, ..*self })
    }

    /// Some rows of one document, as a document of their own.
    fn rows(&self, first: usize, rows: usize) -> Result<Heads<'a>, Refusal> {
        let part = |x: &Value| x.narrow(2, first, rows);
        let [q, k, v] = [&self.q, &self.k, &self.v].map(part);
        Ok(Heads { q: q?, k: k?, v: v?, queries: rows, keys: rows, ..*self })
    }
}
