//! Launches of `kernels/norm.cu`.

use super::super::refusal::Refusal;
use super::call::{CHUNK, Call, in_chunks, of_kind};
use crate::kernels::THREADS;
use crate::op::{RmsNorm, RmsNormGrad};
use crate::tensor::Kind;

/// Chunks of a row that a thread keeps, in the kernels for wide rows and for single elements.
const KEPT: usize = 4;

/// Blocks that each keep sums by the scale.
const MOST_PARTS: usize = 512;

/// Threads that share a row, and how they read it: `kernels/norm.cu` has one kernel for each.
#[derive(Clone, Copy, PartialEq)]
enum Team {
    /// So many, each with one chunk of the row.
    Of(usize),
    /// A block, each thread with several chunks.
    Wide,
    /// A block whose threads read one element at a time.
    Ones,
}

impl Team {
    fn of(width: usize, in_chunks: bool) -> Team {
        match width.div_ceil(CHUNK) {
            _ if !in_chunks => Team::Ones,
            0..=8 => Team::Of(8),
            9..=16 => Team::Of(16),
            17..=32 => Team::Of(32),
            33..=128 => Team::Of(128),
            129..=THREADS => Team::Of(THREADS),
            _ => Team::Wide,
        }
    }

    fn blocks(self, rows: usize) -> usize {
        match self {
            Team::Of(threads) => rows.div_ceil(THREADS / threads),
            Team::Wide | Team::Ones => rows,
        }
    }

    fn forward(self, kind: Kind) -> &'static str {
        match self {
            Team::Of(8) => of_kind!(kind, "rms_norm_8"),
            Team::Of(16) => of_kind!(kind, "rms_norm_16"),
            Team::Of(32) => of_kind!(kind, "rms_norm_32"),
            Team::Of(128) => of_kind!(kind, "rms_norm_128"),
            Team::Of(_) => of_kind!(kind, "rms_norm_256"),
            Team::Wide => of_kind!(kind, "rms_norm_wide"),
            Team::Ones => of_kind!(kind, "rms_norm_ones"),
        }
    }

    fn backward(self, kind: Kind) -> &'static str {
        match self {
            Team::Of(8) => of_kind!(kind, "rms_norm_grad_8"),
            Team::Of(16) => of_kind!(kind, "rms_norm_grad_16"),
            Team::Of(32) => of_kind!(kind, "rms_norm_grad_32"),
            Team::Of(128) => of_kind!(kind, "rms_norm_grad_128"),
            Team::Of(_) => of_kind!(kind, "rms_norm_grad_256"),
            Team::Wide => of_kind!(kind, "rms_norm_grad_wide"),
            Team::Ones => of_kind!(kind, "rms_norm_grad_ones"),
        }
    }
}

pub(super) fn rms_norm(call: &Call<'_>, op: &RmsNorm<'_>) -> Result<(), Refusal> {
    let (rows, width) = op.x.rows_and_width();
    let [x, scale, out] = [call.tensor(op.x)?, call.tensor(op.scale_d)?, call.tensor(op.out)?];
    let team = Team::of(width, in_chunks(&[x, scale, out], width));
    let arguments = [x, scale, out, rows.into(), width.into(), op.epsilon.into()];
    call.launch(team.forward(op.x.kind()), team.blocks(rows), &arguments)
}

/// Whether a team can keep a row whole.
pub(super) fn takes(call: &Call<'_>, op: &RmsNormGrad<'_>) -> Result<bool, Refusal> {
    let width = op.x.rows_and_width().1;
    Ok(width <= THREADS * KEPT * if team(call, op)? == Team::Ones { 1 } else { CHUNK })
}

fn team(call: &Call<'_>, op: &RmsNormGrad<'_>) -> Result<Team, Refusal> {
    let width = op.x.rows_and_width().1;
    let addresses =
        [call.tensor(op.d_out)?, call.tensor(op.x)?, call.tensor(op.scale_d)?, call.tensor(op.d_x)?];
    Ok(Team::of(width, in_chunks(&addresses, width)))
}

pub(super) fn grad(call: &Call<'_>, op: &RmsNormGrad<'_>) -> Result<(), Refusal> {
    let RmsNormGrad { d_out, x, scale_d, epsilon, d_x, d_scale_d, add } = *op;
    let (rows, width) = x.rows_and_width();
    if rows * width == 0 {
        return Ok(());
    }
    let team = team(call, op)?;
    let blocks = team.blocks(rows).min(MOST_PARTS);
    let parts = call.torch.empty(&[blocks as i64, width as i64], call.torch.torch.dtypes.f32)?;
    let arguments = [
        call.tensor(d_out)?,
        call.tensor(x)?,
        call.tensor(scale_d)?,
        call.tensor(d_x)?,
        call.value(&parts)?,
        rows.into(),
        width.into(),
        epsilon.into(),
        add.into(),
    ];
    call.launch(team.backward(x.kind()), blocks, &arguments)?;
    call.add_columns(&parts, [blocks, width], d_scale_d)
}
