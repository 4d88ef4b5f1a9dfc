//! Launches of `kernels/sort_by_expert.cu`.

use super::super::refusal::Refusal;
use super::call::Call;
use crate::kernels::{Argument, THREADS};
use crate::op::SortByExpert;

/// The most experts, or other keys: each block holds where the rows of each begin.
pub(super) const MOST_KEYS: usize = 1024;

/// Whether there are few enough rows and experts for the kernels.
pub(super) fn takes(op: &SortByExpert<'_>) -> bool {
    op.ends_e.len() <= MOST_KEYS && i32::try_from(op.experts_tk.len()).is_ok()
}

/// Three launches.
pub(super) fn sort_by_expert(call: &Call<'_>, op: &SortByExpert<'_>) -> Result<(), Refusal> {
    let SortByExpert { experts_tk, ends_e, order_r, places_tk } = *op;
    let sort = Sort {
        ids: call.tensor(experts_tk)?,
        from: Argument::NULL,
        places: call.tensor(places_tk)?,
        order: call.tensor(order_r)?,
        ends: call.tensor(ends_e)?,
        rows: experts_tk.len(),
        keys: ends_e.len(),
        shift: 0,
        mask: i32::MAX as usize,
    };
    sort.run(call)?;
    call.torch.state().known.insert_ends(ends_e, experts_tk.len());
    Ok(())
}

/// A stable sort of rows by the key `id >> shift & mask`; a row whose key is not below `keys` is left out.
pub(super) struct Sort {
    /// Whole numbers of rows.
    pub(super) ids: Argument,
    /// Rows as a sort by lower bits has left them, or null.
    pub(super) from: Argument,
    /// The place of each row: written.
    pub(super) places: Argument,
    /// The row at each place: written.
    pub(super) order: Argument,
    /// The place after each key's last row: written, unless null.
    pub(super) ends: Argument,
    pub(super) rows: usize,
    /// Keys, at most [`MOST_KEYS`].
    pub(super) keys: usize,
    pub(super) shift: usize,
    pub(super) mask: usize,
}

impl Sort {
    pub(super) fn run(&self, call: &Call<'_>) -> Result<(), Refusal> {
        let (torch, pieces) = (call.torch, self.rows.div_ceil(THREADS));
        let numbers = |sizes: &[usize]| torch.empty(&super::super::sizes(sizes), torch.torch.dtypes.i32);
        let (counts, totals) = (numbers(&[self.keys, pieces])?, numbers(&[self.keys])?);
        let arguments = [
            self.ids,
            self.from,
            self.places,
            call.value(&counts)?,
            call.value(&totals)?,
            self.order,
            self.ends,
            self.rows.into(),
            self.keys.into(),
            pieces.into(),
            self.shift.into(),
            self.mask.into(),
        ];
        call.launch("sort_rank", pieces, &arguments)?;
        call.launch("sort_scan", self.keys, &arguments)?;
        // One block at least: ends are written even if there are no rows.
        call.launch("sort_place", pieces.max(1), &arguments)
    }
}
