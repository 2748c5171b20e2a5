//! A request's path, top to bottom: identify → filters → route → forward (balance, connect, send, retry) → respond → account.

mod forward;
mod identify;
pub(crate) mod info;
mod mirror;
mod reply;
mod respond;
mod transfer;
mod view;

use crate::config::{CompiledHttpFilter, Hcm, RoutesOf, Snapshot};
use crate::connection::Connection;
use crate::http::{BodyReader, Head, KnownHeader, ResetReason, Responder, ServerExchange, Value};
use crate::stream::Stream;
use crate::telemetry::gates::Decisions;
use crate::upstream::Cluster;
use crate::worker::Worker;
use forward::Plan;
use info::RequestInfo;
use lateen_model::dataplane::{Direction, PeerMetadata};
use lateen_observe::ResponseFlag;
use lateen_policy::route::{Action, CompiledRoute, HostChange};
use lateen_policy::{cors, fault, rate_limit, rbac};
use reply::LocalReply;
pub(crate) use respond::put_server;
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
pub(crate) use view::{FromClient, Template, View};

/// What a request is served with. One snapshot, loaded once.
pub(crate) struct RequestContext<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) connection: &'a Connection,
    pub(crate) hcm: &'a Hcm,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) direction: Direction,
    /// The mesh knows the request's host, and this proxy could not learn it.
    pub(crate) not_learnt: bool,
}

/// Serves one request: whatever happens, it is answered (or its stream reset) and accounted for.
pub(crate) async fn serve(ctx: &RequestContext<'_>, exchange: ServerExchange<Stream>) {
    let ServerExchange { mut head, body, mut responder } = exchange;
    let mut info = RequestInfo::new(&head, identify::client(ctx, &head));
    if ctx.worker.shared.drain.is_draining() {
        responder.close_after();
    }
    let admitted = admit(ctx, &mut head, &mut info);
    if let Some(time) = info.hold_up
        && !Box::pin(hold_up(time, &body, &mut responder)).await
    {
        forward::note_client_gone(&mut info);
        responder.reset(ResetReason::Cancel);
        return ctx.worker.telemetry.account_request(ctx, &head, &info);
    }
    match admitted {
        Ok(plan) => Box::pin(forward::forward(ctx, &mut head, &mut info, plan, body, responder)).await,
        Err(reply) => Box::pin(reply.send(ctx, &head, responder, &mut info)).await,
    }
    ctx.worker.telemetry.account_request(ctx, &head, &info);
}

/// Everything that needs no waiting: the request as the mesh sees it, whether it may pass, and where it goes.
fn admit(ctx: &RequestContext<'_>, head: &mut Head, info: &mut RequestInfo) -> Result<Plan, LocalReply> {
    // Identify.
    identify::normalize(ctx, head, info)?;
    if ctx.not_learnt {
        return Err(LocalReply::not_learnt());
    }
    info.trace = ctx.worker.telemetry.begin_trace(ctx, head);

    // Route. Filters know it, and may answer before it is followed.
    let found = find_route(ctx, head);
    let target = found.as_ref().ok().and_then(|(route, _)| choose_target(ctx, route, info));
    if found.is_ok() {
        identify::check_upgrade(ctx, head)?;
    }

    // Filters, in the order of the configuration.
    for filter in &ctx.hcm.filters {
        match (filter, &found) {
            (CompiledHttpFilter::PeerMetadata(exchange), _) => receive_peer(ctx, *exchange, head, info),
            (CompiledHttpFilter::Rbac(rules, decisions), _) => authorize(ctx, (rules, decisions), head, info)?,
            (CompiledHttpFilter::RateLimit(limits, decisions), _) => limit(ctx, (limits, decisions), head, info)?,
            (CompiledHttpFilter::Fault, Ok((route, _))) => inject_fault(ctx, route, info)?,
            (CompiledHttpFilter::Cors, Ok((route, _))) => cross_origin(route, head, info)?,
            // Without a route they have nothing to do; the others act on what was learnt, at the end.
            (CompiledHttpFilter::Fault | CompiledHttpFilter::Cors, Err(_)) => {}
            (CompiledHttpFilter::GrpcStats | CompiledHttpFilter::Stats(_), _) => {}
        }
    }

    // What the route says.
    let (route, attempt_count) = found?;
    match route.action() {
        Action::Redirect(redirect) => {
            let view = View::of(head);
            let location = route.redirect_location(&view, view.scheme);
            Err(LocalReply::redirect(redirect.status(), location.unwrap_or_default()))
        }
        Action::DirectResponse(direct) => Err(LocalReply::direct(direct.status, direct.body.clone())),
        Action::Forward(_) => plan(ctx, &route, target.unwrap_or_default(), attempt_count, head, info),
    }
}

