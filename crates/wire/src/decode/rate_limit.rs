//! Limits on requests, in the form in which Lateen's control plane writes them.

use super::common::{duration, header_match, short};
use super::cx::{Cx, Result, fields};
use crate::pb::{
    core, extensions::common::ratelimit::v3 as ratelimit, extensions::filters::http::local_ratelimit::v3 as local, route, typ,
};
use crate::rate_limit::{CLIENT, RATE_LIMITED, REMOTE_ADDRESS, RULE, URI_SAN};
use lateen_model::dataplane as m;
use std::time::Duration;

/// Envoy's own bound.
const SHORTEST_FILL: Duration = Duration::from_millis(50);

/// As many clients as one rule may tell apart.
const MAX_CLIENTS: u32 = lateen_model::resource::MAX_CLIENTS;

pub(super) fn http(cx: &mut Cx, value: local::LocalRateLimit) -> Result<m::RateLimits> {
    fields!(cx, value => local::LocalRateLimit {
        use: [
            stat_prefix, token_bucket, filter_enabled, filter_enforced, response_headers_to_add, descriptors, rate_limits,
            always_consume_default_token_bucket, max_dynamic_descriptors, enable_retry_after_header,
        ],
        refuse: [
            status, request_headers_to_add_when_not_enforced, stage, local_rate_limit_per_downstream_connection,
            local_cluster_rate_limit, enable_x_ratelimit_headers, vh_rate_limits, rate_limited_as_resource_exhausted,
        ],
        ignore: [],
    });
    cx.required("filter_enabled", filter_enabled, always)?;
    cx.required("filter_enforced", filter_enforced, always)?;
    cx.each("response_headers_to_add", response_headers_to_add, rate_limited)?;
    let rest = cx.required("token_bucket", token_bucket, bucket)?;
    if rest.max_tokens != u32::MAX || always_consume_default_token_bucket.is_none_or(|v| v.value) {
        return cx.fail_at("token_bucket", "a limit for all requests is supported as one of the descriptors");
    }
    if descriptors.len() != rate_limits.len() {
        return cx.fail_at("descriptors", "must be as many as rate_limits, in their order");
    }
    let buckets = cx.each("descriptors", descriptors, descriptor)?;
    let mut position = 0;
    let rules = cx.each("rate_limits", rate_limits, |cx, value| {
        let (entries, bucket) = &buckets[position];
        position += 1;
        limit(cx, value, entries, *bucket)
    })?;
    let max_clients = max_dynamic_descriptors.map_or(lateen_model::resource::DEFAULT_CLIENTS, |v| v.value);
    if max_clients > MAX_CLIENTS {
        return cx.fail_at("max_dynamic_descriptors", format!("at most {MAX_CLIENTS} are supported"));
    }
    Ok(m::RateLimits { name: stat_prefix, rules, retry_after: enable_retry_after_header, max_clients })
}

fn always(cx: &mut Cx, value: core::RuntimeFractionalPercent) -> Result<()> {
    let share = value.default_value.unwrap_or_default();
    if share.numerator == 100 && share.denominator == 0 { Ok(()) } else { cx.fail("only 100 % is supported") }
}

/// The header that refusals have anyway.
fn rate_limited(cx: &mut Cx, value: core::HeaderValueOption) -> Result<()> {
    let header = value.header.unwrap_or_default();
    let is_known = (header.key.as_str(), header.value.as_str()) == RATE_LIMITED;
    if is_known { Ok(()) } else { cx.fail_at("header", "only x-envoy-ratelimited: true is supported") }
}

fn bucket(cx: &mut Cx, value: typ::TokenBucket) -> Result<m::TokenBucket> {
    let fill_interval = cx.required("fill_interval", value.fill_interval, duration)?;
    if fill_interval < SHORTEST_FILL {
        return cx.fail_at("fill_interval", "must be at least 50 ms");
    }
    let tokens_per_fill = value.tokens_per_fill.map_or(1, |v| v.value);
    if value.max_tokens == 0 || tokens_per_fill == 0 {
        return cx.fail("must have tokens");
    }
    Ok(m::TokenBucket { max_tokens: value.max_tokens, tokens_per_fill, fill_interval })
}

type Entries = Vec<(String, String)>;

fn descriptor(cx: &mut Cx, value: ratelimit::LocalRateLimitDescriptor) -> Result<(Entries, m::TokenBucket)> {
    fields!(cx, value => ratelimit::LocalRateLimitDescriptor { use: [entries, token_bucket], refuse: [shadow_mode], ignore: [] });
    let bucket = cx.required("token_bucket", token_bucket, bucket)?;
    Ok((entries.into_iter().map(|entry| (entry.key, entry.value)).collect(), bucket))
}

/// A rule, whose descriptor has to be the one that its actions make.
fn limit(cx: &mut Cx, value: route::RateLimit, entries: &Entries, bucket: m::TokenBucket) -> Result<m::RateLimitRule> {
    use route::rate_limit::action::ActionSpecifier;
    let specifiers: Vec<_> = value.actions.into_iter().filter_map(|action| action.action_specifier).collect();
    let mut specifiers = specifiers.into_iter();
    let (name, headers) = match specifiers.next() {
        Some(ActionSpecifier::GenericKey(key)) if key.descriptor_key == RULE => (key.descriptor_value, Vec::new()),
        Some(ActionSpecifier::HeaderValueMatch(found))
            if found.descriptor_key == RULE && found.expect_match.is_none_or(|v| v.value) =>
        {
            (found.descriptor_value, cx.each("headers", found.headers, header_match)?)
        }
        _ => return cx.fail_at("actions", "the first must be a generic_key or a header_value_match with the key \"rule\""),
    };
    let (client, key) = match specifiers.next() {
        None => (None, ""),
        Some(ActionSpecifier::RemoteAddress(_)) => (Some(m::RateLimitClient::Address), REMOTE_ADDRESS),
        Some(ActionSpecifier::RequestHeaders(found)) if found.descriptor_key == CLIENT && !found.skip_if_absent => {
            (Some(m::RateLimitClient::Header(found.header_name)), CLIENT)
        }
        Some(ActionSpecifier::GenericKey(found)) if found.descriptor_key == CLIENT && found.descriptor_value == URI_SAN => {
            (Some(m::RateLimitClient::Identity), CLIENT)
        }
        Some(_) => {
            return cx
                .fail_at("actions", "remote_address, request_headers and the peer's URI tell clients apart; nothing else does");
        }
    };
    if specifiers.next().is_some() {
        return cx.fail_at("actions", "two at most are supported");
    }
    let mut wanted = vec![(RULE.to_owned(), name.clone())];
    wanted.extend(client.is_some().then(|| (key.to_owned(), String::new())));
    if *entries != wanted {
        return cx.fail(format!("the descriptor of {:?} is not the one that its actions make", short(&name)));
    }
    Ok(m::RateLimitRule { name, headers, client, bucket })
}
