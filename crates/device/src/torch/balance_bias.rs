//! The selection bias's step towards equal loads, with zero mean.

use super::Torch;
use super::refusal::Refusal;
use super::value::Value;
use crate::op::BalanceBias;

/// Signs are taken of `sum(loads) - E load`, in whole numbers: the mean itself may not be one.
pub(super) fn balance_bias(torch: &Torch, op: &BalanceBias<'_>) -> Result<(), Refusal> {
    let BalanceBias { loads_e, bias_e, rate } = *op;
    let aten = torch.aten();
    let sizes = [loads_e.len() as i64];
    let loads = torch.indices(loads_e, &sizes)?;
    let sum = aten.sum(&loads, Some(&[0]), true, None)?;
    let own = aten.mul(&loads, &Value::i64(torch.torch, sizes[0])?)?;
    let float = |flags: &Value| torch.converted(flags, &sizes, torch.torch.dtypes.f32);
    let signs = float(&aten.gt(&sum, &own)?)?.minus(&float(&aten.lt(&sum, &own)?)?, 1.0)?;
    let centred = signs.minus(&aten.mean(&signs, Some(&[0]), true, None)?, 1.0)?;
    torch.accumulate(&torch.floats(bias_e)?, &aten.mul(&centred, &torch.scalar(rate)?)?)
}
