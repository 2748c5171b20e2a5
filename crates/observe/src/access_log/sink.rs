//! The way from a worker to the file: the worker appends to a buffer of its own, a thread of the log's takes the buffers
//! away and writes them. A full disk or a reader that has stopped costs lines, which are counted, and never a request.

use super::format::LogFormat;
use super::record::LogRecord;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a line may stay in a buffer.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// A buffer of this size is written at once.
const FLUSH_SIZE: usize = 64 * 1024;
/// A buffer never grows beyond this.
const MAX_BUFFER: usize = 1024 * 1024;
/// Lines that may wait while their worker's buffer is being taken away.
const MAX_STRAY_LINES: usize = 1024;
/// A write error is told at most so often.
const ERROR_INTERVAL: Duration = Duration::from_secs(60);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The process's standard output (`/dev/stdout`).
    Stdout,
    /// The process's standard error (`/dev/stderr`).
    Stderr,
    /// A file, appended to and created if need be.
    File(PathBuf),
}

impl Target {
    /// The target of MeshConfig's `accessLogFile`. The two devices are used through the streams that the process has,
    /// because they cannot be opened by name when they are sockets.
    pub fn from_path(path: &Path) -> Self {
        match path.to_str() {
            Some("/dev/stdout") => Self::Stdout,
            Some("/dev/stderr") => Self::Stderr,
            _ => Self::File(path.to_owned()),
        }
    }

    fn open(&self) -> io::Result<Output> {
        Ok(match self {
            Self::Stdout => Output::Stdout,
            Self::Stderr => Output::Stderr,
            Self::File(path) => Output::File(OpenOptions::new().append(true).create(true).open(path)?),
        })
    }
}

enum Output {
    Stdout,
    Stderr,
    File(File),
}

impl Output {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::Stderr => io::stderr().lock().write_all(bytes),
            Self::File(file) => file.write_all(bytes),
        }
    }
}

