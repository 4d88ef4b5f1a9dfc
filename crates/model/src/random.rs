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
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
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
        let angle = std::f64::consts::TAU * self.uniform();
        [radius * libm::cos(angle), radius * libm::sin(angle)]
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
}
