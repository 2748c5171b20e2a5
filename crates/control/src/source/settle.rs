//! When a changed file may be read: not while it is being written.
//!
//! Editors and `cp` truncate a file and then fill it; what is read in between looks like a mesh without services. A change is
//! taken when it has not changed again for a moment; a file that has vanished or become empty gets longer, for it may be on
//! its way back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// How long a changed file must stay as it is.
pub(super) const EDITED: Duration = Duration::from_millis(30);
/// How long a file must stay away, or empty.
pub(super) const GONE: Duration = Duration::from_millis(300);

/// Tells versions of a file apart without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signature {
    pub(super) len: u64,
    pub(super) inode: u64,
    /// Seconds and nanoseconds of the last change of content.
    pub(super) modified: (i64, i64),
    /// The same of the last change of any kind, which no program can set back.
    pub(super) changed: (i64, i64),
}

#[derive(Debug, Default)]
struct File {
    taken: Option<Signature>,
    pending: Option<(Option<Signature>, Instant)>,
}

/// The files that were seen, each with the version that was taken.
#[derive(Debug, Default)]
pub(super) struct Settle {
    files: BTreeMap<PathBuf, File>,
}

impl Settle {
    /// Compares what is there with what was taken. Answers the files that are to be read now (or are gone), and when to look
    /// again. With `at_once` nothing is waited for.
    pub(super) fn observe(
        &mut self,
        seen: &BTreeMap<PathBuf, Signature>,
        now: Instant,
        at_once: bool,
    ) -> (Vec<PathBuf>, Option<Instant>) {
        for path in seen.keys() {
            if !self.files.contains_key(path) {
                self.files.insert(path.clone(), File::default());
            }
        }
        let (mut ready, mut next) = (Vec::new(), None::<Instant>);
        for (path, file) in &mut self.files {
            let current = seen.get(path).copied();
            if current == file.taken {
                file.pending = None;
                continue;
            }
            let since = match file.pending {
                Some((pending, since)) if pending == current => since,
                _ => now,
            };
            file.pending = Some((current, since));
            let due = since + patience(current, file.taken);
            if at_once || now >= due {
                file.taken = current;
                file.pending = None;
                ready.push(path.clone());
            } else {
                next = Some(next.map_or(due, |n| n.min(due)));
            }
        }
        self.files.retain(|path, file| file.taken.is_some() || file.pending.is_some() || seen.contains_key(path));
        (ready, next)
    }

    /// A file could not be read: it is looked at again.
    pub(super) fn forget(&mut self, path: &Path) {
        if let Some(file) = self.files.get_mut(path) {
            file.taken = None;
        }
    }
}

fn patience(current: Option<Signature>, taken: Option<Signature>) -> Duration {
    let held_something = taken.is_some_and(|t| t.len > 0);
    if held_something && current.is_none_or(|c| c.len == 0) { GONE } else { EDITED }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(len: u64, modified: i64) -> Signature {
        Signature { len, inode: 1, modified: (modified, 0), changed: (modified, 0) }
    }

    fn seen(entries: &[(&str, Signature)]) -> BTreeMap<PathBuf, Signature> {
        entries.iter().map(|(p, s)| (PathBuf::from(p), *s)).collect()
    }

    fn paths(result: &(Vec<PathBuf>, Option<Instant>)) -> Vec<&str> {
        result.0.iter().map(|p| p.to_str().unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_taken_when_it_holds_still() {
        let (mut settle, t) = (Settle::default(), Instant::now());
        let first = seen(&[("a", signature(5, 1))]);
        assert_eq!(paths(&settle.observe(&first, t, true)), ["a"]);
        let second = seen(&[("a", signature(6, 2))]);
        let (ready, next) = settle.observe(&second, t, false);
        assert_eq!((ready.len(), next), (0, Some(t + EDITED)));
        let third = seen(&[("a", signature(7, 3))]);
        let later = t + EDITED;
        assert_eq!(settle.observe(&third, later, false), (vec![], Some(later + EDITED)), "changed again");
        assert_eq!(paths(&settle.observe(&third, later + EDITED, false)), ["a"]);
        assert_eq!(settle.observe(&third, later + EDITED, false), (vec![], None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_rewritten_is_never_seen_empty() {
        let (mut settle, t) = (Settle::default(), Instant::now());
        let _ = settle.observe(&seen(&[("a", signature(5, 1))]), t, true);
        for (what, state) in [("truncated", seen(&[("a", signature(0, 2))])), ("gone", seen(&[]))] {
            let (ready, next) = settle.observe(&state, t + EDITED, false);
            assert_eq!((ready.len(), next), (0, Some(t + EDITED + GONE)), "{what}");
            let back = seen(&[("a", signature(5, 1))]);
            assert_eq!(settle.observe(&back, t + EDITED * 2, false), (vec![], None), "{what}");
        }
        let empty = seen(&[]);
        let _ = settle.observe(&empty, t, false);
        assert_eq!(paths(&settle.observe(&empty, t + GONE, false)), ["a"], "really gone");
        assert_eq!(settle.observe(&empty, t + GONE * 2, false), (vec![], None));
    }
}
