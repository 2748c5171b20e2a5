//! A connection with the application that the kernel accelerates (`crates/capture/bpf/accelerate.bpf.c`): the two things in which it
//! is not like TCP, so that the application need not know of them.
//!
//! - When the application is slow to read, sending does not wait: after much was sent, it is asked how much is unread.
//! - When this sidecar is slow to read, what follows comes by TCP. Then a read may end where the one queue does, with more in the
//!   other, of which nobody tells anew: after much was read, only a read of nothing means that there is nothing.

use lateen_capture::socket::unread_by_application;
use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// Half of what may wait to be read (`LIMIT` in the programs): less than that cannot have made TCP take over, and after so much
/// it is asked what the application has read.
const MUCH: usize = 128 * 1024;

/// What may wait to be read by the application.
const LIMIT: usize = 2 * MUCH;

/// How soon it is asked again; doubles up to the second of these.
const ASK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));

/// What is known of such a connection.
#[derive(Debug)]
pub(crate) struct Accelerated {
    /// Bytes that were read since there was nothing to read.
    read: usize,
    /// Bytes that were sent since it was asked what is unread.
    sent: usize,
    ask_after: Duration,
    asking: Option<Pin<Box<Sleep>>>,
}

impl Default for Accelerated {
    fn default() -> Self {
        Self { read: 0, sent: 0, ask_after: ASK.0, asking: None }
    }
}

impl Accelerated {
    /// Reads what there is, in either place.
    pub(crate) fn poll_read(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        if let Poll::Ready(result) = Pin::new(&mut *tcp).poll_read(cx, buf) {
            let read = room - buf.remaining();
            self.read = self.read.saturating_add(read);
            if read < room && self.read < MUCH {
                self.read = 0;
            }
            return Poll::Ready(result);
        }
        if self.read < MUCH {
            return Poll::Pending;
        }
        // Whoever waits is told of what comes from now on; this is for what is there already.
        match (&*socket2::SockRef::from(&*tcp)).read(buf.initialize_unfilled()) {
            Ok(read) => {
                buf.advance(read);
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.read = 0;
                Poll::Pending
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Writes by `write`, now or when the application has read.
    pub(crate) fn poll_write(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(tcp, cx));
        let result = ready!(write(Pin::new(tcp), cx));
        self.sent = self.sent.saturating_add(*result.as_ref().unwrap_or(&0));
        Poll::Ready(result)
    }

    /// Waits until the application has not too much to read.
    fn poll_room(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        while self.sent >= MUCH {
            if let Some(asking) = &mut self.asking {
                ready!(asking.as_mut().poll(cx));
                self.asking = None;
            }
            // Where nobody answers, the connection is TCP's again.
            if unread_by_application(tcp).is_ok_and(|unread| unread >= LIMIT) {
                self.asking = Some(Box::pin(sleep(self.ask_after)));
                self.ask_after = (self.ask_after * 2).min(ASK.1);
            } else {
                (self.sent, self.ask_after) = (0, ASK.0);
            }
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::MUCH;
    use crate::stream::Tcp;
    use std::io;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::time::timeout;

    /// What is sent; the kernel's default limits let so much wait.
    const ALL: usize = MUCH + 16 * 1024;

    /// Reads `first` bytes, then makes the stream believe that there is nothing more: how many more come.
    async fn rest_after(first: usize, accelerated: bool) -> usize {
        let listener = TcpSocket::new_v4().unwrap();
        listener.set_recv_buffer_size(4 * u32::try_from(ALL).unwrap()).unwrap();
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = listener.listen(1).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        client.write_all(&vec![7; ALL]).await.unwrap();
        // All is there, and the driver has told all that there is to tell.
        let rest = || tokio::time::sleep(Duration::from_millis(50));
        rest().await;
        let mut tcp = Tcp::new(server).accelerated(accelerated);
        let mut buffer = vec![0; ALL];
        tcp.read_exact(&mut buffer[..first]).await.unwrap();
        rest().await;
        let nothing = tcp.inner().try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        assert_eq!(nothing.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut found = 0;
        while let Ok(Ok(n)) = timeout(Duration::from_millis(200), tcp.read(&mut buffer)).await {
            found += n;
        }
        found
    }

    #[tokio::test]
    async fn after_much_was_read_what_nobody_tells_of_is_found() {
        assert_eq!(rest_after(MUCH, true).await, ALL - MUCH);
        // Both as tokio has it: it costs a system call to look.
        assert_eq!(rest_after(MUCH, false).await, 0);
        assert_eq!(rest_after(MUCH / 2, true).await, 0);
    }
}
