//! Header values with Envoy's `%COMMAND%` operators, and changes to headers.
//!
//! A value is parsed once into its parts; most are a single literal and cost nothing at a request. An operator that is not known
//! is an error that names it, never a literal `%…%` in somebody's header.

use crate::CompileError;
use crate::request::RequestView;
use lateen_model::dataplane::{HeaderAppend, HeaderMutation, HeaderValueOp, HeaderValuePart};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the operators of a header value may ask. `None` becomes the empty string, as Envoy's header formatter has it.
pub trait TemplateContext {
    /// The request's head (`%REQ(…)%`), before any change of the same [`HeaderOps`].
    type Request: RequestView;

    /// The request.
    fn request(&self) -> &Self::Request;

    /// `%DOWNSTREAM_REMOTE_ADDRESS%`: the client's address, derived from `x-forwarded-for` where that is trusted.
    fn downstream_remote_address(&self) -> Option<SocketAddr>;

    /// `%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%`: the other end of the connection.
    fn downstream_direct_remote_address(&self) -> Option<SocketAddr>;

    /// `%DOWNSTREAM_LOCAL_ADDRESS%`: the original destination.
    fn downstream_local_address(&self) -> Option<SocketAddr>;

    /// `%PROTOCOL%`: `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    fn protocol(&self) -> &str;

    /// `%START_TIME%`: when the request began.
    fn start_time(&self) -> SystemTime;

    /// `%UPSTREAM_HOST%`: the chosen endpoint; `None` before one is chosen.
    fn upstream_host(&self) -> Option<SocketAddr>;

    /// `%HOSTNAME%`: the proxy's host name.
    fn hostname(&self) -> &str;

    /// `%ENVIRONMENT(X)%`: a variable of the proxy's environment.
    fn environment(&self, name: &str) -> Option<&str>;

    /// `%DOWNSTREAM_PEER_URI_SAN%`.
    fn downstream_peer_uri_san(&self) -> Option<&str>;

    /// `%REQUESTED_SERVER_NAME%`: SNI.
    fn requested_server_name(&self) -> Option<&str>;

    /// `%RESPONSE_CODE%`: only known when response headers are changed.
    fn response_code(&self) -> Option<u16>;
}

/// A compiled header value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueTemplate(Vec<HeaderValuePart>);

impl ValueTemplate {
    /// Parses a value; `%%` is a percent sign.
    pub fn parse(value: &str) -> Result<Self, CompileError> {
        HeaderValuePart::parse(value).map(Self).map_err(|reason| CompileError::new("value", reason))
    }

    /// The value, if it needs no context.
    pub fn as_literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [HeaderValuePart::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The value for a request. Control characters cannot come in: header values were validated when they were read, and the other
    /// sources have none.
    pub fn render<C: TemplateContext>(&self, context: &C) -> Cow<'_, str> {
        if let Some(text) = self.as_literal() {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(64);
        for part in &self.0 {
            render(part, context, &mut out);
        }
        Cow::Owned(out)
    }
}

impl ValueTemplate {
    /// Request headers of these names are not there any more.
    fn forget(&mut self, removed: &[String]) {
        for part in &mut self.0 {
            if let HeaderValuePart::Request { name, alternative, .. } = part {
                if alternative.as_ref().is_some_and(|a| removed.contains(a)) {
                    *alternative = None;
                }
                if removed.contains(name) {
                    *name = alternative.take().unwrap_or_default();
                }
            }
        }
    }
}

fn render<C: TemplateContext>(part: &HeaderValuePart, context: &C, out: &mut String) {
    use HeaderValuePart as Part;
    match part {
        Part::Literal(text) => out.push_str(text),
        Part::RemoteAddress { port } => push_address(context.downstream_remote_address(), *port, out),
        Part::DirectRemoteAddress { port } => push_address(context.downstream_direct_remote_address(), *port, out),
        Part::LocalAddress { port } => push_address(context.downstream_local_address(), *port, out),
        Part::Protocol => out.push_str(context.protocol()),
        Part::StartTime => push_time(context.start_time(), out),
        Part::UpstreamHost => push_address(context.upstream_host(), true, out),
        Part::Hostname => out.push_str(context.hostname()),
        Part::Environment(name) => out.push_str(context.environment(name).unwrap_or("-")),
        Part::PeerUriSan => out.push_str(context.downstream_peer_uri_san().unwrap_or_default()),
        Part::ServerName => out.push_str(context.requested_server_name().unwrap_or_default()),
        Part::ResponseCode => {
            if let Some(status) = context.response_code() {
                push_display(status, out);
            }
        }
        Part::Request { name, alternative, max } => {
            let request = context.request();
            let value = header_value(request, name).or_else(|| header_value(request, alternative.as_deref()?));
            if let Some(value) = value {
                out.push_str(truncated(value, *max));
            }
        }
    }
}

fn header_value<'a, R: RequestView>(request: &'a R, name: &str) -> Option<&'a str> {
    match name {
        ":method" => Some(request.method()),
        ":scheme" => Some(request.scheme()),
        ":authority" | "host" => Some(request.authority()),
        ":path" => Some(request.path_and_query()),
        _ => request.header_text(name),
    }
}

