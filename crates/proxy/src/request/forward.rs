//! Forwards a request: endpoint, connection, one try or several, until there is a response to send or an error to tell.

use super::info::RequestInfo;
use super::reply::LocalReply;
use super::transfer::{Transfer, TransferError};
use super::view::View;
use super::{RequestContext, mirror, respond};
use crate::http::{BodyReader, ClientExchange, Head, KnownHeader, Names, ResetReason, Responder, ResponseReader, StreamError};
use crate::stream::Stream;
use crate::upstream::{self, Asked, Cluster, ConnectError, Host, Lease, LeaseError, Purpose};
use lateen_model::dataplane::{Discovery, Forward};
use lateen_observe::ResponseFlag;
use lateen_policy::balance::{Avoid, Wanted};
use lateen_policy::breaker::Permit;
use lateen_policy::hash::{self, Sender};
use lateen_policy::outlier::{LocalOrigin, Outcome};
use lateen_policy::retry::{self, Decision, Overrides, RetryState};
use lateen_policy::route::{Action, CompiledRoute};
use lateen_policy::timeout::{self, Requested, Timeouts};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// How often another connection is taken for a request of which nothing was sent.
const MAX_UNSENT: u32 = 8;

/// By what a request tells a proxy how to send it.
const MEANT_FOR_THIS_PROXY: Names = Names::of(&[
    KnownHeader::XEnvoyRetryOn,
    KnownHeader::XEnvoyRetryGrpcOn,
    KnownHeader::XEnvoyMaxRetries,
    KnownHeader::XEnvoyRetriableStatusCodes,
    KnownHeader::XEnvoyRetriableHeaderNames,
    KnownHeader::XEnvoyUpstreamRqTimeoutMs,
    KnownHeader::XEnvoyUpstreamRqPerTryTimeoutMs,
]);

/// How a request is to be forwarded.
pub(crate) struct Plan {
    pub(crate) route: Arc<CompiledRoute>,
    cluster: Arc<Cluster>,
    purpose: Purpose,
    timeouts: Timeouts,
    retries: Option<RetryState>,
    /// Whether the bytes after the head are a tunnel's, if the upstream agrees.
    pub(crate) tunnel: bool,
    /// Whether `x-envoy-attempt-count` is added.
    pub(crate) attempt_count: bool,
    /// What a consistent choice of the endpoint goes by, once it was needed.
    hash: Option<u64>,
    /// Values of `set-cookie` for the client: cookies that were made for the hash.
    pub(crate) set_cookies: Vec<String>,
}

impl Plan {
    /// Puts together what the route and the request's own headers say.
    pub(crate) fn new(
        route: Arc<CompiledRoute>,
        cluster: Arc<Cluster>,
        ctx: &RequestContext<'_>,
        head: &mut Head,
        info: &RequestInfo,
    ) -> Self {
        let istio_alpn = ctx.hcm.istio_alpn;
        // Of these headers, only those that the route has set are still there.
        let overrides =
            if head.may_have(MEANT_FOR_THIS_PROXY) { Overrides::from_headers(&View::of(head)) } else { Overrides::default() };
        let requested = if head.may_have(MEANT_FOR_THIS_PROXY) || info.grpc {
            Requested::from_headers(&View::of(head))
        } else {
            Requested::default()
        };
        let (timeouts, retries) = match route.action() {
            Action::Forward(forward) => {
                let model: &Forward = forward.model();
                (timeout::effective(model, info.grpc, &requested), RetryState::new(model.retry.as_ref(), &overrides))
            }
            Action::Redirect(_) | Action::DirectResponse(_) => (Timeouts { global: None, per_try: None, idle: None }, None),
        };
        let purpose = Purpose::of_request(&cluster.config.http.protocol, info.protocol, istio_alpn);
        // What was meant for this proxy is not for the next.
        head.remove_all(MEANT_FOR_THIS_PROXY);
        if let Some(expected) = timeouts.per_try.or(timeouts.global) {
            head.set_number(KnownHeader::XEnvoyExpectedRqTimeoutMs, u64::try_from(expected.as_millis()).unwrap_or(u64::MAX));
        }
        Self {
            route,
            cluster,
            purpose,
            timeouts,
            retries,
            tunnel: head.asks_for_tunnel(),
            attempt_count: false,
            hash: None,
            set_cookies: Vec::new(),
        }
    }
}

