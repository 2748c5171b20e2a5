//! Sends a response: its head, changed as the route asks, then its body while the rest of the request still goes up.

use super::forward::{Answered, Clock, Plan};
use super::info::RequestInfo;
use super::reply::LocalReply;
use super::transfer::{Transfer, TransferError};
use super::{RequestContext, apply_ops, view};
use crate::config::{CompiledHttpFilter, Hcm};
use crate::http::{Head, KnownHeader, ResetReason, Responder, StreamError, Value};
use crate::stream::Stream;
use lateen_model::dataplane::Direction;
use lateen_observe::ResponseFlag;
use lateen_policy::cors;
use lateen_policy::route::Action;
use lateen_policy::template::HeadersMut;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// How a relayed response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    /// The client left an open tunnel.
    Left,
    /// The upstream closed its connection.
    Upstream,
    /// The upstream reset the stream.
    UpstreamReset,
    /// What the upstream sent is not a whole message.
    BadResponse,
    Downstream,
    /// The client broke the protocol within its body.
    BadRequest,
    OutOfTime,
    Idle,
}

impl End {
    /// A response that ends early is half a message in HTTP/1, where a connection has no other.
    fn of_upstream(error: StreamError, http1: bool) -> Self {
        match error {
            StreamError::Malformed(_) | StreamError::Length | StreamError::HeadTooLarge => Self::BadResponse,
            StreamError::Reset(ResetReason::Protocol) => Self::BadResponse,
            StreamError::Reset(_) => Self::UpstreamReset,
            StreamError::Closed | StreamError::Io(_) if http1 => Self::BadResponse,
            StreamError::Closed | StreamError::Io(_) => Self::Upstream,
        }
    }
}

/// What is left of a request when its response has come.
pub(crate) struct Way<'a> {
    /// The rest of its body.
    pub(crate) upload: &'a mut Transfer,
    pub(crate) clock: &'a mut Clock,
    pub(crate) responder: Responder<Stream>,
}

/// Sends the upstream's response on.
pub(crate) async fn relay(
    ctx: &RequestContext<'_>,
    request: &Head,
    info: &mut RequestInfo,
    plan: &Plan,
    answered: Box<Answered>,
    way: Way<'_>,
) {
    let Answered { mut head, reader, lease } = *answered;
    let Way { upload, clock, responder } = way;
    upload.forget();
    let tunnel = plan.tunnel && (head.status() == 101 || (request.is_connect() && (200..300).contains(&head.status())));
    prepare_head(ctx, request, &mut head, info, plan);
    info.response_code = head.status();
    info.response_head_bytes = head.byte_size() as u64;
    info.note_grpc_status(&head);
    let Ok(body) = reader.into_body() else {
        return Box::pin(LocalReply::upstream_protocol_error().send(ctx, request, responder, info)).await;
    };
    let mut download = Transfer::new(body, false, info.grpc);
    let end = download.is_empty() && !tunnel;
    let sent = responder.send_response(&head, end);
    info.response_head = Some(head);
    let result = match sent {
        Ok(writer) => {
            download.attach(writer);
            if tunnel {
                // A tunnel lasts as long as it lasts.
                clock.deadline = None;
            }
            run(upload, &mut download, clock, tunnel, idle_timeout(ctx, plan)).await
        }
        Err(_) => End::Downstream,
    };
    info.request_body_bytes = upload.bytes();
    info.response_body_bytes = download.bytes();
    info.request_messages = upload.messages();
    info.request_sent = upload.finished_at();
    info.response_messages = download.messages();
    if let Some(trailers) = download.take_trailers() {
        info.note_grpc_status(&trailers);
        info.response_trailers = Some(trailers);
    }
    conclude(info, result, &mut download);
    let whole = result == End::Whole && upload.is_finished();
    upload.release();
    drop(download);
    if whole {
        lease.finish();
    }
}

