//! One product per expert, over slices of the rows. Where the slices end is read from the device.

use super::Torch;
use super::matmul::{Into, Matrix, multiply};
use super::value::Words;
use crate::tensor::Tensor;

pub(super) fn grouped_matmul(
    torch: &Torch,
    x: &Tensor,
    w_enk: &Tensor,
    ends_e: &Tensor,
    out: &Tensor,
    flip: bool,
) -> Result<(), Words> {
    let ([n, k], widths) = (matrix(w_enk), [x.rows_and_width().1, out.rows_and_width().1]);
    let slices = slices(torch, ends_e, x.shape()[0])?;
    let covered = slices.last().map_or(0, |slice| slice.first + slice.rows);
    if covered < x.shape()[0] {
        torch.floats(out)?.fill(0.0)?;
    }
    for Slice { expert, first, rows } in slices {
        let part = |tensor, width: usize| Matrix::part(torch, tensor, [rows, width], first * width, false);
        let w = Matrix::part(torch, w_enk, [n, k], expert * n * k, !flip)?.operand(torch)?;
        let x = part(x, widths[0])?.operand(torch)?;
        multiply(torch, &x, &w, &part(out, widths[1])?.value, Into { add: false, times: 1.0 })?;
    }
    Ok(())
}

pub(super) fn weights(
    torch: &Torch,
    dy_rn: &Tensor,
    x_rk: &Tensor,
    ends_e: &Tensor,
    dw_enk: &Tensor,
) -> Result<(), Words> {
    let [n, k] = matrix(dw_enk);
    for Slice { expert, first, rows } in slices(torch, ends_e, x_rk.shape()[0])? {
        let dy = Matrix::part(torch, dy_rn, [rows, n], first * n, true)?.operand(torch)?;
        let x = Matrix::part(torch, x_rk, [rows, k], first * k, false)?.operand(torch)?;
        let dw = Matrix::part(torch, dw_enk, [n, k], expert * n * k, false)?;
        multiply(torch, &dy, &x, &dw.value, Into { add: true, times: 1.0 })?;
    }
    Ok(())
}

/// The rows of one expert.
struct Slice {
    expert: usize,
    first: usize,
    rows: usize,
}

/// The experts that have rows. Their ends rise, to at most the number of rows.
fn slices(torch: &Torch, ends_e: &Tensor, rows: usize) -> Result<Vec<Slice>, Words> {
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