/// The first `max` bytes, shortened to a character boundary.
fn truncated(text: &str, max: Option<usize>) -> &str {
    let mut end = max.map_or(text.len(), |m| m.min(text.len()));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn push_address(address: Option<SocketAddr>, port: bool, out: &mut String) {
    match address {
        Some(address) if port => push_display(address, out),
        Some(address) => push_display(address.ip(), out),
        None => {}
    }
}

fn push_display(value: impl std::fmt::Display, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
}

/// `2026-01-31T12:34:56.789Z`, Envoy's default form of `%START_TIME%`.
fn push_time(time: SystemTime, out: &mut String) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let millis = since.subsec_millis();
    push_display(format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"), out);
}

/// Days since 1970-01-01 to a date of the proleptic Gregorian calendar, counted in 400-year eras that begin in March.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

/// Headers that can be changed: a request's or a response's.
pub trait HeadersMut {
    /// Whether there is a header of this lower-case name.
    fn contains(&self, name: &str) -> bool;

    /// Removes all values of the name.
    fn remove(&mut self, name: &str);

    /// Replaces all values of the name by this one.
    fn set(&mut self, name: &str, value: &str);

    /// Adds a value beside those that are there.
    fn append(&mut self, name: &str, value: &str);
}

/// Compiled changes to headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderOps {
    remove: Vec<String>,
    /// Overwriting operations first, then those that add, each in the order of the configuration (as Envoy applies them).
    set: Vec<HeaderOp>,
}

/// One value of [`HeaderOps`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct HeaderOp {
    name: String,
    value: ValueTemplate,
    append: HeaderAppend,
}

impl HeaderOps {
    /// Compiles changes of a request's headers. A value that asks for a header which the same changes remove gets nothing: removals
    /// come first.
    ///
    /// # Errors
    /// An operator that is not supported, by name.
    pub fn for_request(mutation: &HeaderMutation) -> Result<Self, CompileError> {
        let mut ops = Self::for_response(mutation)?;
        for op in &mut ops.set {
            op.value.forget(&ops.remove);
        }
        Ok(ops)
    }

    /// Compiles changes of a response's headers; their values may ask for headers of the request.
    ///
    /// # Errors
    /// An operator that is not supported, by name.
    pub fn for_response(mutation: &HeaderMutation) -> Result<Self, CompileError> {
        let compile = |(i, op): (usize, &HeaderValueOp)| {
            let value = ValueTemplate::parse(&op.value).map_err(|e| e.within(format_args!("set[{i}] ({})", op.name)))?;
            Ok(HeaderOp { name: op.name.to_ascii_lowercase(), value, append: op.append })
        };
        let mut set = mutation.set.iter().enumerate().map(compile).collect::<Result<Vec<_>, CompileError>>()?;
        set.sort_by_key(|op| matches!(op.append, HeaderAppend::AppendOrAdd | HeaderAppend::AddIfAbsent));
        Ok(Self { remove: mutation.remove.iter().map(|n| n.to_ascii_lowercase()).collect(), set })
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }

    /// Values for one request. Made before [`Rendered::apply`], because the values may come from the headers that change.
    pub fn render<C: TemplateContext>(&self, context: &C) -> Rendered<'_> {
        Rendered { ops: self, values: self.set.iter().map(|op| op.value.render(context)).collect() }
    }

    /// Applies changes that need no context; `false` (and nothing is done) if some value does.
    pub fn apply_literals<H: HeadersMut>(&self, headers: &mut H) -> bool {
        if self.set.iter().any(|op| op.value.as_literal().is_none()) {
            return false;
        }
        let values = self.set.iter().map(|op| Cow::Borrowed(op.value.as_literal().unwrap_or_default())).collect();
        Rendered { ops: self, values }.apply(headers);
        true
    }
}

/// Changes with their values.
#[derive(Debug)]
pub struct Rendered<'a> {
    ops: &'a HeaderOps,
    values: SmallVec<[Cow<'a, str>; 8]>,
}

impl Rendered<'_> {
    /// Removes, then overwrites, then adds. Conditions (`ADD_IF_ABSENT`, `OVERWRITE_IF_EXISTS`) are judged on the headers after
    /// the removals and before any value is written; an empty value changes nothing (`keep_empty_value` is not set), both as in
    /// Envoy.
    pub fn apply<H: HeadersMut>(&self, headers: &mut H) {
        for name in &self.ops.remove {
            headers.remove(name);
        }
        let wanted: SmallVec<[bool; 8]> = self
            .ops
            .set
            .iter()
            .zip(&self.values)
            .map(|(op, value)| {
                !value.is_empty()
                    && match op.append {
                        HeaderAppend::AppendOrAdd | HeaderAppend::OverwriteOrAdd => true,
                        HeaderAppend::AddIfAbsent => !headers.contains(&op.name),
                        HeaderAppend::OverwriteIfExists => headers.contains(&op.name),
                    }
            })
            .collect();
        for ((op, value), wanted) in self.ops.set.iter().zip(&self.values).zip(wanted) {
            match op.append {
                _ if !wanted => {}
                HeaderAppend::AppendOrAdd | HeaderAppend::AddIfAbsent => headers.append(&op.name, value),
                HeaderAppend::OverwriteOrAdd | HeaderAppend::OverwriteIfExists => headers.set(&op.name, value),
            }
        }
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
