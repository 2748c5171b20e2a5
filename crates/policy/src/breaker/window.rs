//! How often something happened in the last while, counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// As many as Envoy divides an interval into.
const SLOTS: u32 = 10;

/// A count over the last interval, which moves on in steps of a tenth of it: what happened is forgotten after nine to ten
/// tenths. Every method may be called by any number of threads at once.
#[derive(Debug)]
pub(super) struct Window {
    interval: Duration,
    step_nanos: u64,
    slots: [Slot; SLOTS as usize],
}

/// The number of a step in the upper half, and what happened in it in the lower one. Both are in one word, so that the first of a
/// new step begins to count anew in one exchange.
#[derive(Debug, Default)]
struct Slot(AtomicU64);

const HALF: u32 = u32::BITS;

impl Slot {
    fn add(&self, step: u32) {
        let counted = |word: u64| {
            let (of, count) = split(word);
            let (of, count) = if is_ahead(of, step) { (of, count) } else { (step, 0) };
            Some(u64::from(of) << HALF | u64::from(count.saturating_add(1)))
        };
        let _always = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted);
    }

    /// Takes one back, unless its step is over.
    fn undo(&self, step: u32) {
        let less = |word: u64| {
            let (of, count) = split(word);
            (of == step && count > 0).then(|| word - 1)
        };
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn count(&self, step: u32) -> u32 {
        let (of, count) = split(self.0.load(Ordering::Relaxed));
        if step.wrapping_sub(of) < SLOTS || is_ahead(of, step) { count } else { 0 }
    }
}

/// Whether `of` is `step`, or one that another thread, which read the clock later, has begun.
fn is_ahead(of: u32, step: u32) -> bool {
    of.wrapping_sub(step) < 100 * SLOTS
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of a word")]
fn split(word: u64) -> (u32, u32) {
    ((word >> HALF) as u32, word as u32)
}

impl Window {
    /// A window in which nothing has happened.
    pub(super) fn new(interval: Duration) -> Self {
        let step = (interval / SLOTS).as_nanos();
        let step_nanos = u64::try_from(step).unwrap_or(u64::MAX).max(1);
        Self { interval, step_nanos, slots: Default::default() }
    }

    /// How long something is counted.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Something happens. `now` is the time since an instant that never changes.
    pub(super) fn add(&self, now: Duration) {
        let step = self.step(now);
        self.slot(step).add(step);
    }

    /// What was just added at `now` did not happen.
    pub(super) fn undo(&self, now: Duration) {
        let step = self.step(now);
        self.slot(step).undo(step);
    }

    /// How often it happened.
    pub(super) fn count(&self, now: Duration) -> u32 {
        let step = self.step(now);
        self.slots.iter().fold(0, |sum: u32, slot| sum.saturating_add(slot.count(step)))
    }

    /// The number of the step of `now`. It begins anew after 2^32 steps, at which a slot that was not touched since would be taken
    /// for one of this interval: once in 5 days at the shortest interval, a millisecond, and then for its old count alone.
    #[expect(clippy::cast_possible_truncation, reason = "numbers of steps wrap")]
    fn step(&self, now: Duration) -> u32 {
        (u64::try_from(now.as_nanos()).unwrap_or(u64::MAX) / self.step_nanos) as u32
    }

    fn slot(&self, step: u32) -> &Slot {
        // Where the numbers begin anew, steps share a slot, and the counts of a few are lost.
        &self.slots[(step % SLOTS) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENTH: Duration = Duration::from_millis(100);

    #[test]
    fn what_happened_is_forgotten_after_the_interval() {
        let window = Window::new(10 * TENTH);
        let at = |tenths: u32| 100 * TENTH + tenths * TENTH;
        assert_eq!(window.count(at(0)), 0);
        (0..3).for_each(|_| window.add(at(0)));
        window.add(at(4));
        for (tenths, count) in [(0, 4), (4, 4), (9, 4), (10, 1), (13, 1), (14, 0), (30, 0)] {
            assert_eq!(window.count(at(tenths)), count, "after {tenths} tenths");
        }
        window.add(at(30));
        assert_eq!(window.count(at(30)), 1, "a slot counts anew");
    }

    #[test]
    fn at_the_beginning_of_time() {
        let window = Window::new(10 * TENTH);
        window.add(Duration::ZERO);
        assert_eq!((window.count(Duration::ZERO), window.count(9 * TENTH), window.count(10 * TENTH)), (1, 1, 0));
    }

    #[test]
    fn what_did_not_happen_is_taken_back() {
        let window = Window::new(10 * TENTH);
        window.add(TENTH);
        window.add(TENTH);
        window.undo(TENTH);
        assert_eq!(window.count(TENTH), 1);
        window.undo(12 * TENTH);
        window.undo(2 * TENTH);
        assert_eq!(window.count(TENTH), 1, "of another step nothing is taken");
    }

    #[test]
    fn clocks_of_threads_may_differ() {
        let window = Window::new(10 * TENTH);
        window.add(12 * TENTH);
        // A thread that read its clock before the other one.
        window.add(2 * TENTH);
        assert_eq!(window.count(12 * TENTH), 2);
        assert_eq!(window.count(11 * TENTH), 2, "what others have counted ahead");
    }

    #[test]
    fn intervals_of_any_length() {
        for interval in [Duration::from_nanos(1), Duration::from_millis(1), Duration::from_secs(1_000_000), Duration::MAX] {
            let window = Window::new(interval);
            window.add(Duration::from_secs(5));
            assert_eq!(window.count(Duration::from_secs(5)), 1, "{interval:?}");
        }
    }

    #[test]
    fn threads_lose_nothing() {
        let window = Window::new(10 * TENTH);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let window = &window;
                scope.spawn(move || (0..1_000).for_each(|n| window.add(TENTH * (n + thread) / 200)));
            }
        });
        assert_eq!(window.count(6 * TENTH), 4_000);
    }
}
