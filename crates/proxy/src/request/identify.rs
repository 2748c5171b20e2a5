//! The first phase of a request: one normal form of its path, one view of its client, and no header that a stranger could use
//! to steer the mesh.

use super::RequestContext;
use super::info::RequestInfo;
use super::reply::LocalReply;
use crate::connection::Connection;
use crate::http::{Head, KnownHeader, Names, Scheme, Value};
use lateen_model::dataplane::{Direction, ForwardClientCert, TransportProtocol};
use lateen_policy::forwarded::{self, Client, Trust};
use lateen_policy::path;
use lateen_tls::AltName;
use std::borrow::Cow;

/// Who sends the request, as far as headers may tell.
pub(crate) fn client(ctx: &RequestContext<'_>, head: &Head) -> Client {
    let model = &ctx.hcm.model;
    let trust = Trust { use_remote_address: model.use_remote_address, trusted_hops: model.xff_num_trusted_hops };
    let values = head.get_all(KnownHeader::XForwardedFor);
    forwarded::derive(ctx.connection.remote.ip(), values, trust, is_of_the_mesh(ctx))
}

/// The pod's own application, or a peer that proved a mesh identity.
fn is_of_the_mesh(ctx: &RequestContext<'_>) -> bool {
    match ctx.direction {
        // A gateway's listeners are outbound, too, but their clients are strangers.
        Direction::Outbound if !ctx.hcm.model.use_remote_address => true,
        Direction::Outbound | Direction::Inbound | Direction::Unspecified => ctx.connection.peer_uri().is_some(),
    }
}

/// Brings the head into the form that filters, routes and the upstream see.
pub(crate) fn normalize(ctx: &RequestContext<'_>, head: &mut Head, info: &RequestInfo) -> Result<(), LocalReply> {
    if head.authority().is_none_or(str::is_empty) {
        return Err(LocalReply::refused(400, "missing_host_header"));
    }
    normalize_path(ctx, head)?;
    remove_what_steers(head, &info.client);
    if ctx.hcm.model.use_remote_address
        && let Ok(address) = Value::new(info.client.address.to_string().as_bytes())
    {
        // What is behind a gateway learns who asked it.
        head.set(KnownHeader::XEnvoyExternalAddress, address);
    }
    set_scheme(ctx.connection, head, &info.client);
    if info.client.append_forwarded_for {
        append_forwarded_for(head, ctx.connection);
    }
    client_certificate(ctx, head);
    if ctx.hcm.model.generate_request_id {
        request_id(ctx, head);
    }
    Ok(())
}

fn normalize_path(ctx: &RequestContext<'_>, head: &mut Head) -> Result<(), LocalReply> {
    if head.is_connect() {
        return Ok(());
    }
    if head.path_and_query() == "*" {
        return Err(LocalReply::refused(404, "absolute_path_rejected"));
    }
    let changed = match path::normalize(head.path_and_query(), ctx.hcm.model.path_normalization) {
        Ok(Cow::Borrowed(_)) => return Ok(()),
        Ok(Cow::Owned(path)) => path,
        Err(_) => return Err(LocalReply::refused(400, "path_normalization_failed")),
    };
    head.set_path_and_query(&changed).map_err(|_| LocalReply::refused(400, "path_normalization_failed"))
}

/// What would set timeouts, tries and traces is believed from nobody, as with Envoy, the pod's own application included: who
/// configures the mesh decides on them. From outside of the mesh no `x-envoy-*` comes in at all (CVE-2023-27487 and its like).
fn remove_what_steers(head: &mut Head, client: &Client) {
    head.remove_all(Names::STEERING);
    if !client.envoy_headers_trusted {
        let is_exchange = |known| matches!(known, KnownHeader::XEnvoyPeerMetadata | KnownHeader::XEnvoyPeerMetadataId);
        head.remove_if(|name, _| name.as_bytes().starts_with(b"x-envoy-") && !is_exchange(name.known()));
        head.remove(KnownHeader::XIstioAttributes);
    }
    if !client.forwarded_headers_trusted {
        head.remove(KnownHeader::XForwardedProto);
        head.remove(KnownHeader::XForwardedHost);
        head.remove(KnownHeader::XForwardedPort);
    }
}

