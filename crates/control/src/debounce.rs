//! When a change is pushed: at once after a quiet time, else together with its successors.
//!
//! Istio waits [`DebounceConfig::after`] before each push. Here the first change after a quiet time goes out at once (leading
//! edge); those that follow within `after` of each other are gathered until it is quiet for `after`, or `max` has passed
//! since the first of them. The two settings keep Istio's names and meaning (`PILOT_DEBOUNCE_AFTER`, `PILOT_DEBOUNCE_MAX`);
//! the default of the second is shorter than Istio's 10 s, because a push costs in proportion to what changed, and a
//! change is to be in force within a second also while others keep coming.

use std::time::Duration;
use tokio::time::Instant;

/// Something whose parts may be pushed together.
pub trait Merge {
    /// Takes in what `later` says.
    fn merge(&mut self, later: Self);
}

/// The two settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebounceConfig {
    /// Quiet time that ends gathering (`PILOT_DEBOUNCE_AFTER`).
    pub after: Duration,
    /// The longest that a change is held back (`PILOT_DEBOUNCE_MAX`).
    pub max: Duration,
}

impl Default for DebounceConfig {
    fn default() -> Self {
        Self { after: Duration::from_millis(100), max: Duration::from_millis(500) }
    }
}

/// The state machine. It does no I/O and reads no clock: the caller brings the time.
#[derive(Debug)]
pub struct Debounce<T> {
    config: DebounceConfig,
    window: Option<Window<T>>,
}

#[derive(Debug)]
struct Window<T> {
    /// The last event or push.
    last: Instant,
    /// What is held back, and since when.
    pending: Option<(Instant, T)>,
}

impl<T: Merge> Debounce<T> {
    /// Quiet, with nothing held back.
    pub fn new(config: DebounceConfig) -> Self {
        Self { config, window: None }
    }

    /// Takes in a change; gives back what is to be pushed now, if anything.
    pub fn event(&mut self, now: Instant, change: T) -> Option<T> {
        if let Some(due) = self.fire(now) {
            // The timer was late: the change joins what is due.
            let mut due = due;
            due.merge(change);
            return Some(due);
        }
        match &mut self.window {
            None => {
                self.window = Some(Window { last: now, pending: None });
                Some(change)
            }
            Some(window) => {
                window.last = now;
                match &mut window.pending {
                    Some((_, pending)) => pending.merge(change),
                    None => window.pending = Some((now, change)),
                }
                None
            }
        }
    }

    /// Takes out what is held back, because something goes out now anyway.
    pub fn flush(&mut self, now: Instant) -> Option<T> {
        let window = self.window.as_mut()?;
        window.last = now;
        window.pending.take().map(|(_, change)| change)
    }

    /// When [`Self::fire`] must be called next.
    pub fn timer(&self) -> Option<Instant> {
        let window = self.window.as_ref()?;
        let quiet = window.last + self.config.after;
        Some(window.pending.as_ref().map_or(quiet, |(since, _)| quiet.min(*since + self.config.max)))
    }

    /// What is to be pushed because its time has come.
    pub fn fire(&mut self, now: Instant) -> Option<T> {
        if self.timer().is_none_or(|at| now < at) {
            return None;
        }
        let pending = self.window.as_mut().and_then(|w| w.pending.take());
        self.window = pending.as_ref().map(|_| Window { last: now, pending: None });
        pending.map(|(_, change)| change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Set(Vec<u32>);

    impl Merge for Set {
        fn merge(&mut self, later: Self) {
            self.0.extend(later.0);
        }
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn debounce() -> Debounce<Set> {
        Debounce::new(DebounceConfig { after: ms(100), max: ms(500) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_after_a_quiet_time_goes_out_at_once() {
        let (mut d, t) = (debounce(), Instant::now());
        assert_eq!(d.event(t, Set(vec![1])), Some(Set(vec![1])));
        assert_eq!(d.fire(t + ms(100)), None);
        assert_eq!(d.timer(), None, "quiet again");
        assert_eq!(d.event(t + ms(150), Set(vec![2])), Some(Set(vec![2])));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_close_together_are_gathered_until_it_is_quiet() {
        let (mut d, t) = (debounce(), Instant::now());
        assert!(d.event(t, Set(vec![1])).is_some());
        assert_eq!(d.event(t + ms(50), Set(vec![2])), None);
        assert_eq!(d.event(t + ms(120), Set(vec![3])), None);
        assert_eq!(d.fire(t + ms(219)), None);
        assert_eq!(d.timer(), Some(t + ms(220)));
        assert_eq!(d.fire(t + ms(220)), Some(Set(vec![2, 3])));
        // The push opened a new window.
        assert_eq!(d.event(t + ms(230), Set(vec![4])), None);
        assert_eq!(d.fire(t + ms(330)), Some(Set(vec![4])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_changes_is_not_held_back_longer_than_max() {
        let (mut d, t) = (debounce(), Instant::now());
        assert!(d.event(t, Set(vec![0])).is_some());
        let mut pushed = Vec::new();
        for n in 1..200u32 {
            let now = t + ms(u64::from(n) * 10);
            if let Some(set) = d.event(now, Set(vec![n])) {
                pushed.push((now, set));
            }
        }
        let times: Vec<_> = pushed.iter().map(|(at, _)| (*at - t).as_millis()).collect();
        assert_eq!(times, [510, 1020, 1530]);
        let all: Vec<u32> = pushed.into_iter().flat_map(|(_, s)| s.0).collect();
        assert_eq!(all, (1..=153).collect::<Vec<_>>(), "nothing lost, in order");
    }
}