/// The metadata that the other proxy sent, which is for us and not for the application.
fn receive_peer(ctx: &RequestContext<'_>, exchange: PeerMetadata, head: &mut Head, info: &mut RequestInfo) {
    if exchange.direction != Direction::Outbound {
        info.peer = ctx.worker.telemetry.peer_of_headers(head, ctx.connection.peer_uri());
        head.remove(KnownHeader::XEnvoyPeerMetadata);
        head.remove(KnownHeader::XEnvoyPeerMetadataId);
    }
}

fn authorize(
    ctx: &RequestContext<'_>,
    (rules, decisions): (&rbac::Engine, &Decisions),
    head: &Head,
    info: &RequestInfo,
) -> Result<(), LocalReply> {
    let from = FromClient { connection: ctx.connection, client: info.client.address };
    let verdict = rules.check(&from, &View::of(head));
    decisions.count(verdict.is_allowed());
    if verdict.is_allowed() { Ok(()) } else { Err(LocalReply::denied(verdict.policy())) }
}

fn limit(
    ctx: &RequestContext<'_>,
    (limits, decisions): (&rate_limit::Engine, &Decisions),
    head: &Head,
    info: &RequestInfo,
) -> Result<(), LocalReply> {
    let from = FromClient { connection: ctx.connection, client: info.client.address };
    let admitted = limits.admit(&from, &View::of(head), ctx.worker.shared.started.elapsed());
    decisions.count(admitted.is_ok());
    admitted.map_err(|refusal| LocalReply::rate_limited(refusal.retry_after))
}

/// Draws the faults of a route.
fn inject_fault(ctx: &RequestContext<'_>, route: &CompiledRoute, info: &mut RequestInfo) -> Result<(), LocalReply> {
    let Some(fault) = &route.filters().fault else { return Ok(()) };
    let injected = fault::draw(fault, || ctx.worker.random());
    if injected.delay.is_some() {
        info.flags.insert(ResponseFlag::DelayInjected);
        info.hold_up = injected.delay;
    }
    injected.abort.map_or(Ok(()), |error| Err(LocalReply::fault(error)))
}

/// Whether the client is still there after a delay.
async fn hold_up(time: Duration, body: &BodyReader<Stream>, responder: &mut Responder<Stream>) -> bool {
    let timer = tokio::time::sleep(time);
    if !body.is_end() {
        // Who leaves cannot be seen behind what was not read.
        timer.await;
        return true;
    }
    tokio::select! {
        () = timer => true,
        _ = responder.peer_gone() => false,
    }
}

/// Applies a route's cross-origin rules; the response is changed at the end.
fn cross_origin(route: &CompiledRoute, head: &Head, info: &mut RequestInfo) -> Result<(), LocalReply> {
    let Some(rules) = &route.filters().cors else { return Ok(()) };
    match cors::judge(rules, &View::of(head)) {
        cors::Verdict::Forward => Ok(()),
        cors::Verdict::Allow(origin) => {
            info.allowed_origin = Some(origin.into());
            Ok(())
        }
        cors::Verdict::AnswerPreflight(origin) => {
            info.allowed_origin = Some(origin.into());
            Err(LocalReply::preflight(cors::preflight_headers(rules, Some(origin), &View::of(head))))
        }
        cors::Verdict::RefusePreflight => Err(LocalReply::preflight(cors::preflight_headers(rules, None, &View::of(head)))),
    }
}

/// The route, and whether its virtual host wants tries to be counted for the upstream.
fn find_route(ctx: &RequestContext<'_>, head: &Head) -> Result<(Arc<CompiledRoute>, bool), LocalReply> {
    // Nobody tunnels through the mesh.
    if head.is_connect() {
        return Err(LocalReply::no_route());
    }
    let table = match &ctx.hcm.routes {
        RoutesOf::Inline(table) => table,
        RoutesOf::Rds(name) => ctx.snapshot.routes.get(name).ok_or_else(LocalReply::no_route)?,
    };
    let found = table.find(&View::of(head)).ok_or_else(LocalReply::no_route)?;
    Ok((found.route.clone(), found.virtual_host.include_request_attempt_count()))
}

