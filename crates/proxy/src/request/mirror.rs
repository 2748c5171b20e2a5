//! Copies of requests (`RequestMirrorPolicy`): each is an exchange of its own, whose answer nobody sees and whose failure hurts
//! nobody.

use super::RequestContext;
use super::forward::Plan;
use super::info::RequestInfo;
use crate::http::{BodyWriter, ClientExchange, Frame, Head, KnownHeader, ResetReason, ResponseReader};
use crate::stream::Stream;
use crate::upstream::{self, Asked, Cluster, Purpose};
use crate::worker::Worker;
use lateen_model::dataplane::{self, Discovery};
use lateen_policy::balance::Avoid;
use lateen_policy::route::Action;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Frames of the body that may wait for a copy that is slower than the request; then the copy is given up.
const MAX_WAITING: usize = 256;

/// The longest a copy may take, where its route sets no timeout.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Where a copy's body goes.
#[derive(Debug)]
pub(crate) struct Copy {
    /// `None` when the copy was given up.
    frames: Option<mpsc::Sender<Option<Frame>>>,
}

impl Copy {
    /// Gives the copy a frame; `None` is the body's end.
    pub(crate) fn pass(&mut self, frame: Option<Frame>) {
        if let Some(frames) = &self.frames
            && frames.try_send(frame).is_err()
        {
            self.frames = None;
        }
    }
}

/// Starts the copies that the route asks for and the dice allow.
pub(crate) fn start(ctx: &RequestContext<'_>, plan: &Plan, head: &Head, info: &RequestInfo, bodiless: bool) -> Vec<Copy> {
    let Action::Forward(forward) = plan.route.action() else { return Vec::new() };
    let mirrors = &forward.model().mirrors;
    let chosen = mirrors.iter().filter(|m| m.share == dataplane::Share::ALL || m.share.takes(ctx.worker.random()));
    chosen.filter_map(|mirror| start_one(ctx, plan, mirror, head, info, bodiless)).collect()
}

fn start_one(
    ctx: &RequestContext<'_>,
    plan: &Plan,
    mirror: &dataplane::Mirror,
    head: &Head,
    info: &RequestInfo,
    bodiless: bool,
) -> Option<Copy> {
    let cluster = ctx.snapshot.cluster(&mirror.cluster)?.clone();
    let mut head = head.clone();
    ctx.worker.telemetry.inject_untraced(info, &mut head);
    head.remove(KnownHeader::Expect);
    if !mirror.keep_host
        && let Some(authority) = head.authority()
    {
        let shadow = shadow_host(authority);
        head.set_authority(&shadow).ok()?;
    }
    let (sender, frames) = mpsc::channel(MAX_WAITING);
    let exchange = Exchange {
        purpose: Purpose::of_request(&cluster.config.http.protocol, info.protocol, ctx.hcm.istio_alpn),
        worker: ctx.worker.clone(),
        cluster,
        destination: ctx.connection.destination,
        head,
        frames: if bodiless { None } else { Some(frames) },
    };
    let limit = plan.global_timeout().unwrap_or(TIMEOUT);
    tokio::task::spawn_local(async move {
        let cluster = exchange.cluster.name.clone();
        if tokio::time::timeout(limit, exchange.run()).await.ok().flatten().is_none() {
            tracing::debug!(%cluster, "a mirrored request failed");
        }
    });
    Some(Copy { frames: (!bodiless).then_some(sender) })
}

/// `-shadow` is put behind the name, before a port.
fn shadow_host(authority: &str) -> String {
    match authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
        Some((host, port)) => format!("{host}-shadow:{port}"),
        None => format!("{authority}-shadow"),
    }
}

/// One copy on its way.
struct Exchange {
    worker: Rc<Worker>,
    cluster: Arc<Cluster>,
    purpose: Purpose,
    destination: SocketAddr,
    head: Head,
    /// The body; `None` if there is none.
    frames: Option<mpsc::Receiver<Option<Frame>>>,
}

impl Exchange {
    /// `None` if it failed, wherever that was.
    async fn run(self) -> Option<()> {
        let host = match &self.cluster.config.discovery {
            Discovery::OriginalDst { port_override } => upstream::original_destination(self.destination, *port_override),
            _ => self.worker.pools.pick(&self.worker, &self.cluster, Avoid::NOTHING, |_| false)?,
        };
        let asked = Asked::of_request(&self.cluster, self.purpose, self.head.authority().unwrap_or_default());
        let mut lease = self.worker.pools.lease(&self.worker, &self.cluster, host, asked).await.ok()?;
        let ClientExchange { writer, response } = lease.send(&self.head, self.frames.is_none()).await.ok()?;
        let (sent, received) = tokio::join!(send(writer, self.frames), discard(response, &self.cluster));
        sent.and(received)?;
        lease.finish();
        Some(())
    }
}

async fn send(mut writer: BodyWriter<Stream>, frames: Option<mpsc::Receiver<Option<Frame>>>) -> Option<()> {
    let Some(mut frames) = frames else { return writer.finish().await.ok() };
    loop {
        let frame = match frames.try_recv() {
            Ok(frame) => Some(frame),
            Err(_) => {
                writer.flush().await.ok()?;
                frames.recv().await
            }
        };
        match frame {
            Some(Some(frame)) => writer.write(frame).await.ok()?,
            Some(None) => return writer.finish().await.ok(),
            // The request itself was broken off, or is too fast for its copy.
            None => {
                writer.reset(ResetReason::Cancel);
                return None;
            }
        }
    }
}

async fn discard(mut response: ResponseReader<Stream>, cluster: &Cluster) -> Option<()> {
    loop {
        let head = response.head().await.ok()?;
        if !head.is_interim() {
            cluster.stats.answers.inc(head.status());
            break;
        }
    }
    let mut body = response.into_body().ok()?;
    while body.next().await.ok()?.is_some() {}
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shadow_keeps_its_port() {
        for (authority, expected) in [("a.b:80", "a.b-shadow:80"), ("a.b", "a.b-shadow"), ("a:b", "a:b-shadow")] {
            assert_eq!(shadow_host(authority), expected);
        }
    }

    #[test]
    fn a_copy_that_cannot_keep_up_is_given_up_and_nothing_waits_for_it() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut copy = Copy { frames: Some(sender) };
        copy.pass(Some(Frame::Data("a".into())));
        copy.pass(Some(Frame::Data("b".into())));
        assert!(copy.frames.is_none());
        assert!(matches!(receiver.try_recv(), Ok(Some(Frame::Data(_)))));
        assert!(matches!(receiver.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
    }
}
