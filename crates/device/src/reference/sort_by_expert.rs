//! All choices, sorted by expert, those of one expert in the order they came.

/// Where each choice goes.
pub(super) struct Sorted {
    pub(super) ends: Vec<i32>,
    pub(super) order: Vec<i32>,
    pub(super) places: Vec<i32>,
}

/// `order[r]` is the choice at sorted row r, `places` its inverse, `ends[e]` the row after expert e's last.
pub(super) fn sort(experts: &[i32], experts_count: usize) -> Sorted {
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
