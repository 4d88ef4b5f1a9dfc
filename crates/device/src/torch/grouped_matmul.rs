//! One product per expert, over slices of the rows: by one operator for all experts where the device has it,
//! else one after the other. For the latter the ends of the slices are read from the device.

use super::kernels::elementwise::sum;
use super::matmul::{Into, Matrix, multiply, operand, operand_of};
use super::probe::{Numbers, agree};
use super::refusal::Refusal;
use super::value::Value;
use super::{Torch, sizes};
use crate::op::{GroupedMatMul, GroupedMatMulWeights};
use crate::precision::Precision;
use crate::tensor::{Kind, Tensor};

pub(super) fn grouped_matmul(torch: &Torch, op: &GroupedMatMul<'_>) -> Result<(), Refusal> {
    let GroupedMatMul { x, w_enk, ends_e, out, flip } = *op;
    let ([n, k], widths) = (matrix(w_enk), [x.rows_and_width().1, out.rows_and_width().1]);
    let rows = x.shape()[0];
    let covered = covered(torch, ends_e, rows)?;
    if covered < rows {
        let rest = sizes(&[rows - covered, widths[1]]);
        torch.strided(out, &rest, &[widths[1] as i64, 1], covered * widths[1])?.fill(0.0)?;
    }
    if is_fused(torch, [x, w_enk], covered) {
        let covers = |tensor, width: usize| torch.reshaped(tensor, &sizes(&[covered, width]));
        let of_rows = sizes(&[covered, widths[0]]);
        let x = operand_of(torch, covers(x, widths[0])?, &of_rows, x.kind())?;
        let w = operand_of(torch, torch.floats(w_enk)?, &sizes(w_enk.shape()), w_enk.kind())?;
        let product = fused(torch, &x, &w, &torch.flat(ends_e)?, flip)?;
        return if covered == rows {
            torch.store(out, &product)
        } else {
            covers(out, widths[1])?.set(&product)
        };
    }
    for Slice { expert, first, rows } in slices(torch, ends_e, rows)? {
        let part = |tensor, width: usize| Matrix::part(torch, tensor, [rows, width], first * width, false);
        let w = Matrix::part(torch, w_enk, [n, k], expert * n * k, !flip)?.operand(torch)?;
        let x = part(x, widths[0])?.operand(torch)?;
        let into = Into { add: false, times: 1.0 };
        multiply(torch, [&x, &w], &part(out, widths[1])?.value, out.kind(), into)?;
    }
    Ok(())
}

pub(super) fn weights(torch: &Torch, op: &GroupedMatMulWeights<'_>) -> Result<(), Refusal> {
    let GroupedMatMulWeights { dy_rn, x_rk, ends_e, dw_enk, add } = *op;
    let [n, k] = matrix(dw_enk);
    let covered = covered(torch, ends_e, x_rk.shape()[0])?;
    if is_fused(torch, [dy_rn, x_rk], covered) {
        let [dy, x] = [(dy_rn, n), (x_rk, k)].map(|(tensor, width)| {
            let sizes = sizes(&[covered, width]);
            operand_of(torch, torch.reshaped(tensor, &sizes)?, &sizes, tensor.kind())
        });
        let product = fused_weights(torch, &dy?, &x?, &torch.flat(ends_e)?)?;
        let dw = torch.floats(dw_enk)?;
        if torch.multiplies_bf16() && sum(torch, &product, dw_enk, add)? {
            return Ok(());
        }
        return if add { torch.accumulate(&dw, &product) } else { dw.set(&product) };
    }
    if !add {
        // Experts without rows have none of the products below.
        torch.floats(dw_enk)?.fill(0.0)?;
    }
    for Slice { expert, first, rows } in slices(torch, ends_e, x_rk.shape()[0])? {
        let dy = Matrix::part(torch, dy_rn, [rows, n], first * n, true)?.operand(torch)?;
        let x = Matrix::part(torch, x_rk, [rows, k], first * k, false)?.operand(torch)?;
        let dw = Matrix::part(torch, dw_enk, [n, k], expert * n * k, false)?;
        multiply(torch, [&dy, &x], &dw.value, dw_enk.kind(), Into { add: true, times: 1.0 })?;
    }
    Ok(())
}

/// `x w^T` of each expert, or `x w` where `flip` says so, of operands [R, k or n] and [E, n, k]; in their
/// type.
fn fused(torch: &Torch, x: &Value, w: &Value, ends: &Value, flip: bool) -> Result<Value, Refusal> {
    let [e, n, k] = w.sizes()?[..] else { return Err("weights have three axes".into()) };
    let w = if flip { w.again()? } else { w.strided(&[e, k, n], &[n * k, 1, k], 0)? };
    torch.aten().grouped_mm(x, &w, Some(ends), None, None)
}

