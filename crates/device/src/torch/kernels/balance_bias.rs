//! The launch of `kernels/balance_bias.cu`.

use super::super::refusal::Refusal;
use super::call::Call;
use crate::op::BalanceBias;

pub(super) fn balance_bias(call: &Call<'_>, op: &BalanceBias<'_>) -> Result<(), Refusal> {
    let BalanceBias { loads_e, bias_e, rate } = *op;
    let arguments = [call.tensor(loads_e)?, call.tensor(bias_e)?, loads_e.len().into(), rate.into()];
    call.launch("balance_bias", 1, &arguments)
}
