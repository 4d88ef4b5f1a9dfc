//! The order of samples: every choice is a pure function of the seed, so a loader has nothing to remember.

/// A number that looks random and depends on `words` alone.
pub(crate) fn hash(words: &[u64]) -> u64 {
    words.iter().fold(0x243f_6a88_85a3_08d3, |state, &word| {
        // The finalizer of SplitMix64.
        let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// `hash` as a share in [0, 1).
pub(crate) fn share(words: &[u64]) -> f64 {
    (hash(words) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The place of `index` in a shuffle of `0..count` that depends on `key` alone. Takes constant time.
///
/// A Feistel network permutes the smallest square of a power of two that holds `count`; a place outside
/// `0..count` is permuted again until it lies inside. Both steps can be undone, so no two indices share a
/// place.
pub(crate) fn shuffled(key: u64, index: u64, count: u64) -> u64 {
    debug_assert!(index < count);
    let half_bits = (u64::BITS - (count - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1_u64 << half_bits) - 1;
    let mut place = index;
    loop {
        let (mut left, mut right) = (place >> half_bits, place & mask);
        for round in 0..6 {
            (left, right) = (right, left ^ (hash(&[key, round, right]) & mask));
        }
        place = (left << half_bits) | right;
        if place < count {
            return place;
        }
    }
}

/// Deals samples to corpora in proportion to their weights: exactly in the long run, evenly in the short.
///
/// Samples come in blocks. Of the first `b` blocks a corpus has its share of the samples, rounded down, and
/// the heaviest corpus has the rest, so that no rounding adds up. Inside a block the corpora own ranges,
/// visited in bit-reversed order, which spreads every corpus over the block.
#[derive(Clone, Debug)]
pub(crate) struct Mixture {
    /// The share of each corpus in fixed point; all of them sum to at most one.
    shares: Vec<u128>,
    heaviest: usize,
    block_bits: u32,
}

/// Bits after the point of a share.
const POINT: u32 = 62;

impl Mixture {
    /// Weights must be positive and finite.
    pub(crate) fn new(weights: &[f64]) -> Mixture {
        let sum: f64 = weights.iter().sum();
        let shares = weights.iter().map(|w| (w / sum * (1_u64 << POINT) as f64) as u128).collect();
        let heaviest =
            (0..weights.len()).fold(0, |best, k| if weights[k] > weights[best] { k } else { best });
        // Large enough that what the others lose by rounding never exceeds the share of the heaviest in a
        // block.
        let block_bits = (weights.len() * weights.len()).next_power_of_two().trailing_zeros().max(10);
        Mixture { shares, heaviest, block_bits }
    }

    /// For each of `samples` samples from `first` on, its corpus and its number among the samples of that
    /// corpus.
    pub(crate) fn deal(&self, first: u64, samples: u32) -> Vec<(usize, u64)> {
        let mut dealt = Vec::with_capacity(samples as usize);
        let (mut block, mut skip) = (first >> self.block_bits, first & ((1 << self.block_bits) - 1));
        while dealt.len() < samples as usize {
            let wanted = samples as usize - dealt.len();
            dealt.extend(self.block(block).skip(skip as usize).take(wanted));
            (block, skip) = (block + 1, 0);
        }
        dealt
    }

    /// The samples of one block, in order.
    fn block(&self, block: u64) -> impl Iterator<Item = (usize, u64)> {
        let (mut counts, after) = (self.before(block), self.before(block + 1));
        let mut ends = Vec::with_capacity(counts.len());
        let mut end = 0;
        for (before, after) in counts.iter().zip(&after) {
            end += after - before;
            ends.push(end);
        }
        (0..1_u64 << self.block_bits).map(move |inside| {
            let place =
                if self.block_bits == 0 { 0 } else { inside.reverse_bits() >> (64 - self.block_bits) };
            let corpus = ends.partition_point(|&end| end <= place);
            counts[corpus] += 1;
            (corpus, counts[corpus] - 1)
        })
    }

    /// How many samples each corpus has in all blocks before this one.
    fn before(&self, block: u64) -> Vec<u64> {
        let samples = block << self.block_bits;
        let mut counts: Vec<u64> =
            self.shares.iter().map(|share| ((share * u128::from(samples)) >> POINT) as u64).collect();
        counts[self.heaviest] = 0;
        counts[self.heaviest] = samples - counts.iter().sum::<u64>();
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_visits_every_index_once() {
        for count in [1, 2, 3, 5, 16, 17, 1000, 4097] {
            let mut seen = vec![false; count as usize];
            for index in 0..count {
                let place = shuffled(7, index, count) as usize;
                assert!(!std::mem::replace(&mut seen[place], true), "{count}: {place} twice");
            }
        }
        let moved = (0..1000).filter(|&index| shuffled(7, index, 1000) != index).count();
        assert!(moved > 980, "{moved}");
        assert_ne!(shuffled(7, 0, 1 << 40), shuffled(8, 0, 1 << 40));
    }

    #[test]
    fn a_mixture_deals_exactly_by_weight_and_numbers_each_corpus_without_gaps() {
        let weights = [0.7, 0.2, 0.0999, 0.0001];
        let mixture = Mixture::new(&weights);
        let mut counts = [0_u64; 4];
        let total = 300_000_u32;
        for (corpus, index) in mixture.deal(0, total) {
            assert_eq!(index, counts[corpus]);
            counts[corpus] += 1;
        }
        for (count, weight) in counts.iter().zip(weights) {
            assert!((*count as f64 - weight * f64::from(total)).abs() <= 1024.0 * weight + 4.0, "{counts:?}");
        }
    }

    #[test]
    fn a_mixture_is_the_same_wherever_the_reader_begins() {
        let mixture = Mixture::new(&[1.0, 3.0]);
        let all = mixture.deal(0, 5000);
        for first in [0, 1, 1000, 1023, 1024, 3333] {
            assert_eq!(mixture.deal(first as u64, 1500), all[first..first + 1500]);
        }
        let firsts = all[..16].iter().filter(|(corpus, _)| *corpus == 0).count();
        assert_eq!(firsts, 4, "a batch of 16 is already mixed one to three");
    }

    #[test]
    fn many_corpora_with_tiny_weights_never_upset_the_count() {
        let mut weights = vec![1e-9; 70];
        weights[69] = 1.0;
        let mixture = Mixture::new(&weights);
        assert_eq!(mixture.deal(1 << 50, 20_000).len(), 20_000);
        let even = Mixture::new(&vec![1.0; 70]);
        assert_eq!(
            even.deal(0, 70_000).iter().filter(|(corpus, _)| *corpus == 3).count().abs_diff(1000) / 10,
            0
        );
    }
}
