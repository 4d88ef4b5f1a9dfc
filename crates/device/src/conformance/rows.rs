//! Ops that work row by row or element by element.

use super::bench::{Bench, Case, Output};
use crate::error::Result;
use crate::ops::{self, Rotation};
use crate::tensor::{Kind, Tensor};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for [rows, d] in [[1, 1], [1, 7], [7, 13], [130, 65], [65, 129], [3, 2048]] {
        // Of deviation 0, epsilon is alone under the root.
        for deviation in [1.0, 1e-3, 1e3, 0.0] {
            let label = format!("rows {rows} d {d} of {deviation}");
            cases.push(Case::new("rms_norm", label, move |bench| rms_norm(bench, [rows, d], deviation)));
        }
        cases.push(Case::new("scale_columns", format!("v {rows} d {d}"), move |b| norm_head(b, [rows, d])));
    }
    // Widths of heads and models, for which backends share rows among threads in other ways.
    for [rows, d] in [[33, 64], [9, 128], [5, 256], [3, 1024], [2, 2056], [1, 8200]] {
        let label = format!("rows {rows} d {d}");
        cases.push(Case::new("rms_norm", label, move |bench| rms_norm(bench, [rows, d], 1.0)));
    }
    for (shape, width) in
        [([1, 1, 2], 2), ([7, 3, 10], 10), ([65, 2, 16], 8), ([130, 4, 64], 64), ([5, 1, 7], 0)]
    {
        let label = format!("{shape:?} width {width}");
        cases.push(Case::new("rope", label, move |bench| rope(bench, shape, width)));
    }
    for ([rows, f], deviation) in
        [([1, 1], 1.0), ([1, 65], 1.0), ([7, 13], 1.0), ([130, 129], 1.0), ([65, 33], 100.0), ([0, 8], 1.0)]
    {
        let label = format!("rows {rows} f {f} of {deviation}");
        cases.push(Case::new("swiglu", label, move |bench| swiglu(bench, [rows, f], deviation)));
    }
    for count in [1, 7, 129, 5003, 100_003] {
        cases.push(Case::new("add", format!("{count}"), move |bench| elementwise(bench, count)));
        cases.push(Case::new("moments", format!("{count}"), move |bench| sums(bench, count)));
    }
    cases
}

pub(super) fn rms_norm(bench: &mut Bench<'_>, [rows, d]: [usize; 2], deviation: f64) -> Result<Vec<Output>> {
    let x = bench.scaled(&[rows, d], deviation)?;
    let (d_out, scale) = (bench.normal(&[rows, d])?, bench.normal(&[d])?);
    let (d_scale, onto) = (bench.normal_sums(&[d])?, bench.normal(&[rows, d])?);
    let d_scale_again = bench.zero_sums(&[d])?;
    let epsilon = 1e-6;
    let d_x = ops::rms_norm_grad(&d_out, &x, &scale, epsilon, None, &d_scale)?;
    ops::rms_norm_grad(&d_out, &x, &scale, epsilon, Some(&onto), &d_scale_again)?;
    // With one column, x decides nothing but the sign: the gradient cancels down to epsilon's share.
    let size = 1.0 / (deviation * deviation + epsilon).sqrt();
    Ok(vec![
        Output::sum("out", ops::rms_norm(&x, &scale, epsilon)?, d),
        Output::sum("d_x", d_x, d).of_size(size),
        Output::sum("d_scale", d_scale, d.max(rows) + 1),
        Output::sum("added d_x", onto, d).of_size(size),
        Output::sum("d_scale alone", d_scale_again, d.max(rows)),
    ])
}

pub(super) fn norm_head(bench: &mut Bench<'_>, [v, d]: [usize; 2]) -> Result<Vec<Output>> {
    let (w, x) = (bench.scaled(&[v, d], 0.02)?, bench.normal(&[7, d])?);
    let scales = ops::column_scales(&w)?;
    let out = ops::scale_columns(&x, &scales)?;
    Ok(vec![Output::sum("scales", scales, v), Output::sum("out", out, v)])
}

