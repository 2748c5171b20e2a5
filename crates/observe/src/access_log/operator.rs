//! Envoy's command operators (`%NAME(ARGUMENT):LENGTH%`): which there are, and the value of each for a record.

use super::format::FormatError;
use super::record::{Address, LogRecord, TlsInfo};
use super::timestamp::{self, Part};
use std::net::IpAddr;
use std::time::Duration;

/// A compiled operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Operator {
    what: What,
    /// At most so many bytes of the value are printed.
    limit: Option<usize>,
}

/// Where headers are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Headers {
    Request,
    Response,
    Trailer,
}

/// Which part of an address is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressPart {
    Whole,
    WithoutPort,
    Port,
}

/// Which address is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    UpstreamHost,
    UpstreamLocal,
    DownstreamLocal,
    DownstreamRemote,
    DownstreamDirectRemote,
}

/// What a TLS operator prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TlsPart {
    Version,
    Cipher,
    PeerUriSan,
    LocalUriSan,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    StartTime,
    StartTimeAs(Box<[Part]>),
    Duration,
    RequestDuration,
    RequestTxDuration,
    ResponseDuration,
    ResponseTxDuration,
    /// Main name, alternative, and whether a query is cut off.
    Header(Headers, Box<str>, Option<Box<str>>, bool),
    Protocol,
    ResponseCode,
    ResponseFlags,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    UpstreamCluster,
    UpstreamRequestAttempts,
    Address(Whose, AddressPart),
    DownstreamTls(TlsPart),
    UpstreamTls(TlsPart),
    RequestedServerName,
    RouteName,
    GrpcStatus,
    GrpcStatusNumber,
    TraceId,
    StreamId,
    ConnectionId,
    /// Known when the format is compiled.
    Constant(Box<str>),
}

/// A value, as its format needs it.
pub(super) enum Shown<'a> {
    Absent,
    Number(u64),
    /// From outside or not, it is escaped.
    Text(&'a [u8]),
    /// Printed into the scratch buffer; holds nothing that needs escaping.
    Scratch,
}

impl Operator {
    /// Compiles one operator.
    pub(super) fn compile(name: &str, argument: Option<&str>, limit: Option<usize>) -> Result<Self, FormatError> {
        let found = simple().into_iter().find(|(n, _)| *n == name).map(|(_, what)| what);
        let what = match (found.or_else(|| (name == "HOSTNAME").then(hostname)), argument) {
            (Some(what), None) => what,
            (Some(_), Some(_)) => return Err(FormatError::Argument { operator: name.into(), problem: "takes none" }),
            (None, argument) => with_argument(name, argument)?,
        };
        Ok(Self { what, limit })
    }

    /// The operator's value; what has to be printed first goes into `scratch`, which is empty at the call.
    pub(super) fn show<'a>(&'a self, record: &LogRecord<'a>, scratch: &mut Vec<u8>) -> Shown<'a> {
        let shown = self.what.show(record, scratch);
        match (shown, self.limit) {
            (Shown::Text(text), Some(limit)) => Shown::Text(&text[..text.len().min(limit)]),
            (Shown::Scratch, Some(limit)) => {
                scratch.truncate(limit);
                Shown::Scratch
            }
            (shown, _) => shown,
        }
    }
}

