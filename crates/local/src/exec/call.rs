//! The caller's side of `exec`.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use lateen_capture::fdpass::send_with_fds;
use lateen_capture::terminal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{Failure, MAX_REQUEST, Outcome, Request, Say};
use crate::state_dir::StateDir;

/// Runs a command; returns its exit status.
///
/// At a terminal the command gets one of its own, so that line editing, Ctrl-C and job control are as anywhere. Otherwise
/// it gets this process's descriptors themselves.
pub(crate) async fn call(dir: &StateDir, mut request: Request) -> Result<i32, Failure> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let own = [stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()];
    if !(stdin.is_terminal() && stdout.is_terminal()) {
        request.terminal = false;
        return converse(send(dir, &request, own).await?, None).await;
    }
    request.terminal = true;
    let no_terminal = |e: io::Error| Failure::from(format!("no terminal for the command: {e}"));
    let pair = terminal::open(stdin.as_fd()).map_err(no_terminal)?;
    let theirs = pair.theirs.as_raw_fd();
    // An error output that goes elsewhere still does.
    let stream = send(dir, &request, [theirs, theirs, if stderr.is_terminal() { theirs } else { own[2] }]).await?;
    drop(pair.theirs);
    let raw = terminal::raw(stdin.as_fd()).map_err(no_terminal)?;
    let shown = carry(&pair.ours).map_err(no_terminal)?;
    let outcome = converse(stream, Some((stdin.as_fd(), pair.ours.as_fd()))).await;
    // What the command has written last; its terminal ends with it.
    let _ = shown.recv_timeout(Duration::from_secs(1));
    drop(raw);
    outcome
}

async fn send(dir: &StateDir, request: &Request, fds: [RawFd; 3]) -> Result<UnixStream, Failure> {
    let failed = |e: io::Error| Failure::from(format!("the mesh does not answer: {e}"));
    let mut text = serde_json::to_vec(request).map_err(|e| e.to_string())?;
    text.push(b'\n');
    if text.len() > MAX_REQUEST {
        return Err(format!("the command is longer than {MAX_REQUEST} bytes").into());
    }
    let mut stream = UnixStream::connect(dir.exec_socket()).await.map_err(failed)?;
    // The descriptors go with the first byte, the rest follows like any other data.
    stream.async_io(Interest::WRITABLE, || send_with_fds(&stream, &text[..1], &fds)).await.map_err(failed)?;
    stream.write_all(&text[1..]).await.map_err(failed)?;
    Ok(stream)
}

/// Carries bytes between this terminal and the command's until the latter ends, which the answer tells.
fn carry(ours: &OwnedFd) -> io::Result<Receiver<()>> {
    let (mut keyboard, mut screen) = (File::from(ours.try_clone()?), File::from(ours.try_clone()?));
    let (ended, end) = channel();
    // Threads of this process, not tasks: a read from a terminal cannot be given up, and must not hold the exit back.
    std::thread::Builder::new().name("keyboard".to_owned()).spawn(move || pass_on(&mut io::stdin(), &mut keyboard))?;
    std::thread::Builder::new().name("screen".to_owned()).spawn(move || {
        pass_on(&mut screen, &mut io::stdout());
        let _ = ended.send(());
    })?;
    Ok(end)
}

fn pass_on(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                if to.write_all(&buffer[..len]).and_then(|()| to.flush()).is_err() {
                    return;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // EIO: nobody has the other end open any more.
            Err(_) => return,
        }
    }
}

/// Passes signals on until the command has ended; `terminals` are this one and our end of the command's.
async fn converse(mut stream: UnixStream, terminals: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>) -> Result<i32, Failure> {
    let failed = |e: io::Error| Failure::from(format!("the mesh does not answer: {e}"));
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    let mut signals = forwarded().map_err(|e| format!("cannot listen for signals: {e}"))?;
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let line = line.map_err(failed)?.ok_or_else(|| "the mesh ended".to_owned())?;
                return match serde_json::from_str(&line) {
                    Ok(Outcome::Exit(code)) => Ok(code),
                    Ok(Outcome::Error(failure)) => Err(failure),
                    Err(e) => Err(format!("unexpected answer: {e}").into()),
                };
            }
            Some(number) = signals.recv() => match terminals {
                Some((from, to)) if number == SignalKind::window_change().as_raw_value() => {
                    let _ = terminal::copy_size(from, to);
                }
                _ => {
                    let mut line = serde_json::to_vec(&Say { signal: number }).map_err(|e| e.to_string())?;
                    line.push(b'\n');
                    writer.write_all(&line).await.map_err(failed)?;
                }
            }
        }
    }
}

/// The numbers of signals that this process gets from now on.
fn forwarded() -> io::Result<mpsc::UnboundedReceiver<i32>> {
    let (tell, signals) = mpsc::unbounded_channel();
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::quit(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
        SignalKind::window_change(),
    ];
    for kind in kinds {
        let mut stream = signal(kind)?;
        let tell = tell.clone();
        tokio::spawn(async move { while stream.recv().await.is_some() && tell.send(kind.as_raw_value()).is_ok() {} });
    }
    Ok(signals)
}