pub(super) fn rope(bench: &mut Bench<'_>, shape: [usize; 3], width: usize) -> Result<Vec<Output>> {
    let (there, back) = (bench.normal(&shape)?, bench.normal(&shape)?);
    let positions = bench.indices(shape[0], 5000);
    let positions = bench.integers(&positions)?;
    let rotation = Rotation { width, theta: 10_000.0 };
    ops::rope(&there, &positions, rotation, false)?;
    ops::rope(&back, &positions, rotation, true)?;
    Ok(vec![Output::plain("there", there), Output::plain("back", back)])
}

pub(super) fn swiglu(bench: &mut Bench<'_>, [rows, f]: [usize; 2], deviation: f64) -> Result<Vec<Output>> {
    let gate_up = bench.scaled(&[rows, 2 * f], deviation)?;
    let (weights, d_out) = (bench.normal_sums(&[rows])?, bench.normal(&[rows, f])?);
    let copy = |of: &Tensor| -> Result<Tensor> {
        let copy = bench.device.empty(of.shape(), of.kind())?;
        ops::copy(&copy, of)?;
        Ok(copy)
    };
    let plain = ops::swiglu_grad(copy(&d_out)?, copy(&gate_up)?)?;
    let weighted = ops::weighted_swiglu_grad(copy(&d_out)?, copy(&gate_up)?, &weights)?;
    Ok(vec![
        Output::plain("out", ops::swiglu(&gate_up, None)?),
        Output::plain("weighted out", ops::swiglu(&gate_up, Some(&weights))?),
        Output::plain("d_gate_up", plain.d_gate_up),
        Output::plain("out again", plain.out_rf),
        Output::plain("weighted d_gate_up", weighted.d_gate_up),
        Output::plain("weighted out again", weighted.out_rf),
        Output::sum("d_weights", weighted.d_weights_r, f),
    ])
}

pub(super) fn elementwise(bench: &mut Bench<'_>, count: usize) -> Result<Vec<Output>> {
    let (x, sum) = (bench.normal(&[count])?, bench.normal(&[count])?);
    let (copy, filled, whole) = (bench.zeros(&[count])?, bench.zeros(&[count])?, bench.indices(count, 1000));
    let whole = bench.integers(&whole)?;
    let whole_copy = bench.device.zeros(&[count], whole.kind())?;
    ops::add(&sum, &x)?;
    ops::copy(&copy, &x)?;
    ops::copy(&whole_copy, &whole)?;
    ops::fill(&filled, 0.375)?;
    let mut outputs = vec![
        Output::plain("sum", sum),
        Output::exact("copy", copy),
        Output::exact("copy of whole numbers", whole_copy),
        Output::exact("fill", filled),
    ];
    if bench.rounds() {
        outputs.extend(casts(bench, count)?);
    }
    Ok(outputs)
}

/// To bf16 and back, of what rounds in every way: from below, from above, ties of both kinds, subnormal
/// numbers, what becomes infinite. There is one right answer, on the definition's device in bf16 as well.
fn casts(bench: &Bench<'_>, count: usize) -> Result<[Output; 2]> {
    let hard = |i: usize| {
        let exponent = [0x3f80, 0x0000, 0x0080, 0x7f7e, 0x4b00][i % 5] + (i / 5 % 2) as u32;
        let below = [0x0000, 0x7fff, 0x8000, 0x8001, 0xffff][i / 10 % 5];
        let sign = (i / 50 % 2) as u32;
        f32::from_bits(sign << 31 | exponent << 16 | below)
    };
    let values: Vec<f32> = (0..count).map(hard).collect();
    let x = bench.device.floats(&values, &[count], Kind::F32)?;
    let [narrow, wide] = [Kind::Bf16, Kind::F32].map(|kind| bench.device.zeros(&[count], kind));
    let (narrow, wide) = (narrow?, wide?);
    ops::copy(&narrow, &x)?;
    ops::copy(&wide, &narrow)?;
    Ok([Output::exact("cast to bf16", narrow), Output::exact("cast back", wide)])
}

pub(super) fn sums(bench: &mut Bench<'_>, count: usize) -> Result<Vec<Output>> {
    let (x, squares, moments) = (bench.normal(&[count])?, bench.normal_sums(&[1])?, bench.normal_sums(&[2])?);
    ops::sum_of_squares(&x, &squares)?;
    ops::moments(&x, &moments)?;
    Ok(vec![Output::sum("squares", squares, count), Output::sum("moments", moments, count)])
}
