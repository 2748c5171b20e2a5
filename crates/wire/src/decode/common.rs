//! Pieces that several resources use.

use super::cx::{Cx, Result, fields, is_set};
use crate::any::{OrderedFileLog, OrderedKind, OrderedStruct, OrderedValue, view};
use crate::pb::{accesslog, core, extensions::access_loggers::file::v3 as file, google, matcher, route};
use ipnet::IpNet;
use lateen_model::dataplane as m;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Extensions of access logs whose operators are always there.
const FORMATTERS: [&str; 3] = ["envoy.formatter.req_without_query", "envoy.formatter.metadata", "envoy.formatter.cel"];

/// The longest duration of protobuf, in seconds (10,000 years).
const MAX_SECONDS: i64 = 315_576_000_000;

pub(super) fn duration(cx: &mut Cx, value: google::Duration) -> Result<Duration> {
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos)) if value.seconds <= MAX_SECONDS && nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => cx.fail("is not a duration: 0s to 315576000000s are allowed"),
    }
}

/// A duration of which zero means that there is none.
pub(super) fn non_zero(value: Option<Duration>) -> Option<Duration> {
    value.filter(|d| !d.is_zero())
}

pub(super) fn port(cx: &mut Cx, value: u32) -> Result<u16> {
    u16::try_from(value).or_else(|_| cx.fail(format!("{value} is not a port")))
}

pub(super) fn ip(cx: &mut Cx, text: &str) -> Result<IpAddr> {
    text.parse().or_else(|_| cx.fail(format!("{:?} is not an IP address; names are not supported", short(text))))
}

pub(super) fn short(text: &str) -> String {
    text.chars().take(120).collect()
}

pub(super) fn address(cx: &mut Cx, value: core::Address) -> Result<SocketAddr> {
    match value.address {
        Some(core::address::Address::SocketAddress(value)) => cx.at("socket_address", |cx| socket_address(cx, value)),
        Some(core::address::Address::Pipe(_)) => cx.fail("pipes are not supported; socket_address is"),
        Some(core::address::Address::EnvoyInternalAddress(_)) => {
            cx.fail("internal listeners are not supported; socket_address is")
        }
        None => cx.fail("is required: a socket_address"),
    }
}

/// A name (or an address as text) and a port.
pub(super) fn name_address(cx: &mut Cx, value: core::Address) -> Result<(String, u16)> {
    let Some(core::address::Address::SocketAddress(value)) = value.address else {
        return cx.fail("is required: a socket_address");
    };
    cx.at("socket_address", |cx| {
        fields!(cx, value => core::SocketAddress {
            use: [protocol, address, port_specifier],
            refuse: [resolver_name, network_namespace_filepath],
            ignore: [ipv4_compat],
        });
        if protocol != i32::from(core::socket_address::Protocol::Tcp) {
            return cx.fail_at("protocol", "only TCP is supported");
        }
        if address.is_empty() || address.len() > 255 {
            return cx.fail_at("address", "must be a name of 1 to 255 characters, or an address");
        }
        match port_specifier {
            Some(core::socket_address::PortSpecifier::PortValue(value)) => {
                Ok((address, cx.at("port_value", |cx| port(cx, value))?))
            }
            _ => cx.fail_at("port_value", "is required"),
        }
    })
}

pub(super) fn socket_address(cx: &mut Cx, value: core::SocketAddress) -> Result<SocketAddr> {
    fields!(cx, value => core::SocketAddress {
        use: [protocol, address, port_specifier],
        refuse: [resolver_name, network_namespace_filepath],
        ignore: [ipv4_compat],
    });
    if protocol != i32::from(core::socket_address::Protocol::Tcp) {
        return cx.fail_at("protocol", "only TCP is supported");
    }
    let ip = cx.at("address", |cx| ip(cx, &address))?;
    let port = match port_specifier {
        Some(core::socket_address::PortSpecifier::PortValue(value)) => cx.at("port_value", |cx| port(cx, value))?,
        Some(core::socket_address::PortSpecifier::NamedPort(_)) => {
            return cx.fail_at("named_port", "is not supported; port_value is");
        }
        None => 0,
    };
    Ok(SocketAddr::new(ip, port))
}

pub(super) fn cidr(cx: &mut Cx, value: core::CidrRange) -> Result<IpNet> {
    let core::CidrRange { address_prefix, prefix_len } = value;
    let ip = cx.at("address_prefix", |cx| ip(cx, &address_prefix))?;
    let length = prefix_len.unwrap_or_default().value;
    let net = u8::try_from(length).ok().and_then(|length| IpNet::new(ip, length).ok());
    net.map_or_else(|| cx.fail_at("prefix_len", format!("{length} is longer than the address")), Ok)
}

/// Checks that resources come over ADS.
pub(super) fn ads_only(cx: &mut Cx, value: core::ConfigSource) -> Result<()> {
    use core::config_source::ConfigSourceSpecifier;
    match value.config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_)) => Ok(()),
        _ => cx.fail("only ads is supported"),
    }
}

