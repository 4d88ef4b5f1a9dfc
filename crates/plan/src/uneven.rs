//! Division of whole things (layers, experts, sequences) among unequal holders so that the slowest ends
//! soonest.

/// A holder that takes `fixed_s` seconds, and `each_s` more for each thing it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Holder {
    pub fixed_s: f64,
    pub each_s: f64,
    /// Fewest things it may hold.
    pub least: u32,
    /// Most things it has room for.
    pub most: u32,
}

impl Holder {
    pub(crate) fn seconds(&self, count: u32) -> f64 {
        self.fixed_s + self.each_s * f64::from(count)
    }
}

/// How many each holds; none where they have no room for all things, or there are too few things for all.
///
/// Each thing goes to the holder that then ends first. No other division ends sooner: every other holder
/// would have ended at least as late with the last thing given.
pub(crate) fn apportion(total: u32, holders: &[Holder]) -> Option<Vec<u32>> {
    let mut counts: Vec<u32> = holders.iter().map(|holder| holder.least).collect();
    let given = counts.iter().try_fold(0_u32, |sum, count| sum.checked_add(*count))?;
    if holders.iter().any(|holder| holder.least > holder.most) {
        return None;
    }
    for _ in 0..total.checked_sub(given)? {
        let has_room = (0..holders.len()).filter(|&at| counts[at] < holders[at].most);
        let after = |at: usize| holders[at].seconds(counts[at] + 1);
        let at = has_room.min_by(|&a, &b| after(a).total_cmp(&after(b)))?;
        counts[at] += 1;
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least time of the slowest over all divisions.
    fn by_looking_at_all(total: u32, holders: &[Holder]) -> Option<f64> {
        let Some((first, rest)) = holders.split_first() else { return (total == 0).then_some(0.0) };
        let counts = first.least..=first.most.min(total);
        let slowest = |count: u32| Some(first.seconds(count).max(by_looking_at_all(total - count, rest)?));
        counts.filter_map(slowest).min_by(f64::total_cmp)
    }

    #[test]
    fn no_other_division_lets_the_slowest_end_sooner() {
        let mut state = 5_u64;
        let mut below = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        let (mut divided, mut refused) = (0, 0);
        for _ in 0..2000 {
            let holders: Vec<Holder> = (0..1 + below(4))
                .map(|_| Holder {
                    fixed_s: below(5) as f64,
                    each_s: 0.5 + below(40) as f64 / 8.0,
                    least: below(2) as u32,
                    most: below(7) as u32,
                })
                .collect();
            let total = below(12) as u32;
            let found = apportion(total, &holders);
            let Some(best) = by_looking_at_all(total, &holders) else {
                assert_eq!(found, None);
                refused += 1;
                continue;
            };
            let counts = found.expect("there is a division");
            assert_eq!(counts.iter().sum::<u32>(), total);
            let ends = holders.iter().zip(&counts).map(|(holder, count)| holder.seconds(*count));
            assert!((ends.fold(0.0, f64::max) - best).abs() < 1e-9, "{total} among {holders:?}: {counts:?}");
            assert!(holders.iter().zip(&counts).all(|(a, n)| (a.least..=a.most).contains(n)));
            divided += 1;
        }
        assert!(divided > 500 && refused > 300, "{divided} divided, {refused} refused");
    }
}