/// Both ways until the response is whole; a tunnel lasts until both ways have ended.
async fn run(upload: &mut Transfer, download: &mut Transfer, clock: &mut Clock, tunnel: bool, idle: Option<Duration>) -> End {
    let mut quiet = idle.map(Quiet::new);
    let mut upload_failed = false;
    let mut left = false;
    poll_fn(|cx| {
        if !upload_failed && let Poll::Ready(Err(error)) = upload.poll(cx) {
            // An upstream that answers early may stop reading; a client that fails has gone.
            match error {
                TransferError::Read(StreamError::Malformed(_) | StreamError::Length | StreamError::HeadTooLarge) => {
                    return Poll::Ready(End::BadRequest);
                }
                TransferError::Read(_) => return Poll::Ready(End::Downstream),
                TransferError::Write(_) => upload_failed = true,
            }
        }
        match download.poll(cx) {
            Poll::Ready(Ok(())) if left => return Poll::Ready(End::Left),
            Poll::Ready(Ok(())) if !tunnel || upload_failed || upload.is_finished() => return Poll::Ready(End::Whole),
            // Its server is given the time to say goodbye, but it was the client who ended the tunnel.
            Poll::Pending => left |= tunnel && upload.is_http1() && upload.read_all(),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(TransferError::Read(error))) => return Poll::Ready(End::of_upstream(error, download.is_http1())),
            Poll::Ready(Err(TransferError::Write(_))) => return Poll::Ready(End::Downstream),
        }
        if clock.poll(cx).is_ready() {
            return Poll::Ready(End::OutOfTime);
        }
        // While the upstream takes its time, the client may leave.
        if !tunnel && upload.read_all() && download.poll_peer_gone(cx).is_ready() {
            return Poll::Ready(End::Downstream);
        }
        let moved = upload.bytes() + download.bytes();
        quiet.as_mut().map_or(Poll::Pending, |quiet| quiet.poll(cx, moved)).map(|()| End::Idle)
    })
    .await
}

/// For how long nothing has moved. Most responses never wait, and need no timer.
struct Quiet {
    limit: Duration,
    moved: u64,
    timer: Option<(Pin<Box<Sleep>>, Instant)>,
}

impl Quiet {
    fn new(limit: Duration) -> Self {
        Self { limit, moved: 0, timer: None }
    }

