//! Learning on demand, on a paused clock.
