//! Medians, and confidence intervals of paired ratios.

const RESAMPLES: usize = 10_000;
const SEED: u64 = 0x5DEE_CE66_D1CE_4E5B;

/// A ratio over paired rounds: its median and the 95 % bootstrap interval of that median.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    /// `None` if there are no rounds. The resampling is seeded, so that the same rounds give the same interval.
    pub(crate) fn of_pairs(numerators: &[f64], denominators: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> = numerators.iter().zip(denominators).map(|(n, d)| n / d).collect();
        let center = median(&ratios)?;
        let mut state = SEED;
        let mut medians = Vec::with_capacity(RESAMPLES);
        for _ in 0..RESAMPLES {
            let sample: Vec<f64> = (0..ratios.len())
                .filter_map(|_| ratios.get(below(&mut state, ratios.len())).copied())
                .collect();
            medians.extend(median(&sample));
        }
        medians.sort_by(f64::total_cmp);
        Some(Self {
            median: center,
            low: *medians.get(RESAMPLES / 40)?,
            high: *medians.get(RESAMPLES - RESAMPLES / 40 - 1)?,
        })
    }
}

/// The median; `None` if there are no values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted.get(middle.checked_sub(1)?)? + upper) / 2.0)
}

/// xorshift64*, because resampling must be fast and repeatable, but not secret.
fn below(state: &mut u64, bound: usize) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    let drawn = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
    usize::try_from(drawn).unwrap_or_default() % bound.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_the_mean_of_the_two_middles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn interval_of_a_constant_ratio_is_that_ratio() {
        let ratio = Ratio::of_pairs(&[2.0, 4.0, 6.0], &[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(
            ratio,
            Ratio {
                median: 2.0,
                low: 2.0,
                high: 2.0
            }
        );
    }

    #[test]
    fn interval_holds_the_median_and_is_the_same_each_time() {
        let numerators = [1.0, 1.2, 0.9, 1.1, 1.05, 0.97, 1.3, 1.0, 0.95, 1.15];
        let ones = [1.0; 10];
        let ratio = Ratio::of_pairs(&numerators, &ones).unwrap();
        assert!(ratio.low < ratio.median && ratio.median < ratio.high);
        assert_eq!(Ratio::of_pairs(&numerators, &ones).unwrap(), ratio);
    }
}