impl Plan {
    /// How long the whole request may take.
    pub(crate) fn global_timeout(&self) -> Option<Duration> {
        self.timeouts.global
    }
}

/// A response whose final head has come.
pub(crate) struct Answered {
    pub(crate) head: Head,
    pub(crate) reader: ResponseReader<Stream>,
    pub(crate) lease: Lease,
}

/// How a try ended.
enum Try {
    Answered(Box<Answered>),
    /// Nothing came that could be sent on.
    Failed {
        reply: LocalReply,
        reset: retry::Reset,
        outlier: Option<LocalOrigin>,
        stale: bool,
    },
    /// The request's whole time is over.
    OutOfTime,
    /// Nobody waits for the answer.
    ClientGone,
    /// The client broke the protocol within its body; the text is `%RESPONSE_CODE_DETAILS%`.
    BadRequest(&'static str),
    /// There is no endpoint.
    NoHost,
    /// Nothing was sent: the endpoint left while the request waited, or the connection ended under it.
    Unsent,
}

/// Time, as it runs for one request.
pub(crate) struct Clock {
    /// When the whole request must have ended; set when the request has been received to its end.
    pub(crate) deadline: Option<Pin<Box<Sleep>>>,
    global: Option<Duration>,
}

impl Clock {
    /// Starts the request's time if its last byte has come.
    fn note(&mut self, upload: &Transfer, info: &mut RequestInfo) {
        if upload.read_all() && info.request_complete.is_none() {
            info.request_complete = Some(std::time::Instant::now());
            self.deadline = self.global.map(|t| Box::pin(tokio::time::sleep(t)));
        }
    }

