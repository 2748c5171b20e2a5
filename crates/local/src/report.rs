//! What the person at the terminal sees while the mesh runs.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Lines of progress. On a terminal they carry a sign and a colour; piped, they are plain. With JSON asked for, they go to
/// standard error, so that standard output holds nothing but JSON.
#[derive(Debug)]
pub(crate) struct Report {
    start: Instant,
    json: bool,
    /// One line at a time, from whichever task.
    line: Mutex<()>,
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something was done.
    Done,
    /// Something to know.
    Note,
    /// Something is wrong.
    Problem,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { start: Instant::now(), json, line: Mutex::new(()) }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Seconds since the start.
    pub(crate) fn elapsed(&self) -> f32 {
        self.start.elapsed().as_secs_f32()
    }

    /// Prints one entry, which may have several lines.
    pub(crate) fn say(&self, kind: Kind, text: &str) {
        let _one = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody may be reading any more; that must not end the mesh.
        let _ = if self.json || kind == Kind::Problem {
            let tty = io::stderr().is_terminal();
            write_entry(&mut io::stderr().lock(), kind, text, tty)
        } else {
            let tty = io::stdout().is_terminal();
            write_entry(&mut io::stdout().lock(), kind, text, tty)
        };
    }

    /// Prints a document on standard output.
    pub(crate) fn document(&self, json: &serde_json::Value) {
        let _one = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(io::stdout(), "{json}");
    }
}

fn write_entry(out: &mut impl Write, kind: Kind, text: &str, tty: bool) -> io::Result<()> {
    let (sign, colour) = match kind {
        Kind::Done => ("✓ ", "32"),
        Kind::Note => ("  ", "0"),
        Kind::Problem => ("! ", "31"),
    };
    for (i, line) in text.lines().enumerate() {
        match (tty, i) {
            (true, 0) => writeln!(out, "\x1b[{colour}m{sign}\x1b[0m{line}")?,
            (true, _) => writeln!(out, "  {line}")?,
            (false, _) => writeln!(out, "{line}")?,
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piped_lines_are_plain() {
        let mut out = Vec::new();
        write_entry(&mut out, Kind::Done, "one\ntwo", false).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "one\ntwo\n");
        let mut out = Vec::new();
        write_entry(&mut out, Kind::Problem, "one", true).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\x1b[31m! \x1b[0mone\n");
    }
}
