//! Answers that the proxy makes itself, with Envoy's texts, details and flags.

use super::RequestContext;
use super::info::RequestInfo;
use crate::http::{BodyWriter, Frame, Head, KnownHeader, Name, Responder, Value, Version};
use crate::stream::Stream;
use crate::upstream::ConnectError;
use bytes::Bytes;
use lateen_model::dataplane::FaultError;
use lateen_observe::ResponseFlag;
use std::borrow::Cow;

/// An answer of the proxy's own.
#[derive(Debug)]
pub(crate) struct LocalReply {
    pub(crate) status: u16,
    body: Cow<'static, [u8]>,
    details: Cow<'static, str>,
    flag: Option<ResponseFlag>,
    headers: Vec<(&'static str, String)>,
    /// gRPC's status, where it is not the one that belongs to the HTTP status.
    grpc_status: Option<u32>,
    /// Whether the route does not change its head, as it does with all others.
    unchanged: bool,
    /// Tells of an exchange with an upstream that failed.
    of_a_reset: bool,
}

impl LocalReply {
    /// An answer with this status, text and `%RESPONSE_CODE_DETAILS%`.
    pub(crate) fn new(status: u16, body: impl Into<Cow<'static, [u8]>>, details: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            body: body.into(),
            details: details.into(),
            flag: None,
            headers: Vec::new(),
            grpc_status: None,
            unchanged: false,
            of_a_reset: false,
        }
    }

    fn with_flag(mut self, flag: ResponseFlag) -> Self {
        self.flag = Some(flag);
        self
    }

    /// A request that cannot be served as it is.
    pub(crate) fn bad_request(details: &'static str) -> Self {
        Self::new(400, &b"Bad Request"[..], details).with_flag(ResponseFlag::DownstreamProtocolError)
    }

    /// A request that was read and is not served: Envoy says no word about it, and blames no protocol.
    pub(crate) fn refused(status: u16, details: &'static str) -> Self {
        Self::new(status, &b""[..], details)
    }

    /// No route matches.
    pub(crate) fn no_route() -> Self {
        Self::new(404, &b""[..], "route_not_found").with_flag(ResponseFlag::NoRouteFound)
    }

    /// The mesh knows the host, and the control plane did not say in time how to get there.
    pub(crate) fn not_learnt() -> Self {
        Self::new(503, &b""[..], "on_demand_discovery_timeout").with_flag(ResponseFlag::NoClusterFound)
    }

    /// The route's cluster does not exist.
    pub(crate) fn no_cluster(status: u16) -> Self {
        Self::new(status, &b""[..], "cluster_not_found").with_flag(ResponseFlag::NoClusterFound)
    }

    /// A policy refuses.
    pub(crate) fn denied(policy: Option<&str>) -> Self {
        Self::new(403, &b"RBAC: access denied"[..], lateen_policy::rbac::denied_details(policy))
    }

    /// A limit on requests is reached.
    pub(crate) fn rate_limited(retry_after: Option<u64>) -> Self {
        let mut reply = Self::new(429, &b"local_rate_limited"[..], "local_rate_limited").with_flag(ResponseFlag::RateLimited);
        reply.headers.push(("x-envoy-ratelimited", "true".to_owned()));
        reply.headers.extend(retry_after.map(|seconds| ("retry-after", seconds.to_string())));
        reply
    }

    /// An upgrade that the listener does not allow.
    pub(crate) fn upgrade_refused() -> Self {
        Self::new(403, &b""[..], "upgrade_failed")
    }

    /// A route's own redirect.
    pub(crate) fn redirect(status: u16, location: String) -> Self {
        let mut reply = Self::new(status, &b""[..], "direct_response");
        reply.headers.push(("location", location));
        reply
    }

    /// A fault that a route injects.
    pub(crate) fn fault(error: FaultError) -> Self {
        let (status, grpc_status) = match error {
            FaultError::Http(status) => (status, None),
            // For a client that does not speak gRPC it is no error, as in Envoy.
            FaultError::Grpc(code) => (200, Some(code)),
        };
        let reply = Self::new(status, &b"fault filter abort"[..], "fault_filter_abort").with_flag(ResponseFlag::FaultInjected);
        Self { grpc_status, ..reply }
    }

