//! A choice among weighted alternatives.

/// Weights, summed up once; a choice is then a binary search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedIndex {
    /// Sums up to and with each weight; the last is positive.
    sums: Box<[u64]>,
    total: u64,
}

impl WeightedIndex {
    /// `None` if the weights sum up to zero.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut total = 0u64;
        let sums = weights
            .into_iter()
            .map(|weight| {
                total = total.saturating_add(u64::from(weight));
                total
            })
            .collect();
        (total > 0).then_some(Self { sums, total })
    }

    /// The alternative whose share of the total holds `random % total`. The remainder is biased by less than `total / 2^64`.
    pub fn choose(&self, random: u64) -> usize {
        let at = random % self.total;
        self.sums.partition_point(|sum| *sum <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::WeightedIndex;

    #[test]
    fn shares_are_exact() {
        for weights in [&[1u32][..], &[90, 10], &[0, 3, 0, 7, 0], &[u32::MAX, 1]] {
            let index = WeightedIndex::new(weights.iter().copied()).unwrap();
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            if total <= 1000 {
                let mut counts = vec![0u32; weights.len()];
                (0..total).for_each(|random| counts[index.choose(random)] += 1);
                assert_eq!(counts, weights);
            }
            assert!(index.choose(u64::MAX) < weights.len());
            assert_eq!(index.choose(total - 1), weights.iter().rposition(|w| *w > 0).unwrap());
        }
    }

    #[test]
    fn no_weight_is_no_choice() {
        assert_eq!(WeightedIndex::new([]), None);
        assert_eq!(WeightedIndex::new([0, 0]), None);
    }
}
