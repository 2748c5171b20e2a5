//! Pieces that several resources use.

use crate::any::{OrderedFileLog, OrderedFormat, OrderedStruct, any, empty_any};
use crate::pb::{accesslog, core, google, matcher, route};
use ipnet::IpNet;
use lateen_model::dataplane as m;
use std::net::SocketAddr;
use std::time::Duration;

pub(super) fn duration(value: Duration) -> google::Duration {
    google::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    }
}

pub(super) fn uint32(value: u32) -> Option<google::UInt32Value> {
    Some(google::UInt32Value { value })
}

pub(super) fn boolean(value: bool) -> Option<google::BoolValue> {
    Some(google::BoolValue { value })
}

pub(super) fn address(value: SocketAddr) -> core::Address {
    core::Address { address: Some(core::address::Address::SocketAddress(socket_address(value))) }
}

/// A name that the proxy resolves.
pub(super) fn name_address(host: &str, port: u16) -> core::Address {
    let socket = core::SocketAddress {
        address: host.to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    core::Address { address: Some(core::address::Address::SocketAddress(socket)) }
}

pub(super) fn socket_address(value: SocketAddr) -> core::SocketAddress {
    core::SocketAddress {
        address: value.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(value.port().into())),
        ..Default::default()
    }
}

pub(super) fn cidr(value: &IpNet) -> core::CidrRange {
    core::CidrRange { address_prefix: value.addr().to_string(), prefix_len: uint32(value.prefix_len().into()) }
}

/// Resources over the ADS stream; a client waits for them as long as it takes.
pub(super) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
        initial_fetch_timeout: Some(google::Duration::default()),
        resource_api_version: core::ApiVersion::V3.into(),
        ..Default::default()
    }
}

pub(super) fn regex(pattern: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: pattern.to_owned(), engine_type: None }
}

pub(super) fn string_match(value: &m::StringMatch) -> matcher::StringMatcher {
    use matcher::string_matcher::MatchPattern;
    let pattern = match &value.predicate {
        m::StringPredicate::Exact(text) => MatchPattern::Exact(text.clone()),
        m::StringPredicate::Prefix(text) => MatchPattern::Prefix(text.clone()),
        m::StringPredicate::Suffix(text) => MatchPattern::Suffix(text.clone()),
        m::StringPredicate::Contains(text) => MatchPattern::Contains(text.clone()),
        m::StringPredicate::Regex(regex_) => MatchPattern::SafeRegex(regex(regex_.pattern())),
    };
    matcher::StringMatcher { ignore_case: value.ignore_case, match_pattern: Some(pattern) }
}

pub(super) fn header_match(value: &m::HeaderMatch) -> route::HeaderMatcher {
    use route::header_matcher::HeaderMatchSpecifier;
    let specifier = match &value.predicate {
        m::HeaderPredicate::Present(present) => HeaderMatchSpecifier::PresentMatch(*present),
        m::HeaderPredicate::Value(text) => HeaderMatchSpecifier::StringMatch(string_match(text)),
    };
    route::HeaderMatcher {
        name: value.name.clone(),
        invert_match: value.invert,
        treat_missing_header_as_empty: value.missing_is_empty,
        header_match_specifier: Some(specifier),
    }
}

pub(super) fn inline_bytes(value: &[u8]) -> core::DataSource {
    core::DataSource { specifier: Some(core::data_source::Specifier::InlineBytes(value.to_vec())), watched_directory: None }
}

/// Operators that Envoy finds in an extension, its name, and the type of its (empty) configuration.
const FORMATTERS: [(&str, &str, &str); 2] = [
    (
        "%REQ_WITHOUT_QUERY",
        "envoy.formatter.req_without_query",
        "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
    ),
    ("%CEL", "envoy.formatter.cel", "envoy.extensions.formatter.cel.v3.Cel"),
];

fn formatters(uses: impl Fn(&str) -> bool) -> Vec<core::TypedExtensionConfig> {
    let used = FORMATTERS.iter().filter(|(operator, ..)| uses(operator));
    used.map(|(_, name, ty)| core::TypedExtensionConfig { name: (*name).to_owned(), typed_config: Some(empty_any(ty)) }).collect()
}

pub(super) fn access_log(value: &m::AccessLog) -> accesslog::AccessLog {
    let m::AccessLogTarget::File(path) = &value.target;
    let mut format = match &value.format {
        m::AccessLogFormat::Text(text) => OrderedFormat {
            text_format_source: Some(core::DataSource {
                specifier: Some(core::data_source::Specifier::InlineString(text.clone())),
                watched_directory: None,
            }),
            ..Default::default()
        },
        m::AccessLogFormat::Json(fields) => {
            let mut json = OrderedStruct::default();
            fields.iter().for_each(|(key, value)| json.set_str(key, value));
            OrderedFormat { json_format: Some(json), ..Default::default() }
        }
    };
    format.formatters = formatters(|operator| match &value.format {
        m::AccessLogFormat::Text(text) => text.contains(operator),
        m::AccessLogFormat::Json(fields) => fields.iter().any(|(_, value)| value.contains(operator)),
    });
    let filter = value.only_flag.as_ref().map(|flag| accesslog::AccessLogFilter {
        filter_specifier: Some(accesslog::access_log_filter::FilterSpecifier::ResponseFlagFilter(
            accesslog::ResponseFlagFilter { flags: vec![flag.clone()] },
        )),
    });
    accesslog::AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter,
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(any(&OrderedFileLog {
            path: path.clone(),
            log_format: Some(format),
        }))),
    }
}
