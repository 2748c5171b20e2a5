//! VirtualServices that hand parts of their routes to others (`http[].delegate`): the root's routes with those of its delegates in
//! their places, one level deep.

use crate::world::{Entry, Rev, World};
use lateen_model::resource::{Delegate, Destination, HttpMatchRequest, HttpRoute, StringMatch, VirtualService, host};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A root as if it had no delegates, and what its content stands on beside its own revision: for each delegate its revision, or
/// none while it is missing.
pub fn expand(world: &World, root: &Arc<Entry<VirtualService>>) -> (Arc<Entry<VirtualService>>, Vec<Rev>) {
    if root.resource.spec.http.iter().all(|http| http.delegate.is_none()) {
        return (Arc::clone(root), Vec::new());
    }
    let mut revs = Vec::new();
    let mut routes = Vec::new();
    for http in &root.resource.spec.http {
        let Some(delegate) = &http.delegate else {
            routes.push(http.clone());
            continue;
        };
        let found = find(world, root, delegate);
        revs.push(found.map_or(Rev::default(), |leaf| leaf.rev));
        if let Some(leaf) = found {
            routes.extend(leaf.resource.spec.http.iter().filter_map(|own| merge(world, http, own, leaf.namespace())));
        }
    }
    let mut resource = (*root.resource).clone();
    resource.spec.http = routes;
    (Arc::new(Entry { resource: Arc::new(resource), ..(**root).clone() }), revs)
}

/// The delegate, if there is one that the root's namespace may see. One that has hosts of its own is a root, and so is one that
/// delegates further.
fn find<'a>(world: &'a World, root: &Entry<VirtualService>, delegate: &Delegate) -> Option<&'a Arc<Entry<VirtualService>>> {
    let namespace = if delegate.namespace.is_empty() { root.namespace() } else { delegate.namespace.as_str() };
    let leaf = world.namespace(namespace)?.virtual_services.get(&delegate.name)?;
    let default = &world.mesh().default_virtual_service_export_to;
    let spec = &leaf.resource.spec;
    let is_leaf = spec.hosts.is_empty() && spec.http.iter().all(|http| http.delegate.is_none());
    (is_leaf && leaf.visibility.includes(root.namespace(), namespace, default)).then_some(leaf)
}

/// One route of a delegate under one of its root; `None` if no request could match both.
fn merge(world: &World, root: &HttpRoute, own: &HttpRoute, namespace: &str) -> Option<HttpRoute> {
    let matches = merge_matches(&root.matches, &own.matches)?;
    let mut out = own.clone();
    out.matches = matches;
    out.name = join(&root.name, &own.name);
    // Short names are the delegate's own.
    let resolve = |destination: &mut Destination| destination.host = host::resolve(&destination.host, namespace, world.domain());
    out.route.iter_mut().filter_map(|r| r.destination.as_mut()).for_each(resolve);
    out.mirrors.iter_mut().filter_map(|m| m.destination.as_mut()).for_each(resolve);
    out.mirror.iter_mut().for_each(resolve);
    macro_rules! inherit {
        ($($field:ident),+) => { $(if out.$field.is_none() { out.$field.clone_from(&root.$field); })+ };
    }
    inherit!(rewrite, direct_response, timeout, retries, fault, cors_policy, headers, mirror, mirror_percent, mirror_percentage);
    if out.mirrors.is_empty() {
        out.mirrors.clone_from(&root.mirrors);
    }
    Some(out)
}

fn join(root: &str, own: &str) -> String {
    match (root, own) {
        ("", own) => own.to_owned(),
        (root, "") => root.to_owned(),
        (root, own) => format!("{root}-{own}"),
    }
}

/// Each pair that can be matched together. A side without conditions leaves them to the other.
fn merge_matches(root: &[HttpMatchRequest], own: &[HttpMatchRequest]) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() || own.is_empty() {
        return Some(if own.is_empty() { root } else { own }.to_vec());
    }
    let pairs = root.iter().flat_map(|r| own.iter().map(move |o| (r, o)));
    let merged: Vec<_> = pairs.filter(|(r, o)| !in_conflict(r, o)).map(|(r, o)| merge_match(r, o)).collect();
    (!merged.is_empty()).then_some(merged)
}

fn in_conflict(root: &HttpMatchRequest, own: &HttpMatchRequest) -> bool {
    let text = |a: &Option<StringMatch>, b: &Option<StringMatch>| a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| differs(a, b));
    let map = |a: &BTreeMap<String, StringMatch>, b: &BTreeMap<String, StringMatch>| {
        a.iter().any(|(name, a)| b.get(name).is_some_and(|b| differs(a, b)))
    };
    text(&root.uri, &own.uri)
        || text(&root.scheme, &own.scheme)
        || text(&root.method, &own.method)
        || text(&root.authority, &own.authority)
        || map(&root.headers, &own.headers)
        || map(&root.without_headers, &own.without_headers)
        || map(&root.query_params, &own.query_params)
        || root.ignore_uri_case != own.ignore_uri_case
        || root.port.zip(own.port).is_some_and(|(a, b)| a != b)
        || root.source_labels.iter().any(|(name, value)| own.source_labels.get(name).is_some_and(|v| v != value))
        || (!root.source_namespace.is_empty()
            && !own.source_namespace.is_empty()
            && root.source_namespace != own.source_namespace)
        || (!root.gateways.is_empty() && own.gateways.iter().any(|gateway| !root.gateways.contains(gateway)))
}

