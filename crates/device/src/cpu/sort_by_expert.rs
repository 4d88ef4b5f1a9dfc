//! Sorting choices by expert: a stable counting sort.

/// `order[r]` is the choice at sorted row r, `places` its inverse, `ends[e]` the row after expert e's last. The
/// experts were checked.
pub(super) fn sort_by_expert(experts: &[i32], ends_e: &mut [i32], order_r: &mut [i32], places: &mut [i32]) {
    ends_e.fill(0);
    for &expert in experts {
        ends_e[expert as usize] += 1;
    }
    // First the row before expert e's first; each placed choice moves it on, so that it ends as the row after its last.
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
}
