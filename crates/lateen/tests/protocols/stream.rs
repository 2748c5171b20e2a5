//! TCP connections of pods, held by a test: `lateen echo tcp` runs in the pod, its standard input and output are here.

use std::io;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Lines, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long a test waits for anything; what takes longer has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A connection for libraries: ends as a whole.
pub(crate) struct Stream {
    _child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Stream {
    pub(crate) fn start(command: std::process::Command) -> Self {
        let mut command = Command::from(command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { _child: child, input, output }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.input).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_shutdown(cx)
    }
}

/// A connection whose directions end one by one.
pub(crate) struct Wire {
    what: String,
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    notes: Lines<BufReader<ChildStderr>>,
    /// Received and not asked for yet.
    buffer: Vec<u8>,
    received: u64,
    /// How much the peer had sent when it ended its direction.
    ended: Option<u64>,
    complaints: String,
}

impl Wire {
    pub(crate) fn start(command: std::process::Command, what: &str) -> Self {
        let mut command = Command::from(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        Self {
            what: what.to_owned(),
            input: child.stdin.take(),
            output: child.stdout.take().unwrap(),
            notes: BufReader::new(child.stderr.take().unwrap()).lines(),
            child,
            buffer: Vec::new(),
            received: 0,
            ended: None,
            complaints: String::new(),
        }
    }

    /// Waits until a connection can come.
    pub(crate) async fn listening(&mut self) {
        let note = timeout(LIMIT, self.notes.next_line()).await.expect("listens in time").unwrap();
        assert!(note.as_deref().is_some_and(|n| n.starts_with("listening ")), "{}: {note:?}", self.what);
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let input = self.input.as_mut().expect("this direction has not been ended");
        let sent = timeout(LIMIT, input.write_all(bytes.as_ref())).await;
        sent.unwrap_or_else(|_| panic!("{}: nobody reads", self.what)).unwrap();
    }

    /// Sends, however long the peer takes to read.
    pub(crate) async fn send_at_leisure(&mut self, bytes: &[u8]) {
        self.input.as_mut().expect("this direction has not been ended").write_all(bytes).await.unwrap();
    }

    /// Ends our direction.
    pub(crate) fn finish(&mut self) {
        self.input = None;
    }

    /// What comes, up to and with this text.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end.as_bytes()) {
                let text: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                return String::from_utf8_lossy(&text).into_owned();
            }
            let more = self.fill().await;
            assert!(more, "{} ended before {end:?}: {:?}{}", self.what, String::from_utf8_lossy(&self.buffer), self.complaints);
        }
    }

    /// Reads so many bytes and forgets them.
    pub(crate) async fn skip(&mut self, count: u64) {
        let mut left = usize::try_from(count).unwrap();
        loop {
            let taken = left.min(self.buffer.len());
            self.buffer.drain(..taken);
            left -= taken;
            if left == 0 {
                return;
            }
            assert!(self.fill().await, "{} ended {left} bytes early: {}", self.what, self.complaints);
        }
    }

    /// All that comes until the peer ends its direction, by a proper end.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        assert_eq!(self.complaints, "", "{}", self.what);
        std::mem::take(&mut self.buffer)
    }

    /// All that comes until the connection is over, by whatever end.
    pub(crate) async fn try_rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the peer has cut the connection: nothing more comes, and whether by an end or by a reset does not matter.
    pub(crate) async fn is_cut(&mut self) -> bool {
        self.try_rest().await.is_empty()
    }

    /// Waits until both directions are over.
    pub(crate) async fn over(mut self) -> ExitStatus {
        self.finish();
        while self.fill().await {}
        timeout(LIMIT, self.child.wait()).await.unwrap_or_else(|_| panic!("{} does not end", self.what)).unwrap()
    }

    /// Reads some more; false at the end.
    async fn fill(&mut self) -> bool {
        let reading = async {
            let mut notes_end = false;
            while self.ended != Some(self.received) {
                tokio::select! {
                    biased;
                    read = self.output.read_buf(&mut self.buffer) => {
                        let read = read.unwrap();
                        self.received += read as u64;
                        if read == 0 {
                            // The process has ended; what it complained of is still to be read.
                            while let Ok(Some(line)) = self.notes.next_line().await {
                                note(&line, &mut self.ended, &mut self.complaints);
                            }
                        }
                        return read > 0;
                    }
                    line = self.notes.next_line(), if !notes_end => match line.unwrap() {
                        Some(line) => note(&line, &mut self.ended, &mut self.complaints),
                        None => notes_end = true,
                    },
                }
            }
            false
        };
        timeout(LIMIT, reading).await.unwrap_or_else(|_| panic!("{}: nothing comes", self.what))
    }
}

fn note(line: &str, ended: &mut Option<u64>, complaints: &mut String) {
    match line.strip_prefix("ended ") {
        Some(bytes) => *ended = Some(bytes.parse().unwrap()),
        None => complaints.push_str(line),
    }
}