/// The operators without an argument. `HOSTNAME` and those with one are made where they are compiled.
fn simple() -> [(&'static str, What); 48] {
    use AddressPart::{Port, Whole, WithoutPort};
    [
        ("START_TIME", What::StartTime),
        ("DURATION", What::Duration),
        ("REQUEST_DURATION", What::RequestDuration),
        ("REQUEST_TX_DURATION", What::RequestTxDuration),
        ("RESPONSE_DURATION", What::ResponseDuration),
        ("RESPONSE_TX_DURATION", What::ResponseTxDuration),
        ("PROTOCOL", What::Protocol),
        ("RESPONSE_CODE", What::ResponseCode),
        ("RESPONSE_FLAGS", What::ResponseFlags),
        ("RESPONSE_CODE_DETAILS", What::ResponseCodeDetails),
        ("CONNECTION_TERMINATION_DETAILS", What::ConnectionTerminationDetails),
        ("UPSTREAM_TRANSPORT_FAILURE_REASON", What::UpstreamTransportFailureReason),
        ("BYTES_RECEIVED", What::BytesReceived),
        ("BYTES_SENT", What::BytesSent),
        ("UPSTREAM_CLUSTER", What::UpstreamCluster),
        ("UPSTREAM_CLUSTER_RAW", What::UpstreamCluster),
        ("UPSTREAM_REQUEST_ATTEMPT_COUNT", What::UpstreamRequestAttempts),
        ("UPSTREAM_HOST", What::Address(Whose::UpstreamHost, Whole)),
        ("UPSTREAM_REMOTE_ADDRESS", What::Address(Whose::UpstreamHost, Whole)),
        ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", What::Address(Whose::UpstreamHost, WithoutPort)),
        ("UPSTREAM_REMOTE_PORT", What::Address(Whose::UpstreamHost, Port)),
        ("UPSTREAM_LOCAL_ADDRESS", What::Address(Whose::UpstreamLocal, Whole)),
        ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", What::Address(Whose::UpstreamLocal, WithoutPort)),
        ("UPSTREAM_LOCAL_PORT", What::Address(Whose::UpstreamLocal, Port)),
        ("DOWNSTREAM_LOCAL_ADDRESS", What::Address(Whose::DownstreamLocal, Whole)),
        ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", What::Address(Whose::DownstreamLocal, WithoutPort)),
        ("DOWNSTREAM_LOCAL_PORT", What::Address(Whose::DownstreamLocal, Port)),
        ("DOWNSTREAM_REMOTE_ADDRESS", What::Address(Whose::DownstreamRemote, Whole)),
        ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", What::Address(Whose::DownstreamRemote, WithoutPort)),
        ("DOWNSTREAM_REMOTE_PORT", What::Address(Whose::DownstreamRemote, Port)),
        ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", What::Address(Whose::DownstreamDirectRemote, Whole)),
        ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", What::Address(Whose::DownstreamDirectRemote, WithoutPort)),
        ("DOWNSTREAM_DIRECT_REMOTE_PORT", What::Address(Whose::DownstreamDirectRemote, Port)),
        ("DOWNSTREAM_TLS_VERSION", What::DownstreamTls(TlsPart::Version)),
        ("DOWNSTREAM_TLS_CIPHER", What::DownstreamTls(TlsPart::Cipher)),
        ("DOWNSTREAM_PEER_URI_SAN", What::DownstreamTls(TlsPart::PeerUriSan)),
        ("DOWNSTREAM_LOCAL_URI_SAN", What::DownstreamTls(TlsPart::LocalUriSan)),
        ("UPSTREAM_TLS_VERSION", What::UpstreamTls(TlsPart::Version)),
        ("UPSTREAM_TLS_CIPHER", What::UpstreamTls(TlsPart::Cipher)),
        ("UPSTREAM_PEER_URI_SAN", What::UpstreamTls(TlsPart::PeerUriSan)),
        ("UPSTREAM_LOCAL_URI_SAN", What::UpstreamTls(TlsPart::LocalUriSan)),
        ("REQUESTED_SERVER_NAME", What::RequestedServerName),
        ("ROUTE_NAME", What::RouteName),
        ("GRPC_STATUS", What::GrpcStatus),
        ("GRPC_STATUS_NUMBER", What::GrpcStatusNumber),
        ("TRACE_ID", What::TraceId),
        ("STREAM_ID", What::StreamId),
        ("CONNECTION_ID", What::ConnectionId),
    ]
}

/// The operators that take an argument, or whose value is known when they are compiled.
const OTHERS: [&str; 6] = ["HOSTNAME", "REQ", "REQ_WITHOUT_QUERY", "RESP", "TRAILER", "ENVIRONMENT"];

/// The names of all operators.
pub(super) fn names() -> Vec<&'static str> {
    simple().iter().map(|(name, _)| *name).chain(OTHERS).collect()
}