struct Shared {
    format: LogFormat,
    target: Target,
    buffers: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    ended: AtomicBool,
    reopen: AtomicBool,
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// An open access log. Dropping it, or [`close`](Self::close), writes what is buffered.
pub struct AccessLog {
    shared: Arc<Shared>,
    strays: SyncSender<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// Opens the target and starts the log's thread.
    pub fn open(target: Target, format: LogFormat) -> io::Result<Self> {
        let output = target.open()?;
        let shared = Arc::new(Shared {
            format,
            target,
            buffers: Mutex::default(),
            ended: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let (strays, stray_lines) = sync_channel(MAX_STRAY_LINES);
        let writer = Flusher { shared: Arc::clone(&shared), output, stray_lines, told: None };
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || writer.run())?;
        Ok(Self { shared, strays, thread: Some(thread) })
    }

    /// A worker's way into the log.
    pub fn writer(&self) -> LogWriter {
        let buffer = Arc::new(Mutex::new(Vec::new()));
        lock(&self.shared.buffers).push(Arc::clone(&buffer));
        LogWriter {
            shared: Arc::clone(&self.shared),
            buffer,
            strays: self.strays.clone(),
            thread: self.thread.as_ref().map(|thread| thread.thread().clone()),
            line: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Lines that went to the target.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Lines lost because the target did not take them in time.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Lines lost because writing failed.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Opens the file anew, after it has been rotated away.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.wake();
    }

    /// Writes what is buffered and ends, within about the time given; false if the target did not take it by then.
    pub fn close(mut self, limit: Duration) -> bool {
        self.end(limit)
    }

    fn end(&mut self, limit: Duration) -> bool {
        let Some(thread) = self.thread.take() else { return true };
        self.shared.ended.store(true, Ordering::Release);
        thread.thread().unpark();
        let deadline = Instant::now() + limit;
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        thread.join().is_ok()
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.end(Duration::from_secs(1));
    }
}

/// One worker's way into an [`AccessLog`].
pub struct LogWriter {
    shared: Arc<Shared>,
    buffer: Arc<Mutex<Vec<u8>>>,
    strays: SyncSender<Vec<u8>>,
    thread: Option<std::thread::Thread>,
    line: Vec<u8>,
    scratch: Vec<u8>,
}

impl LogWriter {
    /// Writes one line into the worker's buffer; never waits.
    pub fn log(&mut self, record: &LogRecord<'_>) {
        self.line.clear();
        self.shared.format.write(record, &mut self.line, &mut self.scratch);
        let mut buffer = match self.buffer.try_lock() {
            Ok(buffer) => buffer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return self.stray(),
        };
        if buffer.len() + self.line.len() > MAX_BUFFER {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let below = buffer.len() < FLUSH_SIZE;
        buffer.extend_from_slice(&self.line);
        let reached = below && buffer.len() >= FLUSH_SIZE;
        drop(buffer);
        if reached && let Some(thread) = &self.thread {
            thread.unpark();
        }
    }

    /// The buffer is being taken away at this moment: the line goes by itself.
    fn stray(&self) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.strays.try_send(self.line.clone()) {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The log's thread.
struct Flusher {
    shared: Arc<Shared>,
    output: Output,
    stray_lines: Receiver<Vec<u8>>,
    told: Option<Instant>,
}

impl Flusher {
    fn run(mut self) {
        let mut taken = Vec::new();
        loop {
            let last = self.shared.ended.load(Ordering::Acquire);
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            self.flush(&mut taken);
            if last {
                return;
            }
            std::thread::park_timeout(FLUSH_INTERVAL);
        }
    }

    fn reopen(&mut self) {
        match self.shared.target.open() {
            Ok(output) => self.output = output,
            Err(error) => tracing::warn!(target = ?self.shared.target, %error, "access log: keeping the old file"),
        }
    }

    fn flush(&mut self, taken: &mut Vec<u8>) {
        let buffers: Vec<_> = {
            let mut buffers = lock(&self.shared.buffers);
            // A worker that has ended leaves its last lines behind; its buffer goes once it is empty.
            buffers.retain(|buffer| Arc::strong_count(buffer) > 1 || !lock(buffer).is_empty());
            buffers.clone()
        };
        for buffer in buffers {
            taken.clear();
            std::mem::swap(&mut *lock(&buffer), taken);
            self.write(taken);
        }
        while let Ok(line) = self.stray_lines.try_recv() {
            self.write(&line);
        }
        // An idle proxy holds no large buffers.
        if taken.capacity() > FLUSH_SIZE {
            *taken = Vec::new();
        }
    }

    fn write(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let count = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        let Err(error) = self.output.write_all(lines) else {
            self.shared.written.fetch_add(count, Ordering::Relaxed);
            return;
        };
        self.shared.failed.fetch_add(count, Ordering::Relaxed);
        if self.told.is_none_or(|told| told.elapsed() > ERROR_INTERVAL) {
            self.told = Some(Instant::now());
            tracing::warn!(target = ?self.shared.target, %error, lines = count, "access log: lines are lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AccessLog, Target};
    use crate::access_log::{LogFormat, LogRecord};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    const LIMIT: Duration = Duration::from_secs(10);

    fn format() -> LogFormat {
        LogFormat::text("%BYTES_SENT% %ROUTE_NAME%").expect("valid")
    }

    #[test]
    fn every_workers_lines_arrive_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("access.log");
        let log = AccessLog::open(Target::from_path(&path), format()).expect("opens");
        std::thread::scope(|scope| {
            for worker in ["a", "b", "c"] {
                let mut writer = log.writer();
                scope.spawn(move || {
                    for line in 0..5_000 {
                        let record =
                            LogRecord { bytes_sent: line, route_name: Some(worker), ..LogRecord::new(SystemTime::now()) };
                        writer.log(&record);
                    }
                });
            }
        });
        let shared = std::sync::Arc::clone(&log.shared);
        assert!(log.close(LIMIT));
        let text = std::fs::read_to_string(&path).expect("readable");
        let lost = shared.dropped.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(text.lines().count() as u64 + lost, 15_000);
        assert_eq!(lost, 0, "15,000 short lines fit the buffers");
        for worker in ["a", "b", "c"] {
            let mut numbers: Vec<u64> = text.lines().filter_map(|line| line.strip_suffix(worker)?.trim().parse().ok()).collect();
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..5_000), "{worker}");
        }
    }

    #[test]
    fn a_rotated_file_is_opened_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, old) = (directory.path().join("log"), directory.path().join("log.1"));
        let log = AccessLog::open(Target::File(path.clone()), format()).expect("opens");
        let mut writer = log.writer();
        std::fs::rename(&path, &old).expect("renames");
        log.reopen();
        writer.log(&LogRecord::new(SystemTime::now()));
        drop(writer);
        assert!(log.close(LIMIT));
        assert_eq!(std::fs::read_to_string(&path).expect("opened anew"), "0 -\n");
    }

    #[test]
    fn a_target_that_fails_costs_lines_and_is_counted() {
        let full = Path::new("/dev/full");
        let log = AccessLog::open(Target::from_path(full), format()).expect("opens");
        let mut writer = log.writer();
        for _ in 0..10 {
            writer.log(&LogRecord::new(SystemTime::now()));
        }
        let shared = std::sync::Arc::clone(&log.shared);
        assert!(log.close(LIMIT));
        assert_eq!(shared.failed.load(std::sync::atomic::Ordering::Relaxed), 10);
    }

    #[test]
    fn a_buffer_that_nobody_takes_stops_growing() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = AccessLog::open(Target::File(directory.path().join("log")), format()).expect("opens");
        let mut writer = log.writer();
        writer.buffer = std::sync::Arc::default();
        for _ in 0..400_000 {
            writer.log(&LogRecord::new(SystemTime::now()));
        }
        assert!(super::lock(&writer.buffer).len() <= super::MAX_BUFFER);
        assert!(log.dropped() > 0);
    }

    #[test]
    fn devices_by_their_streams() {
        assert_eq!(Target::from_path(Path::new("/dev/stdout")), Target::Stdout);
        assert_eq!(Target::from_path(Path::new("/dev/stderr")), Target::Stderr);
    }
}
