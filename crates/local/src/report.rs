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
            let style = Style::of(&io::stderr());
            write_entry(&mut io::stderr().lock(), kind, text, style)
        } else {
            let style = Style::of(&io::stdout());
            write_entry(&mut io::stdout().lock(), kind, text, style)
        };
    }

    /// Prints one entry for people alone: programs ask for what they want to know.
    pub(crate) fn tell(&self, text: &str) {
        if !self.json {
            self.say(Kind::Done, text);
        }
    }

    /// Prints a document on standard output.
    pub(crate) fn document(&self, json: &serde_json::Value) {
        let _one = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(io::stdout(), "{json}");
    }
}

/// Whether output to `stream` is coloured: it is a terminal, and nobody has asked for none (`NO_COLOR`, `TERM=dumb`).
#[must_use]
pub fn coloured(stream: &impl IsTerminal) -> bool {
    let asked_not = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let cannot = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
    stream.is_terminal() && !asked_not && !cannot
}

/// How lines are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Not at all: another program reads them.
    Plain,
    /// With signs.
    Signs,
    /// With signs in colour.
    Colours,
}

impl Style {
    fn of(stream: &impl IsTerminal) -> Self {
        match (stream.is_terminal(), coloured(stream)) {
            (false, _) => Self::Plain,
            (true, false) => Self::Signs,
            (true, true) => Self::Colours,
        }
    }
}

fn write_entry(out: &mut impl Write, kind: Kind, text: &str, style: Style) -> io::Result<()> {
    let (sign, colour) = match kind {
        Kind::Done => ("✓", "32"),
        Kind::Note => (" ", "0"),
        Kind::Problem => ("!", "31"),
    };
    for (i, line) in text.lines().enumerate() {
        match (style, i) {
            (Style::Plain, _) => writeln!(out, "{line}")?,
            (Style::Signs, 0) => writeln!(out, "{sign} {line}")?,
            (Style::Colours, 0) => writeln!(out, "\x1b[{colour}m{sign}\x1b[0m {line}")?,
            (Style::Signs | Style::Colours, _) => writeln!(out, "  {line}")?,
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piped_lines_are_plain_and_colour_is_an_addition() {
        let written = |kind, text, style| {
            let mut out = Vec::new();
            write_entry(&mut out, kind, text, style).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Kind::Done, "one\ntwo", Style::Plain), "one\ntwo\n");
        assert_eq!(written(Kind::Done, "one\ntwo", Style::Signs), "✓ one\n  two\n");
        assert_eq!(written(Kind::Problem, "one", Style::Colours), "\x1b[31m!\x1b[0m one\n");
    }
}