fn hostname() -> What {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    What::Constant(name.trim().into())
}

fn with_argument(name: &str, argument: Option<&str>) -> Result<What, FormatError> {
    let missing = FormatError::Argument { operator: name.into(), problem: "needs one in parentheses" };
    Ok(match name {
        "REQ" => header(Headers::Request, argument.ok_or(missing)?, false),
        "REQ_WITHOUT_QUERY" => header(Headers::Request, argument.ok_or(missing)?, true),
        "RESP" => header(Headers::Response, argument.ok_or(missing)?, false),
        "TRAILER" => header(Headers::Trailer, argument.ok_or(missing)?, false),
        "ENVIRONMENT" => What::Constant(std::env::var(argument.ok_or(missing)?).unwrap_or_default().into()),
        _ => return Err(FormatError::Operator(name.into())),
    })
}

/// `%START_TIME(…)%` is told apart before, because its argument holds percent signs.
pub(super) fn start_time(format: &str) -> Result<Operator, FormatError> {
    let parts = timestamp::compile(format).map_err(FormatError::TimeFormat)?;
    Ok(Operator { what: What::StartTimeAs(parts), limit: None })
}

fn header(headers: Headers, argument: &str, without_query: bool) -> What {
    let (main, alternative) = match argument.split_once('?') {
        Some((main, alternative)) => (main, Some(alternative.to_ascii_lowercase().into())),
        None => (argument, None),
    };
    What::Header(headers, main.to_ascii_lowercase().into(), alternative, without_query)
}

impl What {
    fn show<'a>(&'a self, record: &LogRecord<'a>, scratch: &mut Vec<u8>) -> Shown<'a> {
        match self {
            Self::StartTime => {
                timestamp::write_default(scratch, record.start);
                Shown::Scratch
            }
            Self::StartTimeAs(parts) => {
                timestamp::write(scratch, parts, record.start);
                Shown::Scratch
            }
            Self::Duration => millis(record.duration),
            Self::RequestDuration => millis(record.request_duration),
            Self::RequestTxDuration => millis(record.request_tx_duration),
            Self::ResponseDuration => millis(record.response_duration),
            Self::ResponseTxDuration => millis(record.response_tx_duration),
            Self::Header(headers, main, alternative, without_query) => {
                let headers = match headers {
                    Headers::Request => record.request_headers,
                    Headers::Response => record.response_headers,
                    Headers::Trailer => record.response_trailers,
                };
                let found = headers.first(main).or_else(|| headers.first(alternative.as_deref()?));
                match found {
                    Some(value) if *without_query => Shown::Text(value.split(|byte| *byte == b'?').next().unwrap_or(value)),
                    found => bytes(found),
                }
            }
            Self::Protocol => text(record.protocol),
            Self::ResponseCode => Shown::Number(record.response_code.unwrap_or(0).into()),
            Self::ResponseFlags => {
                // Envoy has a text for no flags, `-`, in every format.
                record.flags.write_to(scratch);
                Shown::Scratch
            }
            Self::ResponseCodeDetails => without_spaces(record.response_code_details, scratch),
            Self::ConnectionTerminationDetails => without_spaces(record.connection_termination_details, scratch),
            Self::UpstreamTransportFailureReason => text(record.upstream_transport_failure_reason),
            Self::BytesReceived => Shown::Number(record.bytes_received),
            Self::BytesSent => Shown::Number(record.bytes_sent),
            Self::UpstreamCluster => text(record.upstream_cluster),
            Self::UpstreamRequestAttempts => number(record.upstream_request_attempts.map(u64::from)),
            Self::Address(whose, part) => address(whose.of(record), *part, scratch),
            Self::DownstreamTls(part) => text(part.of(&record.downstream_tls)),
            Self::UpstreamTls(part) => text(part.of(&record.upstream_tls)),
            Self::RequestedServerName => text(record.requested_server_name),
            Self::RouteName => text(record.route_name),
            Self::GrpcStatus => text(record.grpc_status.map(crate::istio::GrpcStatus::name)),
            Self::GrpcStatusNumber => number(record.grpc_status.map(|status| status.code().into())),
            Self::TraceId => text(record.trace_id),
            Self::StreamId => text(record.stream_id),
            Self::ConnectionId => number(record.connection_id),
            Self::Constant(value) => text(Some(value)),
        }
    }
}