/// `x-forwarded-proto` says what the client spoke to the first proxy; without it, what was spoken to us.
fn set_scheme(connection: &Connection, head: &mut Head, client: &Client) {
    let told = head.get_str(KnownHeader::XForwardedProto).filter(|_| client.forwarded_headers_trusted);
    let scheme = match told {
        Some(proto) if proto.eq_ignore_ascii_case("https") => Scheme::Https,
        Some(proto) if proto.eq_ignore_ascii_case("http") => Scheme::Http,
        _ if connection.transport == TransportProtocol::Tls && connection.tls.is_some() => Scheme::Https,
        _ => Scheme::Http,
    };
    head.set_scheme(Some(scheme));
    head.set(KnownHeader::XForwardedProto, Value::from_static(if scheme == Scheme::Https { "https" } else { "http" }));
}

fn append_forwarded_for(head: &mut Head, connection: &Connection) {
    let address = connection.remote.ip().to_string();
    let before: Vec<&[u8]> = head.get_all(KnownHeader::XForwardedFor).collect();
    let mut all = before.join(&b","[..]);
    if !all.is_empty() {
        all.push(b',');
    }
    all.extend_from_slice(address.as_bytes());
    if let Ok(value) = Value::new(&all) {
        head.set(KnownHeader::XForwardedFor, value);
    }
}

/// `x-forwarded-client-cert` says only what was verified here, or by proxies of the mesh before.
fn client_certificate(ctx: &RequestContext<'_>, head: &mut Head) {
    let mode = ctx.hcm.model.forward_client_cert;
    let verified = ctx.connection.tls.as_ref().and_then(|tls| tls.certificate.as_deref());
    let element =
        verified.map(|c| ctx.connection.forwarded_client_cert.get_or_init(|| client_certificate_element(ctx, c)).as_str());
    let kept = match (mode, element) {
        (ForwardClientCert::ForwardOnly, _) => return,
        (ForwardClientCert::Sanitize, _) | (_, None) => {
            head.remove(KnownHeader::XForwardedClientCert);
            return;
        }
        (ForwardClientCert::SanitizeSet, _) => None,
        (ForwardClientCert::AppendForward, _) => head.get(KnownHeader::XForwardedClientCert).map(<[u8]>::to_vec),
    };
    let Some(element) = element else { return };
    let mut all = kept.unwrap_or_default();
    if !all.is_empty() {
        all.push(b',');
    }
    all.extend_from_slice(element.as_bytes());
    if let Ok(value) = Value::new(&all) {
        head.set(KnownHeader::XForwardedClientCert, value);
    }
}

/// Envoy's form, with `set_current_client_cert_details` of Istio: subject, DNS and URI.
fn client_certificate_element(ctx: &RequestContext<'_>, certificate: &lateen_tls::Certificate) -> String {
    let mut element = String::with_capacity(256);
    // Our own name is that of the certificate that this client was shown: a gateway's from a Secret has none.
    let own = ctx.connection.tls.as_ref().and_then(|tls| tls.own.as_deref()).and_then(uri_of);
    if let Some(own) = own {
        element.push_str("By=");
        element.push_str(own);
        element.push(';');
    }
    element.push_str("Hash=");
    element.push_str(&certificate.fingerprint_hex());
    element.push_str(";Subject=\"");
    // A quote would end the field (CVE-2023-27493).
    certificate.subject().chars().for_each(|c| {
        if matches!(c, '"' | '\\') {
            element.push('\\');
        }
        element.push(c);
    });
    element.push_str("\";URI=");
    element.push_str(uri_of(certificate).unwrap_or_default());
    for name in certificate.names() {
        if let AltName::Dns(name) = name {
            element.push_str(";DNS=");
            element.push_str(name);
        }
    }
    element
}

fn uri_of(certificate: &lateen_tls::Certificate) -> Option<&str> {
    certificate.names().iter().find_map(|name| match name {
        AltName::Uri(uri) => Some(&**uri),
        _ => None,
    })
}

fn request_id(ctx: &RequestContext<'_>, head: &mut Head) {
    let model = &ctx.hcm.model;
    let keep = !model.use_remote_address || model.preserve_external_request_id;
    if keep && head.contains(KnownHeader::XRequestId) {
        return;
    }
    let id = ctx.worker.telemetry.request_id();
    if let Ok(value) = Value::new(id.as_bytes()) {
        head.set(KnownHeader::XRequestId, value);
    }
}

/// Whether the listener lets the upgrade pass that the request asks for.
pub(crate) fn check_upgrade(ctx: &RequestContext<'_>, head: &Head) -> Result<(), LocalReply> {
    let Some(protocol) = head.upgrade() else { return Ok(()) };
    let allowed = ctx.hcm.model.upgrades.iter().any(|u| u.as_bytes().eq_ignore_ascii_case(protocol));
    if allowed { Ok(()) } else { Err(LocalReply::upgrade_refused()) }
}

#[cfg(test)]
#[path = "identify_tests.rs"]
mod tests;
