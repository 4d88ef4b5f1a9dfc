//! All choices, sorted by expert, those of one expert in the order they came.

use super::operands::{integers, store_integers};
use crate::op::SortByExpert;

pub(super) fn sort_by_expert(op: &SortByExpert<'_>) {
    let sorted = sort(&integers(op.experts_tk), op.ends_e.len());
    store_integers(op.ends_e, &sorted.ends);
    store_integers(op.order_r, &sorted.order);
    store_integers(op.places_tk, &sorted.places);
}

/// The results of sorting.
struct Sorted {
    ends: Vec<i32>,
    order: Vec<i32>,
    places: Vec<i32>,
}

/// `order[r]` is the choice at sorted row r, `places` its inverse, `ends[e]` the row after expert e's last.
fn sort(experts: &[i32], experts_count: usize) -> Sorted {
    let mut sorted = Sorted { ends: vec![], order: vec![], places: vec![0; experts.len()] };
    for e in 0..experts_count {
        for (choice, &expert) in experts.iter().enumerate() {
            if expert as usize == e {
                sorted.places[choice] = sorted.order.len() as i32;
                sorted.order.push(choice as i32);
            }
        }
        sorted.ends.push(sorted.order.len() as i32);
    }
    sorted
}