impl Whose {
    fn of<'a>(self, record: &LogRecord<'a>) -> Option<Address<'a>> {
        match self {
            Self::UpstreamHost => record.upstream_host,
            Self::UpstreamLocal => record.upstream_local_address,
            Self::DownstreamLocal => record.downstream_local_address,
            Self::DownstreamRemote => record.downstream_remote_address,
            Self::DownstreamDirectRemote => record.downstream_direct_remote_address,
        }
    }
}

impl TlsPart {
    fn of<'a>(self, tls: &TlsInfo<'a>) -> Option<&'a str> {
        match self {
            Self::Version => tls.version,
            Self::Cipher => tls.cipher,
            Self::PeerUriSan => tls.peer_uri_san,
            Self::LocalUriSan => tls.local_uri_san,
        }
    }
}

fn bytes(value: Option<&[u8]>) -> Shown<'_> {
    match value {
        Some(value) if !value.is_empty() => Shown::Text(value),
        _ => Shown::Absent,
    }
}

fn text(value: Option<&str>) -> Shown<'_> {
    bytes(value.map(str::as_bytes))
}

fn number<'a>(value: Option<u64>) -> Shown<'a> {
    value.map_or(Shown::Absent, Shown::Number)
}

fn millis<'a>(value: Option<Duration>) -> Shown<'a> {
    number(value.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
}

/// Envoy writes these unquoted, so a space would shift the columns after them.
fn without_spaces<'a>(value: Option<&'a str>, scratch: &mut Vec<u8>) -> Shown<'a> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Shown::Absent };
    if !value.contains(char::is_whitespace) {
        return Shown::Text(value.as_bytes());
    }
    let underscored = |c: char| if c.is_whitespace() { '_' } else { c };
    let replaced: String = value.chars().map(underscored).collect();
    super::escape::plain(scratch, replaced.as_bytes());
    Shown::Scratch
}

fn address<'a>(address: Option<Address<'a>>, part: AddressPart, scratch: &mut Vec<u8>) -> Shown<'a> {
    let socket = match address {
        None => return Shown::Absent,
        Some(Address::Named(name)) => return if part == AddressPart::Port { Shown::Absent } else { text(Some(name)) },
        Some(Address::Socket(socket)) => socket,
    };
    if part == AddressPart::Port {
        return Shown::Number(socket.port().into());
    }
    let bracket = part == AddressPart::Whole && socket.is_ipv6();
    if bracket {
        scratch.push(b'[');
    }
    match socket.ip() {
        IpAddr::V4(ip) => {
            for (index, octet) in ip.octets().into_iter().enumerate() {
                if index > 0 {
                    scratch.push(b'.');
                }
                scratch.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        IpAddr::V6(ip) => {
            use std::io::Write;
            // Writing to a vector cannot fail.
            let _ = write!(scratch, "{ip}");
        }
    }
    if bracket {
        scratch.push(b']');
    }
    if part == AddressPart::Whole {
        scratch.push(b':');
        scratch.extend_from_slice(itoa::Buffer::new().format(socket.port()).as_bytes());
    }
    Shown::Scratch
}