    /// The answer to a question of a browser, with these permissions.
    pub(crate) fn preflight<'a>(headers: impl Iterator<Item = (&'static str, &'a str)>) -> Self {
        let mut reply = Self { unchanged: true, ..Self::new(200, &b""[..], "cors_response") };
        reply.headers.extend(headers.map(|(name, value)| (name, value.to_owned())));
        reply
    }

    /// A route's own answer.
    pub(crate) fn direct(status: u16, body: Vec<u8>) -> Self {
        Self::new(status, body, "direct_response")
    }

    /// No endpoint may be used.
    pub(crate) fn no_healthy_upstream() -> Self {
        Self::new(503, &b"no healthy upstream"[..], "no_healthy_upstream").with_flag(ResponseFlag::NoHealthyUpstream)
    }

    /// A circuit breaker is open.
    pub(crate) fn overflow() -> Self {
        let mut reply = Self::reset(503, "overflow", None).with_flag(ResponseFlag::UpstreamOverflow);
        reply.headers.push(("x-envoy-overloaded", "true".to_owned()));
        reply
    }

    /// No connection.
    pub(crate) fn connect_failure(error: &ConnectError) -> Self {
        let reason = match error {
            ConnectError::Timeout => "connection timeout",
            ConnectError::Tcp(_) | ConnectError::Tls(_) => "remote connection failure",
        };
        Self::reset(503, reason, error.transport_failure().as_deref()).with_flag(ResponseFlag::UpstreamConnectionFailure)
    }

    /// The upstream closed the connection before it answered.
    pub(crate) fn terminated() -> Self {
        Self::reset(503, "connection termination", None).with_flag(ResponseFlag::UpstreamConnectionTermination)
    }

    /// The upstream reset the stream before it answered.
    pub(crate) fn remote_reset() -> Self {
        Self::reset(503, "remote reset", None).with_flag(ResponseFlag::UpstreamRemoteReset)
    }

    /// The upstream's answer is not HTTP.
    pub(crate) fn upstream_protocol_error() -> Self {
        Self::reset(502, "protocol error", None).with_flag(ResponseFlag::UpstreamProtocolError)
    }

    /// No answer in time.
    pub(crate) fn timeout(details: &'static str) -> Self {
        Self::new(504, &b"upstream request timeout"[..], details).with_flag(ResponseFlag::UpstreamRequestTimeout)
    }

    /// The log tells why the transport failed; the client is not told.
    fn reset(status: u16, reason: &str, transport_failure: Option<&str>) -> Self {
        let body = format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}");
        let failure = transport_failure.map(|text| format!("|{text}")).unwrap_or_default();
        let details = format!("upstream_reset_before_response_started{{{reason}{failure}}}").replace(char::is_whitespace, "_");
        Self { of_a_reset: true, ..Self::new(status, body.into_bytes(), details) }
    }

    /// A failed exchange tells whether it was the first, as Envoy's does.
    fn tell_retries(&mut self, attempts: u32) {
        if self.of_a_reset && attempts > 1 {
            self.body = String::from_utf8_lossy(&self.body)
                .replacen(" reset reason: ", " retried and the latest reset reason: ", 1)
                .into_bytes()
                .into();
        }
    }

    /// Writes flag and details into the record.
    fn note_into(&self, info: &mut RequestInfo) {
        if let Some(flag) = self.flag {
            info.flags.insert(flag);
        }
        info.details = self.details.clone();
    }

    /// Sends it; gRPC requests are answered in gRPC's way.
    pub(crate) async fn send(
        mut self,
        ctx: &RequestContext<'_>,
        request: &Head,
        responder: Responder<Stream>,
        info: &mut RequestInfo,
    ) {
        self.note_into(info);
        self.tell_retries(info.attempts);
        let Ok(mut head) = Head::response(if info.grpc { 200 } else { self.status }) else { return };
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) = (Name::new(name.as_bytes()), Value::new(value.as_bytes())) {
                head.set(name, value);
            }
        }
        let body = if info.grpc { self.grpc_head(&mut head) } else { self.plain_head(&mut head, info.protocol) };
        if !self.unchanged {
            super::respond::apply_route(ctx, request, &mut head, info);
        }
        super::respond::finish_head(ctx, &mut head, info);
        info.note_grpc_status(&head);
        info.own_status = Some(self.status);
        let end = body.is_empty();
        info.response_code = head.status();
        info.response_body_bytes = if request.is_head() { 0 } else { body.len() as u64 };
        info.response_head_bytes = head.byte_size() as u64;
        let sent = match responder.send_response(&head, end) {
            Ok(writer) => write_all(writer, body).await,
            Err(_) => false,
        };
        if !sent {
            info.flags.insert(ResponseFlag::DownstreamConnectionTermination);
        }
        info.response_head = Some(head);
    }

    fn plain_head(&self, head: &mut Head, protocol: Version) -> Bytes {
        let body = Bytes::copy_from_slice(&self.body);
        // HTTP/2 ends a message by other means.
        if !body.is_empty() || protocol != Version::Http2 {
            head.set_number(KnownHeader::ContentLength, body.len() as u64);
        }
        if !body.is_empty() {
            head.set(KnownHeader::ContentType, Value::from_static("text/plain"));
        }
        body
    }

    /// Trailers-only, with the status that the gRPC specification maps the HTTP status to.
    fn grpc_head(&self, head: &mut Head) -> Bytes {
        head.set(KnownHeader::ContentType, Value::from_static("application/grpc"));
        head.set_number(KnownHeader::GrpcStatus, self.grpc_status.map_or_else(|| grpc_code(self.status), u64::from));
        let message = percent_encode(&self.body);
        if let Ok(value) = Value::new(message.as_bytes())
            && !message.is_empty()
        {
            head.set(KnownHeader::GrpcMessage, value);
        }
        Bytes::new()
    }
}

async fn write_all(mut writer: BodyWriter<Stream>, body: Bytes) -> bool {
    if !body.is_empty() && writer.write(Frame::Data(body)).await.is_err() {
        return false;
    }
    writer.finish().await.is_ok()
}

/// gRPC's "HTTP to gRPC Status Code Mapping", as Envoy extends it.
fn grpc_code(status: u16) -> u64 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// gRPC over HTTP/2, "Percent-Encoded": printable ASCII but `%` stays.
fn percent_encode(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