pub(super) fn regex(cx: &mut Cx, value: &matcher::RegexMatcher) -> Result<m::SafeRegex> {
    if value.regex.is_empty() {
        return cx.fail_at("regex", "must not be empty");
    }
    m::SafeRegex::try_new(&value.regex).or_else(|error| cx.fail_at("regex", error.to_string()))
}

pub(super) fn string_match(cx: &mut Cx, value: matcher::StringMatcher) -> Result<m::StringMatch> {
    use matcher::string_matcher::MatchPattern;
    let matcher::StringMatcher { ignore_case, match_pattern } = value;
    let predicate = match match_pattern {
        Some(MatchPattern::Exact(text)) => m::StringPredicate::Exact(text),
        Some(MatchPattern::Prefix(text)) => m::StringPredicate::Prefix(not_empty(cx, "prefix", text)?),
        Some(MatchPattern::Suffix(text)) => m::StringPredicate::Suffix(not_empty(cx, "suffix", text)?),
        Some(MatchPattern::Contains(text)) => m::StringPredicate::Contains(not_empty(cx, "contains", text)?),
        Some(MatchPattern::SafeRegex(value)) => m::StringPredicate::Regex(cx.at("safe_regex", |cx| regex(cx, &value))?),
        Some(MatchPattern::Custom(_)) => {
            return cx.fail_at("custom", "is not supported; exact, prefix, suffix, contains and safe_regex are");
        }
        None => return cx.fail("one of exact, prefix, suffix, contains and safe_regex is required"),
    };
    Ok(m::StringMatch { predicate, ignore_case })
}

fn not_empty(cx: &Cx, field: &'static str, text: String) -> Result<String> {
    if text.is_empty() { cx.fail_at(field, "must not be empty") } else { Ok(text) }
}

pub(super) fn path_match(cx: &mut Cx, value: matcher::PathMatcher) -> Result<m::StringMatch> {
    match value.rule {
        Some(matcher::path_matcher::Rule::Path(value)) => cx.at("path", |cx| string_match(cx, value)),
        None => cx.fail_at("path", "is required"),
    }
}

/// Header names are compared in lower case.
pub(super) fn header_name(cx: &mut Cx, name: &str) -> Result<String> {
    if name.is_empty() { cx.fail_at("name", "must not be empty") } else { Ok(name.to_ascii_lowercase()) }
}

pub(super) fn header_match(cx: &mut Cx, value: route::HeaderMatcher) -> Result<m::HeaderMatch> {
    use route::header_matcher::HeaderMatchSpecifier as Specifier;
    let route::HeaderMatcher { name, invert_match, treat_missing_header_as_empty, header_match_specifier } = value;
    let plain = |predicate| m::HeaderPredicate::Value(m::StringMatch { predicate, ignore_case: false });
    let predicate = match header_match_specifier {
        None => m::HeaderPredicate::Present(true),
        Some(Specifier::PresentMatch(present)) => m::HeaderPredicate::Present(present),
        Some(Specifier::StringMatch(value)) => m::HeaderPredicate::Value(cx.at("string_match", |cx| string_match(cx, value))?),
        Some(Specifier::SafeRegexMatch(value)) => {
            plain(m::StringPredicate::Regex(cx.at("safe_regex_match", |cx| regex(cx, &value))?))
        }
        Some(Specifier::ExactMatch(text)) => plain(m::StringPredicate::Exact(text)),
        Some(Specifier::PrefixMatch(text)) => plain(m::StringPredicate::Prefix(not_empty(cx, "prefix_match", text)?)),
        Some(Specifier::SuffixMatch(text)) => plain(m::StringPredicate::Suffix(not_empty(cx, "suffix_match", text)?)),
        Some(Specifier::ContainsMatch(text)) => plain(m::StringPredicate::Contains(not_empty(cx, "contains_match", text)?)),
        Some(Specifier::RangeMatch(_)) => {
            return cx.fail_at("range_match", "is not supported; string_match and present_match are");
        }
    };
    Ok(m::HeaderMatch {
        name: header_name(cx, &name)?,
        predicate,
        invert: invert_match,
        missing_is_empty: treat_missing_header_as_empty,
    })
}

/// The bytes of an inline source.
pub(super) fn inline(cx: &mut Cx, value: core::DataSource) -> Result<Vec<u8>> {
    use core::data_source::Specifier;
    let core::DataSource { specifier, watched_directory } = value;
    cx.refuse("watched_directory", is_set(&watched_directory))?;
    match specifier {
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::InlineString(text)) => Ok(text.into_bytes()),
        Some(Specifier::Filename(_)) => cx.fail_at("filename", "is not supported; inline_bytes and inline_string are"),
        Some(Specifier::EnvironmentVariable(_)) => {
            cx.fail_at("environment_variable", "is not supported; inline_bytes and inline_string are")
        }
        None => cx.fail("one of inline_bytes and inline_string is required"),
    }
}

