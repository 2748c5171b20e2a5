//! One part of the tour: what was expected, what was observed.

use std::fmt;

use crate::cli::say;

/// The expectations of one feature, printed as they are settled.
#[derive(Debug)]
pub(crate) struct Step {
    colour: bool,
    met: u32,
    missed: u32,
}

impl Step {
    /// Prints the title.
    pub(crate) fn begin(number: usize, title: &str, file: &str, colour: bool) -> Self {
        let (bold, plain) = if colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        say(&format!("\n{bold}{number}. {title}{plain} ({file})\n"));
        Self { colour, met: 0, missed: 0 }
    }

    /// Settles one expectation: what should be, what was, and whether that is the same.
    pub(crate) fn expect(&mut self, expected: &str, observed: impl fmt::Display, met: bool) {
        *(if met { &mut self.met } else { &mut self.missed }) += 1;
        let (sign, colour) = if met { ('✓', "\x1b[32m") } else { ('✗', "\x1b[31m") };
        let (colour, plain) = if self.colour { (colour, "\x1b[0m") } else { ("", "") };
        say(&format!("   {colour}{sign}{plain} expected: {expected}\n     observed: {observed}\n"));
    }

    /// An expectation that could not be looked at is not met.
    pub(crate) fn fail(&mut self, reason: &str) {
        self.expect("the step can be taken", reason, false);
    }

    /// How it went.
    pub(crate) fn summary(&self) -> Summary {
        Summary { met: self.met, missed: self.missed }
    }
}

/// How many expectations were met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    met: u32,
    missed: u32,
}

impl Summary {
    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { met: self.met + other.met, missed: self.missed + other.missed }
    }

    /// Whether there were any, and all were met.
    pub(crate) fn all_met(self) -> bool {
        self.missed == 0 && self.met > 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.missed {
            0 => write!(f, "all {} expectations are met", self.met),
            missed => write!(f, "{missed} of {} expectations are NOT met", self.met + missed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_missed_expectation_is_enough_and_none_at_all_is_no_success() {
        let mut step = Step::begin(1, "a", "a.yaml", false);
        assert!(!step.summary().all_met());
        step.expect("one", 1, true);
        assert!(step.summary().all_met());
        step.fail("it broke");
        assert!(!step.summary().all_met());
        assert_eq!(step.summary().and(Summary::default()).to_string(), "1 of 2 expectations are NOT met");
    }
}
