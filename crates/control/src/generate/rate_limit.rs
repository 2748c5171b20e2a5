//! LocalRateLimits as limits of a proxy.

use super::proxy::Proxy;
use crate::world::{Entry, World};
use lateen_model::dataplane::{
    HeaderMatch, HeaderPredicate, RateLimitClient, RateLimitRule, RateLimits, SafeRegex, StringMatch as Predicate,
    StringPredicate, TokenBucket,
};
use lateen_model::resource::{self, LocalRateLimit, RateLimitMatch, StringMatch};
use std::sync::Arc;

/// The limits of a workload: those of the root namespace, then of its own, oldest first, with a selector that matches or with none.
pub(super) fn limits(world: &World, proxy: &Proxy) -> Vec<RateLimits> {
    let root = world.root_namespace();
    let mut places = vec![root];
    if *proxy.namespace != *root {
        places.push(&proxy.namespace);
    }
    let lists = places.into_iter().filter_map(|place| world.namespace(place).map(|ns| &ns.rate_limits));
    let applies = |e: &&Arc<Entry<LocalRateLimit>>| e.resource.spec.selector.as_ref().is_none_or(|s| s.matches(&proxy.labels));
    lists.flat_map(|list| list.iter()).filter(applies).map(|entry| convert(entry)).collect()
}

fn convert(entry: &Entry<LocalRateLimit>) -> RateLimits {
    let spec = &entry.resource.spec;
    RateLimits {
        name: format!("{}/{}", entry.namespace(), entry.name()),
        rules: spec.rules.iter().filter_map(rule).collect(),
        retry_after: spec.retry_after,
        max_clients: spec.clients(),
    }
}

/// `None` only for a regular expression that is none, which validation has refused.
fn rule(written: &resource::RateLimitRule) -> Option<RateLimitRule> {
    let client = written.per_client.as_ref().map(|client| match client {
        resource::RateLimitClient { identity: true, .. } => RateLimitClient::Identity,
        resource::RateLimitClient { source_address: true, .. } => RateLimitClient::Address,
        resource::RateLimitClient { header, .. } => RateLimitClient::Header(header.to_ascii_lowercase()),
    });
    let limit = &written.limit;
    let bucket = TokenBucket { max_tokens: limit.size(), tokens_per_fill: limit.requests, fill_interval: limit.interval() };
    let headers = written.r#match.as_ref().map_or_else(|| Some(Vec::new()), headers)?;
    Some(RateLimitRule { name: written.name.clone(), headers, client, bucket })
}

fn headers(written: &RateLimitMatch) -> Option<Vec<HeaderMatch>> {
    let mut all = Vec::new();
    if let Some(path) = &written.path {
        all.push(header(":path", HeaderPredicate::Value(path_predicate(path)?)));
    }
    if !written.methods.is_empty() {
        let methods: Vec<String> = written.methods.iter().map(|method| escaped(method)).collect();
        all.push(header(":method", HeaderPredicate::Value(regex(&methods.join("|"))?)));
    }
    for (name, value) in &written.headers {
        let predicate = match value {
            StringMatch::Present => HeaderPredicate::Present(true),
            StringMatch::Exact(text) => HeaderPredicate::Value(Predicate::exact(text)),
            StringMatch::Prefix(text) => HeaderPredicate::Value(Predicate::prefix(text)),
            StringMatch::Regex(pattern) => HeaderPredicate::Value(regex(pattern)?),
        };
        all.push(header(name, predicate));
    }
    Some(all)
}

fn header(name: &str, predicate: HeaderPredicate) -> HeaderMatch {
    HeaderMatch { name: name.to_owned(), predicate, invert: false, missing_is_empty: false }
}

/// `:path` has the query with it, which is not asked for.
fn path_predicate(path: &StringMatch) -> Option<Predicate> {
    match path {
        StringMatch::Present => regex("/.*"),
        StringMatch::Prefix(prefix) => Some(Predicate::prefix(prefix)),
        StringMatch::Exact(text) => regex(&format!(r"{}(\?.*)?", escaped(text))),
        StringMatch::Regex(pattern) => regex(&format!(r"(?:{pattern})(\?.*)?")),
    }
}

fn regex(pattern: &str) -> Option<Predicate> {
    SafeRegex::try_new(pattern).ok().map(|regex| Predicate { predicate: StringPredicate::Regex(regex), ignore_case: false })
}

/// A text that stands for itself in a regular expression.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::fixture::{pod, proxy, world};

    #[test]
    fn limits_are_those_of_the_place_and_of_the_labels() {
        let limit = |namespace: &str, name: &str, selector: &str| {
            format!(
                "apiVersion: policy.lateen.dev/v1alpha1\nkind: LocalRateLimit\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{selector} rules: [{{name: all, limit: {{requests: 5}}}}]}}\n---\n"
            )
        };
        let manifests = [
            limit("istio-system", "mesh", ""),
            limit("a", "own", "selector: {matchLabels: {app: one}},"),
            limit("a", "others", "selector: {matchLabels: {app: two}},"),
            limit("b", "elsewhere", ""),
        ];
        let world = world(&manifests.concat(), &[pod("a", "one-0", [10, 0, 0, 1], &[("app", "one")])]);
        let names: Vec<String> = limits(&world, &proxy(&world, "a", "one-0")).into_iter().map(|l| l.name).collect();
        assert_eq!(names, ["istio-system/mesh", "a/own"]);
    }

    #[test]
    fn paths_are_compared_without_their_query() {
        let predicate = |path: StringMatch| path_predicate(&path).unwrap();
        let exact = predicate(StringMatch::Exact("/a.b".into()));
        assert!(exact.matches("/a.b") && exact.matches("/a.b?c=d") && !exact.matches("/axb") && !exact.matches("/a.bc"));
        let prefix = predicate(StringMatch::Prefix("/a".into()));
        assert!(prefix.matches("/a?b") && prefix.matches("/ab") && !prefix.matches("/b"));
        let pattern = predicate(StringMatch::Regex("/a|/b".into()));
        assert!(pattern.matches("/a?x") && pattern.matches("/b") && !pattern.matches("/ab"));
    }
}