/// A text value in metadata.
pub(super) fn metadata_str<'a>(metadata: &'a core::Metadata, namespace: &str, key: &str) -> Option<&'a str> {
    match metadata.filter_metadata.get(namespace)?.fields.get(key)?.kind.as_ref()? {
        google::value::Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

pub(super) fn access_log(cx: &mut Cx, value: accesslog::AccessLog) -> Result<m::AccessLog> {
    let accesslog::AccessLog { name: _, filter, config_type } = value;
    let only_flag = cx.optional("filter", filter, log_filter)?.flatten();
    let Some(accesslog::access_log::ConfigType::TypedConfig(config)) = config_type else {
        return cx.fail_at("typed_config", "is required");
    };
    cx.at("typed_config", |cx| {
        if config.type_url != "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog" {
            let url = short(&config.type_url);
            return cx.fail(format!("{url} is not supported; envoy.extensions.access_loggers.file.v3.FileAccessLog is"));
        }
        file_log(cx, &config.value, only_flag)
    })
}

fn log_filter(cx: &mut Cx, value: accesslog::AccessLogFilter) -> Result<Option<String>> {
    use accesslog::access_log_filter::FilterSpecifier;
    match value.filter_specifier {
        None => Ok(None),
        Some(FilterSpecifier::ResponseFlagFilter(filter)) if filter.flags.len() == 1 => Ok(filter.flags.into_iter().next()),
        Some(FilterSpecifier::ResponseFlagFilter(_)) => cx.fail_at("response_flag_filter", "exactly one flag is supported"),
        Some(_) => cx.fail("only response_flag_filter is supported"),
    }
}

fn file_log(cx: &mut Cx, bytes: &[u8], only_flag: Option<String>) -> Result<m::AccessLog> {
    use file::file_access_log::AccessLogFormat;
    let file::FileAccessLog { path, access_log_format } = cx.message(bytes)?;
    if path.is_empty() {
        return cx.fail_at("path", "is required");
    }
    let format = match access_log_format {
        Some(AccessLogFormat::Format(text)) => m::AccessLogFormat::Text(text),
        Some(AccessLogFormat::LogFormat(format)) => cx.at("log_format", |cx| log_format(cx, format, bytes))?,
        Some(AccessLogFormat::JsonFormat(_) | AccessLogFormat::TypedJsonFormat(_)) => {
            return cx.fail("json_format and typed_json_format are not supported; log_format is");
        }
        None => return cx.fail_at("log_format", "is required"),
    };
    Ok(m::AccessLog { target: m::AccessLogTarget::File(path), format, only_flag })
}

fn log_format(cx: &mut Cx, value: core::SubstitutionFormatString, file: &[u8]) -> Result<m::AccessLogFormat> {
    use core::substitution_format_string::Format;
    fields!(cx, value => core::SubstitutionFormatString {
        use: [format, formatters],
        refuse: [omit_empty_values, json_format_options],
        ignore: [content_type],
    });
    cx.each("formatters", formatters, |cx, formatter| {
        if FORMATTERS.contains(&formatter.name.as_str()) {
            Ok(())
        } else {
            cx.fail(format!("{:?} is not supported", short(&formatter.name)))
        }
    })?;
    match format {
        Some(Format::TextFormat(text)) => Ok(m::AccessLogFormat::Text(text)),
        Some(Format::TextFormatSource(source)) => cx.at("text_format_source", |cx| {
            let bytes = inline(cx, source)?;
            String::from_utf8(bytes).map(m::AccessLogFormat::Text).or_else(|_| cx.fail("is not UTF-8"))
        }),
        Some(Format::JsonFormat(_)) => cx.at("json_format", |cx| {
            // The generated type has lost the order of the fields.
            let ordered: Option<OrderedStruct> =
                view::<OrderedFileLog>(file).ok().and_then(|log| log.log_format).and_then(|format| format.json_format);
            json_format(cx, ordered.unwrap_or_default())
        }),
        None => cx.fail("one of text_format_source and json_format is required"),
    }
}

fn json_format(cx: &mut Cx, value: OrderedStruct) -> Result<m::AccessLogFormat> {
    let mut fields: Vec<(String, String)> = Vec::with_capacity(value.fields.len());
    for entry in value.fields {
        let Some(OrderedValue { kind: Some(OrderedKind::String(text)) }) = entry.value else {
            return cx.key(&entry.key, |cx| cx.fail("only text values are supported"));
        };
        // The last of entries with one key counts, as in every protobuf map.
        match fields.iter_mut().find(|(key, _)| *key == entry.key) {
            Some((_, value)) => *value = text,
            None => fields.push((entry.key, text)),
        }
    }
    Ok(m::AccessLogFormat::Json(fields))
}