/// `dy^T x` of each expert, [E, n, k], of operands [R, n] and [R, k]; in their type.
fn fused_weights(torch: &Torch, dy: &Value, x: &Value, ends: &Value) -> Result<Value, Refusal> {
    let [rows, n] = dy.sizes()?[..] else { return Err("rows have two axes".into()) };
    torch.aten().grouped_mm(&dy.strided(&[n, rows], &[1, n], 0)?, x, Some(ends), None, None)
}

/// Whether rows lie as the operator asks: on multiples of 16 bytes.
fn is_fused(torch: &Torch, tensors: [&Tensor; 2], rows: usize) -> bool {
    let in_f32 = torch.options.precision == Precision::F32;
    let lies_well = |tensor: &Tensor| {
        let (width, first_bytes) = (tensor.shape().last().copied().unwrap_or(1), tensor.place().offset_bytes);
        let in_place = in_f32 == (tensor.kind() == Kind::F32); // Else the operands are copies.
        width % (if in_f32 { 4 } else { 8 }) == 0 && (!in_place || first_bytes % 16 == 0)
    };
    rows > 0 && torch.routes.experts.is_found() && tensors.into_iter().all(lies_well)
}

/// Whether the operator agrees with one product after the other, of experts with and without rows.
pub(super) fn try_fused(torch: &Torch) -> Result<(), Refusal> {
    let mut numbers = Numbers::new(torch);
    let (rows, n, k, ends) = (40, 24, 16, [3, 3, 32, 40, 40]);
    let experts = ends.len() as i64;
    let rounded = |x: Value| {
        let sizes = x.sizes()?;
        operand(torch, x, &sizes)
    };
    let (x, dy) = (rounded(numbers.random(&[rows, k])?)?, rounded(numbers.random(&[rows, n])?)?);
    let w = rounded(numbers.random(&[experts, n, k])?)?;
    let f32 = torch.torch.dtypes.f32;
    let zeros = |sizes: &[i64]| torch.full(sizes, f32, 0.0);
    let (out, d_x, d_w) = (zeros(&[rows, n])?, zeros(&[rows, k])?, zeros(&[experts, n, k])?);
    let mut first = 0;
    for (expert, &end) in ends.iter().enumerate() {
        let count = end - first;
        if count == 0 {
            continue;
        }
        let rows_of =
            |x: &Value, width: i64| x.strided(&[count, width], &[width, 1], (first * width) as usize);
        let of_expert =
            |strides: [i64; 2], sizes: [i64; 2]| w.strided(&sizes, &strides, expert * (n * k) as usize);
        let set = Into { add: false, times: 1.0 };
        let multiply = |a: &Value, b: &Value, out: &Value| multiply(torch, [a, b], out, Kind::F32, set);
        multiply(&rows_of(&x, k)?, &of_expert([1, k], [k, n])?, &rows_of(&out, n)?)?;
        multiply(&rows_of(&dy, n)?, &of_expert([k, 1], [n, k])?, &rows_of(&d_x, k)?)?;
        let flipped = dy.strided(&[n, count], &[1, n], (first * n) as usize)?;
        let d_w = d_w.strided(&[n, k], &[k, 1], expert * (n * k) as usize)?;
        multiply(&flipped, &rows_of(&x, k)?, &d_w)?;
        first = end;
    }
    let ends = torch.whole_numbers(&ends.map(|end| end as i32))?;
    agree(torch, "the products", &fused(torch, &x, &w, &ends, false)?, &out)?;
    agree(torch, "the gradient by rows", &fused(torch, &dy, &w, &ends, true)?, &d_x)?;
    agree(torch, "the gradient by weights", &fused_weights(torch, &dy, &x, &ends)?, &d_w)
}

/// The rows of one expert.
struct Slice {
    expert: usize,
    first: usize,
    rows: usize,
}

/// The number of rows that belong to experts: all after the device's own sorting, else what the ends say,
/// which are read from the device.
fn covered(torch: &Torch, ends_e: &Tensor, rows: usize) -> Result<usize, Refusal> {
    if torch.state().known.rises_to(ends_e) == Some(rows) {
        return Ok(rows);
    }
    Ok(slices(torch, ends_e, rows)?.last().map_or(0, |slice| slice.first + slice.rows))
}

/// The experts that have rows. Their ends rise, to at most the number of rows.
fn slices(torch: &Torch, ends_e: &Tensor, rows: usize) -> Result<Vec<Slice>, Refusal> {
    let ends = torch.integers(ends_e)?;
    let mut slices = vec![];
    let mut first = 0;
    for (expert, &end) in ends.iter().enumerate() {
        let end = usize::try_from(end).ok().filter(|end| (first..=rows).contains(end));
        let end = end.ok_or_else(|| format!("ends are {ends:?}, but must rise from 0 to at most {rows}"))?;
        if end > first {
            slices.push(Slice { expert, first, rows: end - first });
        }
        first = end;
    }
    Ok(slices)
}

fn matrix(w_enk: &Tensor) -> [usize; 2] {
    [w_enk.shape()[1], w_enk.shape()[2]]
}