/// Whether the delegate's condition is not a narrower form of the root's. Regular expressions cannot be compared, so that beside
/// one nothing else may stand.
fn differs(root: &StringMatch, own: &StringMatch) -> bool {
    match (root, own) {
        (StringMatch::Present, _) | (_, StringMatch::Present) => false,
        (StringMatch::Exact(root), StringMatch::Exact(own)) => root != own,
        (StringMatch::Prefix(root), StringMatch::Exact(own) | StringMatch::Prefix(own)) => !own.starts_with(root.as_str()),
        (StringMatch::Exact(_), StringMatch::Prefix(_)) | (StringMatch::Regex(_), _) | (_, StringMatch::Regex(_)) => true,
    }
}

fn merge_match(root: &HttpMatchRequest, own: &HttpMatchRequest) -> HttpMatchRequest {
    let mut out = own.clone();
    out.name = join(&root.name, &own.name);
    macro_rules! inherit {
        ($($field:ident),+) => { $(if out.$field.is_none() { out.$field.clone_from(&root.$field); })+ };
    }
    inherit!(uri, scheme, method, authority, port);
    for (mine, theirs) in [
        (&mut out.headers, &root.headers),
        (&mut out.without_headers, &root.without_headers),
        (&mut out.query_params, &root.query_params),
    ] {
        for (name, value) in theirs {
            mine.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    for (name, value) in &root.source_labels {
        out.source_labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    if out.source_namespace.is_empty() {
        out.source_namespace.clone_from(&root.source_namespace);
    }
    if out.gateways.is_empty() {
        out.gateways.clone_from(&root.gateways);
    }
    if out.stat_prefix.is_empty() {
        out.stat_prefix.clone_from(&root.stat_prefix);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(text: &str) -> StringMatch {
        StringMatch::Exact(text.into())
    }

    fn prefix(text: &str) -> StringMatch {
        StringMatch::Prefix(text.into())
    }

    fn on_path(path: StringMatch) -> HttpMatchRequest {
        HttpMatchRequest { uri: Some(path), ..HttpMatchRequest::default() }
    }

    #[test]
    fn a_delegate_may_narrow_what_its_root_says() {
        let regex = StringMatch::Regex("/a.*".into());
        for (root, own, expected) in [
            (prefix("/a"), prefix("/a/b"), false),
            (prefix("/a"), exact("/a/b"), false),
            (prefix("/a"), prefix("/b"), true),
            (prefix("/a/b"), prefix("/a"), true),
            (exact("/a"), exact("/a"), false),
            (exact("/a"), exact("/b"), true),
            (exact("/a"), prefix("/a"), true),
            (regex.clone(), prefix("/a"), true),
            (prefix("/a"), regex, true),
            (StringMatch::Present, exact("x"), false),
        ] {
            assert_eq!(differs(&root, &own), expected, "{root:?} {own:?}");
        }
    }

    #[test]
    fn every_pair_that_fits_becomes_one_condition() {
        let root = [on_path(prefix("/a")), on_path(prefix("/b"))];
        let own = [on_path(exact("/a/1")), on_path(exact("/b/2")), on_path(exact("/c"))];
        let merged = merge_matches(&root, &own).unwrap();
        let paths: Vec<_> = merged.iter().map(|m| m.uri.clone().unwrap()).collect();
        assert_eq!(paths, [exact("/a/1"), exact("/b/2")]);
        assert_eq!(merge_matches(&root, &[on_path(exact("/c"))]), None);
        assert_eq!(merge_matches(&[], &own).unwrap().len(), 3);
        assert_eq!(merge_matches(&root, &[]).unwrap().len(), 2);
    }

    #[test]
    fn conditions_of_both_hold() {
        let mut root = on_path(prefix("/a"));
        root.name = "r".into();
        root.headers.insert("x".into(), exact("1"));
        root.port = Some(80);
        let mut own = HttpMatchRequest { name: "o".into(), ..HttpMatchRequest::default() };
        own.headers.insert("y".into(), exact("2"));
        let merged = merge_match(&root, &own);
        assert_eq!((merged.name.as_str(), merged.port, merged.headers.len()), ("r-o", Some(80), 2));
        assert_eq!(merged.uri, Some(prefix("/a")));
        own.port = Some(81);
        assert!(in_conflict(&root, &own));
    }
}
