//! All visits of all tokens, sorted by expert, so that each expert's rows lie together.

use super::describe::{moved, op};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

op! {
    /// A stable sort of all choices by expert: `order[r]` is the choice (t*K + k) at sorted row r, `places`
    /// its inverse, `ends[e]` the row after expert e's last.
    SortByExpert = "sort_by_expert" {
        read experts_tk: ids, write ends_e: ids, write order_r: ids, write places_tk: ids,
    }
    cost |op| moved(3 * op.order_r.len(), op.order_r)
}

/// A stable sort of the T*K choices by expert.
#[derive(Clone)]
pub struct Sorted {
    /// The row after each expert's last.
    pub ends_e: Tensor,
    /// The choice `t * K + k` at each sorted row.
    pub order_r: Tensor,
    /// The sorted row of each choice.
    pub places_tk: Tensor,
}

/// Sorts all choices by expert, those of one expert in their order. Every entry of `experts` must be below
/// `experts_count`.
///
/// ```
/// # use lingot_device::{Device, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let sorted = ops::sort_by_expert(&device.integers(&[1, 0, 0, 1], &[2, 2])?, 2)?;
/// assert_eq!(sorted.order_r.to_integers()?, [1, 2, 0, 3]);
/// assert_eq!(sorted.places_tk.to_integers()?, [2, 0, 1, 3]);
/// assert_eq!(sorted.ends_e.to_integers()?, [2, 4]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn sort_by_expert(experts_tk: &Tensor, experts_count: usize) -> Result<Sorted> {
    let op = "sort_by_expert";
    let (kind, shape) = (experts_tk.kind(), experts_tk.shape());
    if kind != Kind::I32 {
        return Err(Error::Kind { op, tensor: "experts", found: kind.name(), wanted: "i32" });
    }
    let &[t, k] = shape else {
        return Err(Error::Value {
            op,
            what: "experts",
            found: format!("of shape {shape:?}"),
            wanted: "of 2 dimensions".into(),
        });
    };
    let device = experts_tk.device();
    let sorted = Sorted {
        ends_e: device.empty(&[experts_count], Kind::I32)?,
        order_r: device.empty(&[t * k], Kind::I32)?,
        places_tk: device.empty(&[t, k], Kind::I32)?,
    };
    let Sorted { ends_e, order_r, places_tk } = &sorted;
    device.enqueue(SortByExpert { experts_tk, ends_e, order_r, places_tk })?;
    Ok(sorted)
}