    /// Ready when nothing more than `moved` bytes has moved for so long. The timer is left running while bytes move, and looked at
    /// again only when it goes off.
    fn poll(&mut self, cx: &mut Context<'_>, moved: u64) -> Poll<()> {
        let limit = self.limit;
        let (timer, since) = self.timer.get_or_insert_with(|| (Box::pin(tokio::time::sleep(limit)), Instant::now()));
        if moved != self.moved {
            self.moved = moved;
            *since = Instant::now();
        }
        while timer.as_mut().poll(cx).is_ready() {
            let until = *since + limit;
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    }
}

/// The route's idle timeout, else the connection manager's; zero is none, and Envoy's default is 5 minutes.
fn idle_timeout(ctx: &RequestContext<'_>, plan: &Plan) -> Option<Duration> {
    let of_route = match plan.route.action() {
        Action::Forward(forward) => forward.model().idle_timeout,
        Action::Redirect(_) | Action::DirectResponse(_) => None,
    };
    let idle = of_route.or(ctx.hcm.model.stream_idle_timeout).unwrap_or(Duration::from_secs(300));
    (!idle.is_zero()).then_some(idle)
}

/// Notes how it ended, and lets the client see when the response is not whole.
fn conclude(info: &mut RequestInfo, end: End, download: &mut Transfer) {
    match end {
        End::Whole => return,
        End::Left => {
            info.flags.insert(ResponseFlag::DownstreamConnectionTermination);
            info.details = "downstream_remote_disconnect".into();
            return;
        }
        End::UpstreamReset => {
            info.flags.insert(ResponseFlag::UpstreamRemoteReset);
            info.details = "upstream_reset_after_response_started{remote_reset}".into();
        }
        End::BadResponse => {
            info.flags.insert(ResponseFlag::UpstreamProtocolError);
            info.details = "upstream_reset_after_response_started{protocol_error}".into();
        }
        End::Upstream => {
            info.flags.insert(ResponseFlag::UpstreamConnectionTermination);
            info.details = "upstream_reset_after_response_started{connection_termination}".into();
        }
        End::Downstream => {
            info.flags.insert(ResponseFlag::DownstreamConnectionTermination);
            info.details = "downstream_remote_disconnect".into();
        }
        End::BadRequest => {
            info.flags.insert(ResponseFlag::DownstreamProtocolError);
            info.details = "http1.codec_error".into();
        }
        End::OutOfTime => {
            info.flags.insert(ResponseFlag::UpstreamRequestTimeout);
            info.details = "response_timeout".into();
            info.cluster.iter().for_each(|cluster| cluster.stats.upstream_rq_timeout.inc());
        }
        End::Idle => {
            info.flags.insert(ResponseFlag::StreamIdleTimeout);
            info.details = "stream_idle_timeout".into();
        }
    }
    download.reset(ResetReason::Internal);
}

/// The response's head as the client gets it.
fn prepare_head(ctx: &RequestContext<'_>, request: &Head, head: &mut Head, info: &mut RequestInfo, plan: &Plan) {
    let outbound = ctx.direction == Direction::Outbound;
    if outbound {
        let principal =
            info.upstream.as_ref().and_then(|u| u.tls.as_ref()).and_then(|t| t.spiffe()).map(|id| id.as_uri().to_owned());
        info.peer = ctx.worker.telemetry.peer_of_headers(head, principal.as_deref());
    }
    head.remove(KnownHeader::XEnvoyPeerMetadata);
    head.remove(KnownHeader::XEnvoyPeerMetadataId);
    // The time of a tunnel is its client's, too.
    if head.status() == 101 {
        head.remove(KnownHeader::XEnvoyUpstreamServiceTime);
    } else {
        let milliseconds = info.request_complete.unwrap_or(info.started).elapsed().as_millis();
        head.set_number(KnownHeader::XEnvoyUpstreamServiceTime, u64::try_from(milliseconds).unwrap_or(u64::MAX));
    }
    apply_route(ctx, request, head, info);
    for cookie in plan.set_cookies.iter().filter_map(|c| Value::new(c.as_bytes()).ok()) {
        head.append(KnownHeader::SetCookie, cookie);
    }
    finish_head(ctx, head, info);
}

/// The route's changes to responses, those of the proxy's own too: the chosen cluster's first.
pub(crate) fn apply_route(ctx: &RequestContext<'_>, request: &Head, head: &mut Head, info: &RequestInfo) {
    let Some(route) = &info.route else { return };
    if let (Action::Forward(forward), Some(target)) = (route.action(), info.target) {
        apply_ops(ctx, forward.targets()[target].response_headers(), head, info, Some(request));
    }
    apply_ops(ctx, route.response_headers(), head, info, Some(request));
}

/// Says what answers.
pub(crate) fn put_server(hcm: &Hcm, head: &mut Head) {
    if let Some(server) = &hcm.model.server_name
        && let Ok(server) = Value::new(server.as_bytes())
    {
        head.set(KnownHeader::Server, server);
    }
}

/// What every response gets, the proxy's own too.
pub(crate) fn finish_head(ctx: &RequestContext<'_>, head: &mut Head, info: &RequestInfo) {
    put_server(ctx.hcm, head);
    if let (Some(origin), Some(rules)) = (&info.allowed_origin, info.route.as_ref().and_then(|r| r.filters().cors.as_ref())) {
        let mut headers = view::Mutable(head);
        cors::response_headers(rules, origin).for_each(|(name, value)| headers.set(name, value));
    }
    if !head.contains(KnownHeader::Date) {
        ctx.worker.telemetry.put_date(head);
    }
    // The other proxy asked who we are by saying who it is.
    let exchanges =
        ctx.hcm.filters.iter().any(|f| matches!(f, CompiledHttpFilter::PeerMetadata(p) if p.direction != Direction::Outbound));
    if exchanges && info.peer.is_some() {
        ctx.worker.telemetry.put_own_metadata(head);
    }
}
