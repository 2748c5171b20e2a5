//! Limits on requests. Each rule becomes a descriptor of its name, and of the client where each has its own bucket; a descriptor
//! without a value stands for all values, which Envoy makes buckets for as they come, up to a number.

use super::common::{boolean, duration, header_match, uint32};
use crate::any::any;
use crate::pb::{
    core, extensions::common::ratelimit::v3 as ratelimit, extensions::filters::http::local_ratelimit::v3 as local, google, route,
    typ,
};
use crate::rate_limit::{CLIENT, RATE_LIMITED, REMOTE_ADDRESS, RULE, URI_SAN};
use lateen_model::dataplane as m;
use std::time::Duration;
use typ::fractional_percent::DenominatorType;

pub(super) fn http(value: &m::RateLimits) -> google::Any {
    any(&local::LocalRateLimit {
        stat_prefix: value.name.clone(),
        // For requests that no rule is for.
        token_bucket: Some(bucket(m::TokenBucket {
            max_tokens: u32::MAX,
            tokens_per_fill: u32::MAX,
            fill_interval: Duration::from_secs(1),
        })),
        filter_enabled: Some(always()),
        filter_enforced: Some(always()),
        response_headers_to_add: vec![rate_limited()],
        descriptors: value.rules.iter().map(descriptor).collect(),
        rate_limits: value.rules.iter().map(limit).collect(),
        always_consume_default_token_bucket: boolean(false),
        max_dynamic_descriptors: uint32(value.max_clients),
        enable_retry_after_header: value.retry_after,
        ..Default::default()
    })
}

fn always() -> core::RuntimeFractionalPercent {
    core::RuntimeFractionalPercent {
        default_value: Some(typ::FractionalPercent { numerator: 100, denominator: DenominatorType::Hundred.into() }),
        runtime_key: String::new(),
    }
}

fn bucket(value: m::TokenBucket) -> typ::TokenBucket {
    typ::TokenBucket {
        max_tokens: value.max_tokens,
        tokens_per_fill: uint32(value.tokens_per_fill),
        fill_interval: Some(duration(value.fill_interval)),
    }
}

fn rate_limited() -> core::HeaderValueOption {
    let (key, value) = RATE_LIMITED;
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: key.to_owned(), value: value.to_owned(), ..Default::default() }),
        append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}

fn descriptor(rule: &m::RateLimitRule) -> ratelimit::LocalRateLimitDescriptor {
    let entry = |key: &str, value: &str| ratelimit::rate_limit_descriptor::Entry { key: key.to_owned(), value: value.to_owned() };
    let mut entries = vec![entry(RULE, &rule.name)];
    entries.extend(rule.client.is_some().then(|| entry(CLIENT, "")));
    // An address has a key of Envoy's own.
    if rule.client == Some(m::RateLimitClient::Address) {
        entries[1].key = REMOTE_ADDRESS.to_owned();
    }
    ratelimit::LocalRateLimitDescriptor { entries, token_bucket: Some(bucket(rule.bucket)), ..Default::default() }
}

fn limit(rule: &m::RateLimitRule) -> route::RateLimit {
    use route::rate_limit::action::{ActionSpecifier, GenericKey, HeaderValueMatch, RemoteAddress, RequestHeaders};
    let key = |key: &str, value: &str| {
        ActionSpecifier::GenericKey(GenericKey {
            descriptor_key: key.to_owned(),
            descriptor_value: value.to_owned(),
            // Clients without an identity share a bucket.
            default_value: if key == CLIENT { "-".to_owned() } else { String::new() },
        })
    };
    let named = if rule.headers.is_empty() {
        key(RULE, &rule.name)
    } else {
        ActionSpecifier::HeaderValueMatch(HeaderValueMatch {
            descriptor_key: RULE.to_owned(),
            descriptor_value: rule.name.clone(),
            expect_match: boolean(true),
            headers: rule.headers.iter().map(header_match).collect(),
            ..Default::default()
        })
    };
    let client = rule.client.as_ref().map(|client| match client {
        m::RateLimitClient::Identity => key(CLIENT, URI_SAN),
        m::RateLimitClient::Address => ActionSpecifier::RemoteAddress(RemoteAddress {}),
        m::RateLimitClient::Header(name) => ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: name.clone(),
            descriptor_key: CLIENT.to_owned(),
            skip_if_absent: false,
        }),
    });
    let action = |specifier| route::rate_limit::Action { action_specifier: Some(specifier) };
    route::RateLimit { actions: [named].into_iter().chain(client).map(action).collect(), ..Default::default() }
}
