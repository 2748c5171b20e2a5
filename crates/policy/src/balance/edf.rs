//! Earliest deadline first: a weighted round robin that is as smooth as it can be.
//!
//! Each entry has a deadline; the earliest is served and gets a new one, `1 / weight` later. Over time each is served in
//! proportion to its weight, and never in bursts.

use rand::Rng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A schedule of entries `0..n`.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    now: f64,
    heap: BinaryHeap<Reverse<Entry>>,
    weights: Vec<f64>,
    /// Orders entries of the same deadline by when they were served.
    turn: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// Deadlines are positive, and then the bits of a float are in the order of its values.
    deadline: u64,
    turn: u64,
    index: usize,
}

/// The most steps that a new schedule is moved on, so that workers do not all begin with the same entry.
const MAX_SKIP: usize = 64;

impl Schedule {
    /// A schedule that begins at a random place. Entries without weight are left out.
    pub(super) fn new<G: Rng + ?Sized>(weights: &[f64], rng: &mut G) -> Self {
        let mut schedule = Self { weights: weights.to_vec(), ..Self::default() };
        for (index, weight) in weights.iter().enumerate() {
            if *weight > 0.0 {
                schedule.push(index, *weight);
            }
        }
        if schedule.heap.len() > 1 {
            for _ in 0..rng.random_range(0..schedule.heap.len().min(MAX_SKIP)) {
                schedule.next();
            }
        }
        schedule
    }

    /// The next entry by the weights of the beginning; `None` if there is none.
    pub(super) fn next(&mut self) -> Option<usize> {
        if self.heap.is_empty() {
            return None;
        }
        let weights = std::mem::take(&mut self.weights);
        let next = self.next_with(|i| weights[i]);
        self.weights = weights;
        next
    }

    /// The next entry; `weight` gives its weight for the turn after this one.
    pub(super) fn next_with(&mut self, weight: impl Fn(usize) -> f64) -> Option<usize> {
        let Reverse(entry) = self.heap.pop()?;
        self.now = f64::from_bits(entry.deadline);
        self.push(entry.index, weight(entry.index));
        Some(entry.index)
    }

    fn push(&mut self, index: usize, weight: f64) {
        let deadline = self.now + 1.0 / weight.max(f64::MIN_POSITIVE.sqrt());
        self.turn += 1;
        self.heap.push(Reverse(Entry { deadline: deadline.to_bits(), turn: self.turn, index }));
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn is_proportional_and_smooth() {
        let mut rng = SmallRng::seed_from_u64(1);
        let weights = [5.0, 1.0, 0.0, 2.0];
        let mut schedule = Schedule::new(&weights, &mut rng);
        let mut counts = [0u32; 4];
        let mut run = (usize::MAX, 0);
        for _ in 0..8000 {
            let i = schedule.next().unwrap();
            counts[i] += 1;
            run = if run.0 == i { (i, run.1 + 1) } else { (i, 1) };
            assert!(run.1 <= 3, "entry {i} is served {} times in a row", run.1);
        }
        for (count, weight) in counts.iter().zip(weights) {
            assert!((f64::from(*count) - 1000.0 * weight).abs() <= 2.0, "{counts:?}");
        }
    }

    #[test]
    fn nothing_to_serve() {
        let mut rng = SmallRng::seed_from_u64(1);
        assert_eq!(Schedule::new(&[], &mut rng).next(), None);
        assert_eq!(Schedule::new(&[0.0], &mut rng).next(), None);
    }
}