    /// Whether the whole time is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.deadline {
            Some(deadline) => deadline.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// One request on its way.
struct Forwarding<'a, 'c> {
    ctx: &'a RequestContext<'c>,
    head: &'a mut Head,
    info: &'a mut RequestInfo,
    plan: Plan,
    upload: Transfer,
    clock: Clock,
    responder: Responder<Stream>,
}

/// Forwards a request and sends what comes of it.
pub(crate) async fn forward(
    ctx: &RequestContext<'_>,
    head: &mut Head,
    info: &mut RequestInfo,
    plan: Plan,
    body: BodyReader<Stream>,
    responder: Responder<Stream>,
) {
    let keep = !plan.tunnel;
    let grpc = info.grpc;
    let global = plan.timeouts.global;
    let upload = Transfer::new(body, keep, grpc);
    let mut forwarding = Forwarding { ctx, head, info, plan, upload, clock: Clock { deadline: None, global }, responder };
    if !forwarding.plan.tunnel {
        let Forwarding { head, info, plan, upload, .. } = &mut forwarding;
        upload.copy_to(mirror::start(ctx, plan, head, info, upload.is_empty()));
    }
    if forwarding.info.flags.contains(ResponseFlag::DelayInjected) {
        // Much may have changed while it was held up.
        forwarding.follow_cluster();
    }
    forwarding.clock.note(&forwarding.upload, forwarding.info);
    let outcome = forwarding.run().await;
    // What is large stays where it is: moving it would cost more than much of what is done with it.
    let Forwarding { head, info, ref plan, ref mut upload, ref mut clock, responder, .. } = forwarding;
    match outcome {
        Ok(answered) => respond::relay(ctx, head, info, plan, answered, respond::Way { upload, clock, responder }).await,
        Err(Some(reply)) => {
            info.request_body_bytes = upload.bytes();
            info.request_messages = upload.messages();
            info.request_sent = upload.finished_at();
            upload.reset(ResetReason::Cancel);
            Box::pin(reply.send(ctx, head, responder, info)).await;
        }
        Err(None) => {
            info.request_body_bytes = upload.bytes();
            info.request_messages = upload.messages();
            info.request_sent = upload.finished_at();
            note_client_gone(info);
            responder.reset(ResetReason::Cancel);
        }
    }
}

/// Writes into the record that nobody waits for the answer.
pub(super) fn note_client_gone(info: &mut RequestInfo) {
    info.flags.insert(ResponseFlag::DownstreamConnectionTermination);
    info.details = "downstream_remote_disconnect".into();
}

impl Forwarding<'_, '_> {
    /// Tries until there is a response, or an answer of our own (`Some`), or nobody to answer (`None`).
    async fn run(&mut self) -> Result<Box<Answered>, Option<LocalReply>> {
        self.plan.cluster.breakers.begin_request(upstream::now);
        let mut retry_permit: Option<Permit> = None;
        let mut stale_retried = false;
        let mut unsent = 0;
        loop {
            self.info.attempts += 1;
            let outcome = self.attempt().await;
            let had_retry_permit = retry_permit.is_some();
            if !matches!(outcome, Try::Unsent) {
                // Given back before another one is asked for.
                retry_permit = None;
            }
            match outcome {
                Try::Answered(answered) => {
                    let status = answered.head.status();
                    self.plan.cluster.record(&answered.lease.host, outlier_outcome(&answered.head, self.info.grpc));
                    if status >= 500 {
                        answered.lease.host.state.stats.rq_error.inc();
                    }
                    let decision = match &mut self.plan.retries {
                        Some(retries) => retries.on_response(&View::of(&answered.head)),
                        None => Decision::NotRetriable,
                    };
                    match self.retry(decision, false) {
                        Some(permit) => retry_permit = Some(permit),
                        None => {
                            if had_retry_permit && decision == Decision::NotRetriable {
                                self.plan.cluster.stats.upstream_rq_retry_success.inc();
                                self.plan.cluster.breakers.retry_succeeded(upstream::now);
                            }
                            return Ok(answered);
                        }
                    }
                }
                Try::Failed { reply, reset, outlier, stale } => {
                    if let (Some(kind), Some(host)) = (outlier, &self.info.host) {
                        self.plan.cluster.record(host, Outcome::LocalOrigin(kind));
                        host.state.stats.rq_error.inc();
                    }
                    if stale && !stale_retried && self.upload.can_restart() {
                        stale_retried = true;
                        continue;
                    }
                    let decision = match &mut self.plan.retries {
                        Some(retries) => retries.on_reset(reset),
                        None => Decision::NotRetriable,
                    };
                    match self.retry(decision, true) {
                        Some(permit) => retry_permit = Some(permit),
                        None => return Err(Some(reply)),
                    }
                }
                Try::OutOfTime => {
                    self.plan.cluster.stats.upstream_rq_timeout.inc();
                    if let Some(host) = &self.info.host {
                        self.plan.cluster.record(host, Outcome::LocalOrigin(LocalOrigin::Timeout));
                    }
                    return Err(Some(LocalReply::timeout("response_timeout")));
                }
                // Nothing was tried: another host is chosen at once, and no retry is spent.
                Try::Unsent if unsent < MAX_UNSENT => {
                    unsent += 1;
                    self.info.attempts -= 1;
                    self.follow_cluster();
                    continue;
                }
                Try::Unsent => return Err(Some(LocalReply::terminated())),
                Try::NoHost => return Err(Some(LocalReply::no_healthy_upstream())),
                Try::ClientGone => return Err(None),
                Try::BadRequest(details) => return Err(Some(LocalReply::bad_request(details))),
            }
            if Box::pin(self.pause()).await.is_err() {
                return Err(None);
            }
            self.follow_cluster();
        }
    }

    /// The permit for another try, if one is wanted, allowed and possible; `ended` if the last one has given its own back.
    fn retry(&mut self, decision: Decision, ended: bool) -> Option<Permit> {
        let stats = &self.plan.cluster.stats;
        match decision {
            Decision::Retry => {}
            Decision::LimitExceeded => {
                stats.upstream_rq_retry_limit_exceeded.inc();
                self.info.flags.insert(ResponseFlag::UpstreamRetryLimitExceeded);
                return None;
            }
            Decision::NotRetriable => return None,
        }
        if !self.upload.can_restart() {
            return None;
        }
        let permit = self.plan.cluster.breakers.try_acquire_retry(ended, upstream::now);
        match permit {
            Some(_) => stats.upstream_rq_retry.inc(),
            None => {
                stats.upstream_rq_retry_overflow.inc();
                self.info.flags.insert(ResponseFlag::UpstreamOverflow);
            }
        }
        permit
    }

