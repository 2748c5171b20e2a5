//! Which statuses are failures to outlier detection: a matcher of response heads, of which lists of statuses are supported.

use super::cx::{Cx, Result};
use crate::pb::common_matcher::{MatchPredicate, match_predicate::Rule};
use crate::pb::extensions::upstreams::http::v3::http_protocol_options::OutlierDetection;
use crate::pb::{matcher, route};

/// The statuses.
pub(super) fn statuses(cx: &mut Cx, value: OutlierDetection) -> Result<Vec<u16>> {
    cx.required("error_matcher", value.error_matcher, |cx, predicate| {
        let rules = match predicate.rule {
            Some(Rule::OrMatch(set)) => set.rules,
            rule => vec![MatchPredicate { rule }],
        };
        cx.each("rules", rules, status)
    })
}

fn status(cx: &mut Cx, value: MatchPredicate) -> Result<u16> {
    use matcher::string_matcher::MatchPattern;
    use route::header_matcher::HeaderMatchSpecifier;
    const SUPPORTED: &str = "is not supported; http_response_headers_match of an exact :status, and or_match of such, are";
    let Some(Rule::HttpResponseHeadersMatch(value)) = value.rule else { return cx.fail(SUPPORTED) };
    let Ok([header]) = <[_; 1]>::try_from(value.headers) else { return cx.fail(SUPPORTED) };
    let exact = match header.header_match_specifier {
        Some(HeaderMatchSpecifier::StringMatch(text)) if !text.ignore_case => text.match_pattern,
        _ => None,
    };
    let plain = header.name == ":status" && !header.invert_match && !header.treat_missing_header_as_empty;
    match exact {
        Some(MatchPattern::Exact(text)) if plain => match text.parse() {
            Ok(status @ 100..=599) => Ok(status),
            _ => cx.fail("is no status: 100 to 599 are"),
        },
        _ => cx.fail(SUPPORTED),
    }
}
