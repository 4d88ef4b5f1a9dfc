//! Random numbers as a pure function of the words that name their use, the same on every machine.

/// A stream of random numbers that depends only on the words it was made from.
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
}

impl Stream {
    /// The stream that belongs to `words`, such as seed, purpose and index.
    pub fn new(words: &[u64]) -> Stream {
        let state = words.iter().fold(0x4c69_6e67_6f74, |state, &word| mix(state ^ mix(word)));
        Stream { state }
    }

    /// Returns 64 random bits (SplitMix64: Steele, Lea and Flood, 2014).
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// Returns a number uniform in (0, 1].
    pub fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Returns two independent standard normal numbers (Box and Muller, 1958). `libm` gives the same bits
    /// everywhere.
    pub fn normals(&mut self) -> [f64; 2] {
        let radius = libm::sqrt(-2.0 * libm::log(self.uniform()));
        let (sine, cosine) = libm::sincos(std::f64::consts::TAU * self.uniform());
        [radius * cosine, radius * sine]
    }

    /// Passes over the numbers that `pairs` calls of [`Stream::normals`] would return.
    pub fn skip_normals(&mut self, pairs: u64) {
        self.state = self.state.wrapping_add(STEP.wrapping_mul(2 * pairs));
    }

    /// Returns `count` normal numbers of mean 0 and the given standard deviation.
    pub fn normal_values(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        let mut values = Vec::with_capacity(count + 1);
        while values.len() < count {
            values.extend(self.normals().map(|value| (value * deviation) as f32));
        }
        values.truncate(count);
        values
    }
}

/// What the state of SplitMix64 grows by with each number.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::Stream;

    #[test]
    fn normal_numbers_have_mean_zero_and_deviation_one() {
        let values = Stream::new(&[1, 2]).normal_values(100_000, 1.0);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 1e5;
        let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (square - 1.0).abs() < 0.02, "{mean} {square}");
    }

    #[test]
    fn the_rest_of_a_stream_is_the_same_after_numbers_that_were_drawn_and_that_were_skipped() {
        let (mut drawn, mut skipped) = (Stream::new(&[3]), Stream::new(&[3]));
        drawn.normal_values(2 * 77, 1.0);
        skipped.skip_normals(77);
        assert_eq!(drawn.normal_values(5, 1.0), skipped.normal_values(5, 1.0));
    }

    #[test]
    fn sine_and_cosine_together_have_the_bits_that_each_has_alone() {
        let mut stream = Stream::new(&[4]);
        for _ in 0..1_000_000 {
            let angle = std::f64::consts::TAU * stream.uniform();
            let alone = [libm::sin(angle), libm::cos(angle)].map(f64::to_bits);
            let (sine, cosine) = libm::sincos(angle);
            assert_eq!(alone, [sine, cosine].map(f64::to_bits), "{angle}");
        }
    }
}
