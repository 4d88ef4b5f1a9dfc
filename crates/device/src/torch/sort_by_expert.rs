//! All choices, sorted by expert, those of one expert in the order they came.

use super::Torch;
use super::refusal::Refusal;
use crate::op::SortByExpert;

pub(super) fn sort_by_expert(torch: &Torch, op: &SortByExpert<'_>) -> Result<(), Refusal> {
    let SortByExpert { experts_tk, ends_e, order_r, places_tk } = *op;
    let aten = torch.aten();
    let rows = [experts_tk.len() as i64];
    let experts = torch.indices(experts_tk, &rows)?;
    let (sorted, order) = aten.sort(&experts, Some(true), 0, false)?;
    let counting = torch.counting(experts_tk.len().max(ends_e.len()))?;
    let below = |count: i64| counting.shaped(&[count], 0);
    let places = aten.scatter(&order, 0, &order, &below(rows[0])?)?;
    let ends =
        aten.searchsorted(&sorted, &below(ends_e.len() as i64)?, false, true, super::aten::NoText, None)?;
    torch.store_integers(order_r, &order)?;
    torch.store_integers(places_tk, &places.shaped(&super::sizes(places_tk.shape()), 0)?)?;
    torch.store_integers(ends_e, &ends)?;
    torch.state().known.insert_ends(ends_e, experts_tk.len());
    Ok(())
}
