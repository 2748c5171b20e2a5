//! Manifests in files: named ones, and all `*.yaml`, `*.yml` and `*.json` under named directories.

use super::Input;
use super::settle::{Settle, Signature};
use crate::store::FileContent;
use lateen_model::manifest::{self, Finding, Rejection};
use lateen_model::resource::{FieldPath, Origin};
use notify::{EventKind, RecursiveMode, Watcher};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// How often all files are looked at whatever the kernel reports: some file systems report nothing.
const CHECK: Duration = Duration::from_secs(1);
/// Directories within directories, at most: a link may lead round in a circle.
const MAX_DEPTH: usize = 16;
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// Reads and watches manifests.
pub struct FilesSource {
    paths: Vec<PathBuf>,
    settle: Settle,
    first: bool,
}

impl FilesSource {
    /// A source of these files and directories. They need not exist yet.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, settle: Settle::default(), first: true }
    }

    /// What has changed since the last scan, and when to look again. Blocks on the file system.
    pub fn scan(&mut self, now: Instant) -> (Vec<FileContent>, Option<Instant>) {
        let mut seen = BTreeMap::new();
        for path in &self.paths {
            collect(path, true, MAX_DEPTH, &mut seen);
        }
        let (ready, next) = self.settle.observe(&seen, now, self.first);
        self.first = false;
        let mut contents = Vec::new();
        for path in ready {
            let content = match seen.get(&path) {
                Some(signature) => read(&path, signature.len),
                None => Ok(FileContent { file: display(&path), documents: Vec::new() }),
            };
            contents.push(content.unwrap_or_else(|error| {
                self.settle.forget(&path);
                unreadable(&path, &error)
            }));
        }
        (contents, next)
    }

    /// Sends what changes for as long as somebody listens.
    pub async fn run(mut self, inputs: mpsc::Sender<Input>) {
        let wake = Arc::new(Notify::new());
        let _watcher = watch(&self.paths, &wake);
        let mut first = true;
        loop {
            let scanned = tokio::task::spawn_blocking(move || {
                let result = self.scan(Instant::now());
                (self, result)
            });
            // The scan does not panic; if it did, the source would be gone, and saying so is all that is left.
            let Ok((source, (contents, next))) = scanned.await else {
                tracing::error!("reading manifests failed; changes are no longer seen");
                return;
            };
            self = source;
            if (first || !contents.is_empty()) && inputs.send(Input::Files(contents)).await.is_err() {
                return;
            }
            first = false;
            let until = next.unwrap_or_else(|| Instant::now() + CHECK);
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = wake.notified() => {}
            }
        }
    }
}

fn display(path: &Path) -> Arc<str> {
    path.display().to_string().into()
}

/// Finds manifests. A file that is named itself may have any name; in a directory only the known endings count, and hidden
/// entries do not.
fn collect(path: &Path, named: bool, depth: usize, seen: &mut BTreeMap<PathBuf, Signature>) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    if metadata.is_file() {
        let known = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if named || known {
            let signature = Signature {
                len: metadata.len(),
                inode: metadata.ino(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            };
            seen.insert(path.to_owned(), signature);
        }
        return;
    }
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && depth > 0 {
            collect(&entry.path(), false, depth - 1, seen);
        }
    }
}

fn read(path: &Path, len: u64) -> std::io::Result<FileContent> {
    if len > MAX_FILE {
        let text = format!("it has {len} bytes; at most {MAX_FILE} are read");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, text));
    }
    let bytes = std::fs::read(path)?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let text = format!("it is not UTF-8 text: byte {} is wrong", e.utf8_error().valid_up_to());
        std::io::Error::new(std::io::ErrorKind::InvalidData, text)
    })?;
    let file = display(path);
    Ok(FileContent { documents: manifest::read(&text, &file), file })
}

/// What the file held stays in force.
fn unreadable(path: &Path, error: &std::io::Error) -> FileContent {
    let file = display(path);
    let origin = Origin { file: Arc::clone(&file), line: 1, column: None };
    let finding = Finding { origin: origin.clone(), path: FieldPath::root(), text: format!("cannot read the file: {error}") };
    FileContent { file, documents: vec![Err(Rejection { origin, key: None, problems: vec![finding] })] }
}

/// Wakes the scanner when something changes. Without it (too many watches) the regular check remains.
fn watch(paths: &[PathBuf], wake: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let wake = Arc::clone(wake);
    let on_event = move |event: notify::Result<notify::Event>| {
        // Reading, which the scan does itself, is no change.
        let reading = matches!(&event, Ok(e) if matches!(e.kind, EventKind::Access(kind)
            if kind != notify::event::AccessKind::Close(notify::event::AccessMode::Write)));
        if !reading {
            wake.notify_one();
        }
    };
    let slow = |error: notify::Error| tracing::warn!("cannot watch files, changes are noticed within {CHECK:?}: {error}");
    let mut watcher = notify::recommended_watcher(on_event).map_err(slow).ok()?;
    for path in paths {
        let (place, mode) = if path.is_dir() {
            (path.as_path(), RecursiveMode::Recursive)
        } else {
            // Editors replace files, and a replaced file is another one: its directory is what stays.
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            (parent, RecursiveMode::NonRecursive)
        };
        if let Err(error) = watcher.watch(place, mode) {
            slow(error);
        }
    }
    Some(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: ns}\nspec: {ports: [{port: 80}]}\n";

    #[test]
    fn finds_manifests_and_their_changes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        for (name, text) in [("a.yaml", SERVICE), ("sub/b.json", "{}"), (".hidden.yaml", SERVICE), ("notes.txt", "x")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let mut source = FilesSource::new(vec![dir.path().to_owned()]);
        let now = Instant::now();
        let (contents, _) = source.scan(now);
        let names: Vec<_> = contents.iter().map(|c| c.file.rsplit('/').next().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.yaml", "b.json"]);
        assert!(contents[0].documents[0].is_ok());
        assert!(source.scan(now).0.is_empty(), "nothing changed");

        std::fs::remove_file(dir.path().join("sub/b.json")).unwrap();
        let (contents, next) = source.scan(now);
        assert!(contents.is_empty(), "it may be on its way back");
        let (contents, _) = source.scan(next.unwrap());
        assert_eq!(contents.len(), 1);
        assert!(contents[0].documents.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.yaml");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        let (contents, _) = FilesSource::new(vec![path]).scan(Instant::now());
        let Err(rejection) = &contents[0].documents[0] else { panic!() };
        assert!(rejection.to_string().contains("not UTF-8"), "{rejection}");
        assert!(rejection.to_string().contains("x.yaml"), "{rejection}");
    }
}
