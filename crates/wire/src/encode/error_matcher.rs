//! Which statuses are failures to outlier detection. Envoy has a matcher of response heads among the options of HTTP.

use crate::pb::common_matcher::{HttpHeadersMatch, MatchPredicate, match_predicate};
use crate::pb::extensions::upstreams::http::v3::http_protocol_options::OutlierDetection;
use crate::pb::{matcher, route};
use matcher::string_matcher::MatchPattern;
use route::header_matcher::HeaderMatchSpecifier;

/// One of these statuses; none is Envoy's own rule, 5xx.
pub(super) fn of(statuses: &[u16]) -> Option<OutlierDetection> {
    let mut rules: Vec<MatchPredicate> = statuses.iter().map(|status| is(*status)).collect();
    let error_matcher = match rules.len() {
        0 => return None,
        1 => rules.pop(),
        _ => Some(predicate(match_predicate::Rule::OrMatch(match_predicate::MatchSet { rules }))),
    };
    Some(OutlierDetection { error_matcher })
}

fn is(status: u16) -> MatchPredicate {
    let exact = matcher::StringMatcher { match_pattern: Some(MatchPattern::Exact(status.to_string())), ..Default::default() };
    let header = route::HeaderMatcher {
        name: ":status".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact)),
        ..Default::default()
    };
    predicate(match_predicate::Rule::HttpResponseHeadersMatch(HttpHeadersMatch { headers: vec![header] }))
}

fn predicate(rule: match_predicate::Rule) -> MatchPredicate {
    MatchPredicate { rule: Some(rule) }
}