/// Chooses among the clusters of a route that forwards, and notes it; the index into [`CompiledForward::targets`].
///
/// [`CompiledForward::targets`]: lateen_policy::route::CompiledForward::targets
fn choose_target(ctx: &RequestContext<'_>, route: &Arc<CompiledRoute>, info: &mut RequestInfo) -> Option<usize> {
    info.route = Some(route.clone());
    let Action::Forward(forward) = route.action() else { return None };
    let chosen = forward.choose_index(ctx.worker.random());
    info.target = Some(chosen);
    let name = forward.targets()[chosen].name();
    match ctx.snapshot.cluster(name) {
        Some(cluster) => info.cluster = Some(cluster.clone()),
        None => info.missing_cluster = Some(name.to_owned()),
    }
    Some(chosen)
}

/// Makes the changes to the request that the route asks for.
fn plan(
    ctx: &RequestContext<'_>,
    route: &Arc<CompiledRoute>,
    chosen: usize,
    attempt_count: bool,
    head: &mut Head,
    info: &mut RequestInfo,
) -> Result<Plan, LocalReply> {
    let Action::Forward(forward) = route.action() else { return Err(LocalReply::no_route()) };
    let target = &forward.targets()[chosen];
    let Some(cluster) = info.cluster.clone() else {
        return Err(LocalReply::no_cluster(forward.model().cluster_not_found_status));
    };

    // The branch's operations, then the route's; values see the request as it was.
    for ops in [target.request_headers(), route.request_headers()] {
        apply_ops(ctx, ops, head, info, None);
    }
    if let Cow::Owned(path) = route.rewrite_path(head.path_and_query()) {
        if let Ok(original) = Value::new(head.path_and_query().as_bytes().to_vec().as_slice()) {
            head.set(KnownHeader::XEnvoyOriginalPath, original);
        }
        head.set_path_and_query(&path).map_err(|_| LocalReply::bad_request("path_rewrite_failed"))?;
    }
    match forward.host_change(target) {
        HostChange::Keep | HostChange::Auto => {}
        HostChange::Literal(host) => change_host(head, host)?,
    }
    send_own_metadata(ctx, &cluster, head);
    ctx.worker.telemetry.inject_trace(info, head);
    let mut plan = Plan::new(route.clone(), cluster.clone(), ctx, head, info);
    plan.attempt_count = attempt_count;
    Ok(plan)
}

/// Gives a request another authority; what it had before stays known, as with Envoy.
fn change_host(head: &mut Head, host: &str) -> Result<(), LocalReply> {
    let original = head.authority().map(|before| before.as_bytes().to_vec());
    head.set_authority(host).map_err(|_| LocalReply::bad_request("host_rewrite_failed"))?;
    if let Some(Ok(original)) = original.as_deref().map(Value::new) {
        head.set(KnownHeader::XEnvoyOriginalHost, original);
    }
    Ok(())
}

/// Tells the other proxy who asks, if there may be one.
fn send_own_metadata(ctx: &RequestContext<'_>, cluster: &Cluster, head: &mut Head) {
    let exchange = ctx.hcm.filters.iter().find_map(|f| if let CompiledHttpFilter::PeerMetadata(p) = f { Some(p) } else { None });
    let Some(exchange) = exchange.filter(|e| e.direction == Direction::Outbound) else { return };
    if exchange.skip_external_clusters && cluster.is_outside_of_the_mesh() {
        return;
    }
    ctx.worker.telemetry.put_own_metadata(head);
}

/// Applies header operations to a request (or, with its status, a response).
fn apply_ops(
    ctx: &RequestContext<'_>,
    ops: &lateen_policy::template::HeaderOps,
    head: &mut Head,
    info: &RequestInfo,
    request: Option<&Head>,
) {
    if ops.is_empty() || ops.apply_literals(&mut view::Mutable(head)) {
        return;
    }
    let template = Template {
        view: View::of(request.unwrap_or(head)),
        connection: ctx.connection,
        client: info.client.address,
        start_time: info.start_time,
        upstream_host: info.host.as_ref().map(|h| h.address),
        response_code: request.map(|_| head.status()),
        hostname: ctx.worker.shared.hostname(),
        environment: ctx.worker.shared.environment(),
    };
    // The values borrow the head that is about to change.
    let mut changed = head.clone();
    ops.render(&template).apply(&mut view::Mutable(&mut changed));
    *head = changed;
}
