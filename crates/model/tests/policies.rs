//! The project's own policies, and what is said of those that are not to be had.

use lateen_model::manifest;

/// What is said of a document, in lines; nothing if it is accepted without a word.
fn said(text: &str) -> Vec<String> {
    let mut documents = manifest::read(text, "x.yaml");
    assert_eq!(documents.len(), 1, "{documents:?}");
    match documents.remove(0) {
        Ok(document) => document.warnings.iter().map(ToString::to_string).collect(),
        Err(rejection) => rejection.to_string().lines().map(str::to_owned).collect(),
    }
}

fn limit(spec: &str) -> Vec<String> {
    said(&format!(
        "apiVersion: policy.lateen.dev/v1alpha1\nkind: LocalRateLimit\nmetadata: {{name: a, namespace: b}}\nspec: {spec}\n"
    ))
}

#[test]
fn limits_are_checked() {
    for good in [
        "{rules: [{name: all, limit: {requests: 1}}]}",
        "{selector: {matchLabels: {app: web}}, retryAfter: true, maxClients: 5, rules: [{name: all, match: {path: {prefix: /a}, methods: [GET], headers: {x-a: {}}}, perClient: {header: x-user}, limit: {requests: 1, per: 24h, burst: 5}}]}",
    ] {
        assert_eq!(limit(good), Vec::<String>::new(), "{good}");
    }
    for (spec, field, text) in [
        ("{}", "spec.rules", "must not be empty"),
        ("{rules: [{name: A, limit: {requests: 1}}]}", "spec.rules[0].name", ""),
        ("{rules: [{name: a, limit: {requests: 1}}, {name: a, limit: {requests: 1}}]}", "spec.rules[1].name", "earlier rule"),
        ("{rules: [{name: a, limit: {requests: 0}}]}", "spec.rules[0].limit.requests", "at least 1"),
        ("{rules: [{name: a, limit: {requests: 1, per: 10ms}}]}", "spec.rules[0].limit.per", "between 50ms and 24h"),
        ("{rules: [{name: a, limit: {requests: 1, per: 25h}}]}", "spec.rules[0].limit.per", "between 50ms and 24h"),
        ("{rules: [{name: a, match: {}, limit: {requests: 1}}]}", "spec.rules[0].match", "leave it out"),
        ("{rules: [{name: a, match: {path: {}}, limit: {requests: 1}}]}", "spec.rules[0].match.path", "exact, prefix or regex"),
        ("{rules: [{name: a, match: {path: {exact: a}}, limit: {requests: 1}}]}", "spec.rules[0].match.path", "begins with /"),
        ("{rules: [{name: a, match: {path: {regex: '('}}, limit: {requests: 1}}]}", "spec.rules[0].match.path.regex", ""),
        ("{rules: [{name: a, match: {methods: ['A B']}, limit: {requests: 1}}]}", "spec.rules[0].match.methods[0]", "no method"),
        (
            "{rules: [{name: a, match: {headers: {X-A: {}}}, limit: {requests: 1}}]}",
            "spec.rules[0].match.headers[X-A]",
            "lower case",
        ),
        ("{rules: [{name: a, perClient: {}, limit: {requests: 1}}]}", "spec.rules[0].perClient", "exactly one"),
        (
            "{rules: [{name: a, perClient: {identity: true, header: a}, limit: {requests: 1}}]}",
            "spec.rules[0].perClient",
            "exactly one",
        ),
        ("{maxClients: 2000000, rules: [{name: a, limit: {requests: 1}}]}", "spec.maxClients", "1000000"),
    ] {
        let found = limit(spec);
        let is_it = |line: &String| line.contains(&format!("LocalRateLimit b/a: {field}: ")) && line.contains(text);
        assert!(found.iter().any(is_it), "{spec}: {found:#?}");
    }
}

#[test]
fn an_envoy_filter_is_refused_with_what_to_use_instead() {
    let patch = |apply_to: &str, value: &str| {
        format!(
            "  - applyTo: {apply_to}\n    match: {{context: SIDECAR_INBOUND}}\n    patch: {{operation: MERGE, value: {value}}}\n"
        )
    };
    let patches = [
        patch("HTTP_FILTER", "{name: envoy.filters.http.local_ratelimit, typed_config: {stat_prefix: a}}"),
        patch("HTTP_FILTER", "{name: envoy.filters.http.lua}"),
        patch("CLUSTER", "{connect_timeout: 1s}"),
        patch("HTTP_ROUTE", "{route: {timeout: 1s}}"),
        patch("NETWORK_FILTER", "{typed_config: {access_log: [{name: a}]}}"),
        patch("BOOTSTRAP", "{stats_flush_interval: 1s}"),
        patch("SOMETHING", "{a: b}"),
    ];
    let text = format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: a, namespace: b}}\nspec:\n  configPatches:\n{}",
        patches.concat()
    );
    let found = said(&text);
    let wanted = [
        ("x.yaml:2:1: kind: ", "EnvoyFilter is not supported"),
        ("x.yaml:6:5: spec.configPatches[0]: ", "LocalRateLimit of policy.lateen.dev/v1alpha1"),
        ("x.yaml:9:5: spec.configPatches[1]: ", "run no programs"),
        ("x.yaml:12:5: spec.configPatches[2]: ", "DestinationRule"),
        ("x.yaml:15:5: spec.configPatches[3]: ", "VirtualService"),
        ("x.yaml:18:5: spec.configPatches[4]: ", "accessLogFile"),
        ("x.yaml:21:5: spec.configPatches[5]: ", "ProxyConfig"),
        ("x.yaml:24:5: spec.configPatches[6]: ", "nothing does the same"),
    ];
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (line, (place, text)) in found.iter().zip(wanted) {
        assert!(line.starts_with(place) && line.contains(text), "{line} is not {place}…{text}");
    }
}

#[test]
fn a_proxy_config_is_read() {
    let config = |spec: &str| {
        said(&format!(
            "apiVersion: networking.istio.io/v1beta1\nkind: ProxyConfig\nmetadata: {{name: a, namespace: b}}\nspec: {spec}\n"
        ))
    };
    assert!(config("{selector: {matchLabels: {app: web}}, concurrency: 0, environmentVariables: {A_B: c}}").is_empty());
    for (spec, text) in [
        ("{concurrency: -1}", "must not be negative"),
        ("{environmentVariables: {'A=B': c}}", "spec.environmentVariables"),
        ("{image: {imageType: debug}}", "has no effect"),
        ("{resources: {}}", "unknown field"),
    ] {
        let found = config(spec);
        assert!(found.iter().any(|line| line.contains(text)), "{spec}: {found:#?}");
    }
}

#[test]
fn the_example_of_the_documentation_is_valid() {
    let page = include_str!("../../../docs/local-rate-limit.md");
    let example = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_eq!(said(example), Vec::<String>::new());
}
