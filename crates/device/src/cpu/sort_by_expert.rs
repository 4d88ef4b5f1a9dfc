//! Sorting choices by expert: a stable counting sort.

use super::operands::below;
use crate::error::Result;
use crate::host::view_mut;
use crate::op::SortByExpert;

/// `order[r]` is the choice at sorted row r, `places` its inverse, `ends[e]` the row after expert e's last.
pub(super) fn sort_by_expert(op: &SortByExpert<'_>) -> Result<()> {
    let experts = below(SortByExpert::NAME, "an expert", op.experts_tk, 0, op.ends_e.len())?;
    let (ends_e, order_r) = (view_mut::<i32>(op.ends_e), view_mut::<i32>(op.order_r));
    let places = view_mut::<i32>(op.places_tk);
    ends_e.fill(0);
    for &expert in experts {
        ends_e[expert as usize] += 1;
    }
    // First the row before expert e's first; each placed choice moves it on, so that it ends as the row after
    // its last.
    let mut before = 0;
    for end in ends_e.iter_mut() {
        (*end, before) = (before, before + *end);
    }
    for (choice, (&expert, place)) in experts.iter().zip(places).enumerate() {
        let row = &mut ends_e[expert as usize];
        order_r[*row as usize] = choice as i32;
        *place = *row;
        *row += 1;
    }
    Ok(())
}
