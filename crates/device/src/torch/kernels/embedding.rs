//! Launches of `kernels/embedding.cu`, after sorts of the tokens.

use super::super::refusal::Refusal;
use super::call::{Call, of_kind};
use super::sort_by_expert::{MOST_KEYS, Sort};
use crate::kernels::{Argument, THREADS};
use crate::op::EmbeddingGrad;

/// Neighbours that a thread reads at once: `CHUNK` of the prelude.
const CHUNK: usize = 8;

/// Whether there are few enough rows for the kernels.
pub(super) fn takes(op: &EmbeddingGrad<'_>) -> bool {
    let count = |count: usize| i32::try_from(count).is_ok();
    count(op.tokens_t.len()) && count(op.d_table_vd.shape()[0])
}

/// Three launches for each of a token's digits of up to ten bits, and one that adds the rows.
pub(super) fn grad(call: &Call<'_>, op: &EmbeddingGrad<'_>) -> Result<(), Refusal> {
    let EmbeddingGrad { d_out_td, tokens_t, d_table_vd } = *op;
    let [rows, width] = d_out_td.dims();
    let torch = call.torch;
    let numbers = || torch.empty(&[rows as i64], torch.torch.dtypes.i32);
    let (places, orders) = (numbers()?, [numbers()?, numbers()?]);
    let [bits, digits] = digits(d_table_vd.shape()[0]);
    let mut from = Argument::NULL;
    for digit in 0..digits {
        let order = call.value(&orders[digit % 2])?;
        let sort = Sort {
            ids: call.tensor(tokens_t)?,
            from,
            places: call.value(&places)?,
            order,
            ends: Argument::NULL,
            rows,
            keys: 1 << bits,
            shift: digit * bits,
            mask: (1 << bits) - 1,
        };
        sort.run(call)?;
        from = order;
    }
    let lanes = width.div_ceil(CHUNK).next_power_of_two().min(THREADS);
    let arguments = [
        call.tensor(d_out_td)?,
        call.tensor(tokens_t)?,
        from,
        call.tensor(d_table_vd)?,
        rows.into(),
        width.into(),
        lanes.into(),
    ];
    call.launch(of_kind!(d_out_td.kind(), "embedding_grad"), rows.div_ceil(THREADS / lanes), &arguments)
}

/// Bits of a digit, and digits of a token: as few as can be, of equal lengths.
fn digits(vocabulary: usize) -> [usize; 2] {
    let most = MOST_KEYS.ilog2() as usize;
    let bits = (usize::BITS - vocabulary.saturating_sub(1).leading_zeros()).max(1) as usize;
    let digits = bits.div_ceil(most);
    [bits.div_ceil(digits), digits]
}

#[cfg(test)]
mod tests {
    use super::digits;

    #[test]
    fn digits_hold_every_token_of_a_vocabulary() {
        assert_eq!(digits(1), [1, 1]);
        assert_eq!(digits(1024), [10, 1]);
        assert_eq!(digits(1025), [6, 2]);
        assert_eq!(digits(151_936), [9, 2]);
        assert_eq!(digits(i32::MAX as usize), [8, 4]);
    }
}