    /// The pause before another try.
    async fn pause(&mut self) -> Result<(), ()> {
        let Some(retries) = &self.plan.retries else { return Ok(()) };
        if retries.retries() == 0 {
            // The repetition on a fresh connection of what a stale one lost.
            return Ok(());
        }
        let pause = self.ctx.worker.with_rng(|rng| retries.back_off(rng));
        let timer = tokio::time::sleep(pause);
        tokio::pin!(timer);
        let (responder, upload) = (&mut self.responder, &self.upload);
        poll_fn(|cx| {
            if upload.read_all() && responder.poll_peer_gone(cx).is_ready() {
                return Poll::Ready(Err(()));
            }
            timer.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// One try.
    async fn attempt(&mut self) -> Try {
        let Some(host) = self.pick() else { return Try::NoHost };
        self.info.host = Some(host.clone());
        // Of an earlier try.
        self.info.transport_failure = None;
        if let Some(retries) = &mut self.plan.retries {
            retries.on_host(host.address, host.priority);
        }
        let per_try = self.plan.timeouts.per_try;
        let mut try_timer: Option<Pin<Box<Sleep>>> =
            per_try.filter(|_| self.upload.read_all()).map(|t| Box::pin(tokio::time::sleep(t)));

        let mut lease = match self.lease(host, &mut try_timer).await {
            Ok(lease) => lease,
            Err(end) => return end,
        };
        self.info.upstream = lease.meta().cloned();
        if self.plan.attempt_count {
            self.head.set_number(KnownHeader::XEnvoyAttemptCount, u64::from(self.info.attempts));
        }
        let ClientExchange { writer, response } = match self.send(&mut lease, &mut try_timer).await {
            Ok(exchange) => exchange,
            Err(end) => return end,
        };
        if !self.upload.fits(&writer) {
            // Chunks were kept as they came, for a connection of the same version.
            return self.failed(StreamError::Malformed("the endpoint speaks another version of HTTP"), &lease, false);
        }
        self.upload.attach(writer);
        self.await_head(lease, response, try_timer).await
    }

    /// A request that waits or retries sees the hosts of the moment, also when the cluster was replaced meanwhile: the old one
    /// is told no endpoints any more.
    fn follow_cluster(&mut self) {
        if let Some(current) = self.ctx.worker.shared.snapshot.load().cluster(&self.plan.cluster.name)
            && !Arc::ptr_eq(current, &self.plan.cluster)
        {
            self.plan.cluster = current.clone();
            self.info.cluster = Some(current.clone());
        }
    }

    fn pick(&mut self) -> Option<Arc<Host>> {
        let hash = self.hash();
        let cluster = &self.plan.cluster;
        if let Discovery::OriginalDst { port_override } = &cluster.config.discovery {
            return Some(upstream::original_destination(self.ctx.connection.destination, *port_override));
        }
        let avoid = match &self.plan.retries {
            Some(retries) => Avoid { attempts: retries.host_selection_attempts(), priorities: retries.avoided_priorities() },
            None => Avoid::NOTHING,
        };
        let avoids = |host: &Host| self.plan.retries.as_ref().is_some_and(|r| r.avoids(host.address));
        self.ctx.worker.pools.pick(self.ctx.worker, cluster, Wanted { avoid, hash }, avoids)
    }

    /// The request's hash, if the cluster goes by it; made once, so that all tries agree.
    fn hash(&mut self) -> Option<u64> {
        if !self.plan.cluster.config.lb_policy.is_consistent() {
            return None;
        }
        if self.plan.hash.is_none() {
            let connection = self.ctx.connection;
            let sender = Sender { client: self.info.client.address, remote: connection.remote, local: connection.destination };
            let policies = match self.plan.route.action() {
                Action::Forward(forward) => forward.model().hash_policies.as_slice(),
                Action::Redirect(_) | Action::DirectResponse(_) => &[],
            };
            let made = hash::of_request(policies, &View::of(self.head), sender);
            // Without a hash all tries go by the same random number.
            let any = || self.ctx.worker.random();
            self.plan.hash = Some(made.hash.unwrap_or_else(any));
            self.plan.set_cookies = made.set_cookies;
        }
        self.plan.hash
    }

    /// A connection, unless time or the client's patience ends first.
    async fn lease(&mut self, host: Arc<Host>, try_timer: &mut Option<Pin<Box<Sleep>>>) -> Result<Lease, Try> {
        let cluster = self.plan.cluster.clone();
        let authority = self.head.authority().unwrap_or_default();
        let connection = self.ctx.connection;
        let asked = Asked::of_request(&cluster, self.plan.purpose, authority);
        let asked = asked.for_client(&cluster, connection.remote, connection.destination);
        let pools = &self.ctx.worker.pools;
        let result = match pools.lease_now(&cluster, &host, &asked) {
            Some(result) => Ok(result),
            None => {
                let mut leasing = Box::pin(pools.lease(self.ctx.worker, &cluster, host, asked));
                let (clock, upload, responder) = (&mut self.clock, &self.upload, &mut self.responder);
                poll_fn(|cx| {
                    if let Poll::Ready(result) = leasing.as_mut().poll(cx) {
                        return Poll::Ready(Ok(result));
                    }
                    poll_limits(cx, clock, try_timer, upload, responder).map(Err)
                })
                .await
            }
        };
        match result {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(LeaseError::Overflow)) => Err(Try::Failed {
                reply: LocalReply::overflow(),
                reset: retry::Reset { reason: retry::ResetReason::Overflow, request_started: false },
                outlier: None,
                stale: false,
            }),
            Ok(Err(LeaseError::Connect(error))) => Err(self.connect_failed(&error)),
            Ok(Err(LeaseError::HostGone)) => Err(Try::Unsent),
            Err(limit) => Err(self.limited(limit, false)),
        }
    }

    /// Begins the exchange; a shared connection may have no stream left for it, or be about to end.
    async fn send(&mut self, lease: &mut Lease, try_timer: &mut Option<Pin<Box<Sleep>>>) -> Result<ClientExchange<Stream>, Try> {
        let end = self.upload.is_empty();
        let (head, clock, upload, responder) = (&*self.head, &mut self.clock, &self.upload, &mut self.responder);
        let result = match lease.send_now(head, end) {
            Some(result) => Ok(result),
            None => {
                let mut sending = Box::pin(lease.send(head, end));
                poll_fn(|cx| {
                    if let Poll::Ready(result) = sending.as_mut().poll(cx) {
                        return Poll::Ready(Ok(result));
                    }
                    poll_limits(cx, clock, try_timer, upload, responder).map(Err)
                })
                .await
            }
        };
        match result {
            Ok(Ok(exchange)) => Ok(exchange),
            Ok(Err(error)) => {
                tracing::debug!(%error, cluster = %self.plan.cluster.name, "a connection took no request");
                Err(Try::Unsent)
            }
            Err(limit) => Err(self.limited(limit, false)),
        }
    }

    fn connect_failed(&mut self, error: &ConnectError) -> Try {
        self.info.transport_failure = error.transport_failure();
        let outlier = match error {
            ConnectError::Timeout => LocalOrigin::Timeout,
            ConnectError::Tcp(_) | ConnectError::Tls(_) => LocalOrigin::ConnectFailed,
        };
        Try::Failed {
            reply: LocalReply::connect_failure(error),
            reset: retry::Reset { reason: retry::ResetReason::ConnectFailure, request_started: false },
            outlier: Some(outlier),
            stale: false,
        }
    }

    /// Passes an interim response on. Whether the body is wanted is the server's to say (Envoy's `proxy_100_continue`, which
    /// Istio sets); as in Envoy, no other server is asked after one has said so.
    async fn hint(&mut self, head: &Head) {
        self.plan.retries = None;
        // A client that is gone is noticed by what follows.
        let _ = self.responder.send_interim(head).await;
    }

    /// Sends the body and waits for the response's final head.
    async fn await_head(
        &mut self,
        lease: Lease,
        mut response: ResponseReader<Stream>,
        mut try_timer: Option<Pin<Box<Sleep>>>,
    ) -> Try {
        let per_try = self.plan.timeouts.per_try;
        let mut upload_error = None;
        loop {
            let (upload, clock, responder, info) = (&mut self.upload, &mut self.clock, &mut self.responder, &mut *self.info);
            let event = poll_fn(|cx| {
                if upload_error.is_none()
                    && let Poll::Ready(Err(error)) = upload.poll(cx)
                {
                    upload_error = Some(error);
                    if let TransferError::Read(error) = error {
                        return Poll::Ready(Err(Limit::of_client(error)));
                    }
                }
                if upload.read_all() {
                    clock.note(upload, info);
                    if let (None, Some(limit)) = (&try_timer, per_try) {
                        try_timer = Some(Box::pin(tokio::time::sleep(limit)));
                    }
                }
                if let Poll::Ready(result) = response.poll_head(cx) {
                    return Poll::Ready(Ok(result));
                }
                poll_limits(cx, clock, &mut try_timer, upload, responder).map(Err)
            })
            .await;
            match event {
                Ok(Ok(head)) if head.is_interim() => Box::pin(self.hint(&head)).await,
                Ok(Ok(head)) => {
                    self.info.response_begun = Some(std::time::Instant::now());
                    return Try::Answered(Box::new(Answered { head, reader: response, lease }));
                }
                Ok(Err(error)) => {
                    let begun = response.has_begun();
                    return self.failed(error, &lease, begun);
                }
                Err(limit) => return self.limited(limit, true),
            }
        }
    }

    /// The stream failed before there was a response.
    fn failed(&mut self, error: StreamError, lease: &Lease, begun: bool) -> Try {
        self.plan.cluster.stats.upstream_rq_reset.inc();
        let started = self.upload.bytes() > 0 || !matches!(error, StreamError::Reset(ResetReason::RefusedStream));
        let (reply, reason) = match error {
            StreamError::Reset(ResetReason::RefusedStream) => (LocalReply::remote_reset(), retry::ResetReason::RefusedStream),
            StreamError::Reset(_) => (LocalReply::remote_reset(), retry::ResetReason::Reset),
            StreamError::Malformed(_) | StreamError::HeadTooLarge | StreamError::Length => {
                (LocalReply::upstream_protocol_error(), retry::ResetReason::Reset)
            }
            StreamError::Closed | StreamError::Io(_) => (LocalReply::terminated(), retry::ResetReason::Reset),
        };
        let lost = matches!(error, StreamError::Closed | StreamError::Io(_));
        // A pooled connection may have been closed by its host at the same moment: what was surely not acted on, or may be
        // repeated, is.
        let stale = lost && lease.reused && !begun && is_idempotent(self.head.method());
        let outlier = (!stale).then_some(LocalOrigin::Reset);
        Try::Failed { reply, reset: retry::Reset { reason, request_started: started }, outlier, stale }
    }

    /// A limit ended the try.
    fn limited(&mut self, limit: Limit, started: bool) -> Try {
        match limit {
            Limit::ClientGone => Try::ClientGone,
            Limit::BadRequest(details) => Try::BadRequest(details),
            Limit::Request => Try::OutOfTime,
            Limit::Try => {
                self.plan.cluster.stats.upstream_rq_per_try_timeout.inc();
                Try::Failed {
                    reply: LocalReply::timeout("upstream_per_try_timeout"),
                    reset: retry::Reset { reason: retry::ResetReason::PerTryTimeout, request_started: started },
                    outlier: Some(LocalOrigin::Timeout),
                    stale: false,
                }
            }
        }
    }
}

/// What ends a try from outside.
#[derive(Clone, Copy, Debug)]
enum Limit {
    ClientGone,
    BadRequest(&'static str),
    Request,
    Try,
}

impl Limit {
    /// The request's body could not be read to its end.
    fn of_client(error: StreamError) -> Self {
        match error {
            StreamError::Malformed(_) | StreamError::Length => Self::BadRequest("http1.codec_error"),
            StreamError::HeadTooLarge => Self::BadRequest("http1.trailers_too_large"),
            StreamError::Closed | StreamError::Io(_) | StreamError::Reset(_) => Self::ClientGone,
        }
    }
}

fn poll_limits(
    cx: &mut Context<'_>,
    clock: &mut Clock,
    try_timer: &mut Option<Pin<Box<Sleep>>>,
    upload: &Transfer,
    responder: &mut Responder<Stream>,
) -> Poll<Limit> {
    if clock.poll(cx).is_ready() {
        return Poll::Ready(Limit::Request);
    }
    if let Some(timer) = try_timer
        && timer.as_mut().poll(cx).is_ready()
    {
        return Poll::Ready(Limit::Try);
    }
    // HTTP/1 can tell only after the request was read to its end.
    if upload.read_all() && responder.poll_peer_gone(cx).is_ready() {
        return Poll::Ready(Limit::ClientGone);
    }
    Poll::Pending
}

/// What a response says of its host; gRPC's failures come with status 200.
fn outlier_outcome(head: &Head, grpc: bool) -> Outcome {
    let grpc_status = head.get_str(KnownHeader::GrpcStatus).filter(|_| grpc).and_then(|s| s.parse::<u32>().ok());
    match grpc_status {
        // Envoy maps these to 5xx: unavailable, internal, unknown, data loss, unimplemented, deadline exceeded.
        Some(14) => Outcome::Grpc(503),
        Some(4) => Outcome::Grpc(504),
        Some(2 | 13 | 15) => Outcome::Grpc(500),
        Some(12) => Outcome::Grpc(501),
        // The others are no 5xx.
        Some(_) => Outcome::Grpc(200),
        None => Outcome::Status(head.status()),
    }
}

/// RFC 9110, section 9.2.2.
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}
