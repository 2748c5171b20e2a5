//! Pages: admin on 127.0.0.1:15000, readiness on 15021, Prometheus on 15090.

mod metrics;
mod pages;
pub(crate) mod server;
mod stats;

use crate::control_plane::ads::Subscription;
use crate::shared::Shared;
use http::StatusCode;
use lateen_observe::metrics::Format;
use server::{Answer, Ask};
use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const ADMIN: u16 = 15000;
const READINESS: u16 = 15021;
const PROMETHEUS: u16 = 15090;

/// Serves all pages on the current `LocalSet`.
pub(crate) async fn serve(shared: &Arc<Shared>, subscription: &Rc<RefCell<Subscription>>) -> io::Result<()> {
    let (any, loopback) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (state, config) = (shared.clone(), subscription.clone());
    server::serve(SocketAddr::new(loopback, ADMIN), move |ask| pages::admin(&state, &config.borrow(), &ask)).await?;
    let (state, config) = (shared.clone(), subscription.clone());
    server::serve(SocketAddr::new(any, READINESS), move |ask| readiness(&state, &config.borrow(), &ask)).await?;
    let (state, config) = (shared.clone(), subscription.clone());
    server::serve(SocketAddr::new(any, PROMETHEUS), move |ask| match ask.path.as_str() {
        "/stats/prometheus" | "/metrics" => prometheus(&state, &config.borrow()),
        _ => Answer::text(StatusCode::NOT_FOUND, "metrics are at /stats/prometheus\n"),
    })
    .await
}

fn readiness(shared: &Shared, subscription: &Subscription, ask: &Ask) -> Answer {
    match ask.path.as_str() {
        "/healthz/ready" => ready(shared, subscription),
        _ => Answer::text(StatusCode::NOT_FOUND, "readiness is at /healthz/ready\n"),
    }
}

/// Ready: an identity is there, and the first configuration is in force. A proxy that drains is not.
fn ready(shared: &Shared, subscription: &Subscription) -> Answer {
    let unreachable;
    let reason = if shared.drain.is_draining() {
        "draining"
    } else if !shared.identity.is_ready() {
        "waiting for a certificate"
    } else if !shared.configured.load(Ordering::Relaxed) {
        unreachable = subscription.unreachable();
        unreachable.as_deref().unwrap_or("waiting for listeners, routes, clusters and endpoints")
    } else {
        return Answer::text(StatusCode::OK, "ready\n");
    };
    Answer::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n"))
}

fn prometheus(shared: &Shared, subscription: &Subscription) -> Answer {
    let mut text = shared.telemetry.registry().render(Format::Prometheus);
    metrics::append(&mut text, shared, subscription);
    Answer { status: StatusCode::OK, content_type: "text/plain; version=0.0.4; charset=utf-8", body: text.into() }
}
