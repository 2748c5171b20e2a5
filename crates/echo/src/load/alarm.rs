//! A timer of microseconds: the runtime's own has a grain of a millisecond, which at a thousand requests a second is the rate.

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Wakes one task at a time.
pub(super) struct Alarm(AsyncFd<Timer>);

impl Alarm {
    #[expect(
        deprecated,
        reason = "its replacement is unsafe; here the descriptor is the timer's own for as long as it is watched"
    )]
    pub(super) fn new() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        Ok(Self(AsyncFd::new(Timer(timer))?))
    }

    /// Waits until then; not at all if that is past.
    pub(super) async fn until(&self, due: Instant) -> io::Result<()> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            // Nothing left would disarm the timer instead.
            if left.is_zero() {
                return Ok(());
            }
            let expiration = Expiration::OneShot(TimeSpec::from_duration(left));
            self.0.get_ref().0.set(expiration, TimerSetTimeFlags::empty())?;
            let mut ready = self.0.readable().await?;
            let _ = ready.try_io(|timer| Ok(timer.get_ref().0.wait()?));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Alarm;
    use std::time::Duration;
    use tokio::time::Instant;

    #[tokio::test]
    async fn it_never_wakes_early_and_can_be_used_again() {
        let alarm = Alarm::new().expect("a timer");
        for micros in [0, 1, 300, 2_500, 100] {
            let due = Instant::now() + Duration::from_micros(micros);
            alarm.until(due).await.expect("waits");
            assert!(Instant::now() >= due);
        }
    }
}
