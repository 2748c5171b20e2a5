//! The tables of [`super`], for the project's own policies.

use super::{Changes, Message, Nothing, check, keys};
use lateen_model::resource as r;

#[test]
fn local_rate_limits() {
    const LIMIT: &str = "limit: {requests: 5}";
    let rule = |rule: &str| format!("{{rules: [{{name: r, {rule}}}]}}");
    check(&Message {
        name: "LocalRateLimit",
        keys: keys::<r::LocalRateLimitSpec>(),
        kind: "LocalRateLimit",
        spec: "{rules: [{name: r, limit: {requests: 5}}] @}",
        rows: &[
            ("selector", ", selector: {matchLabels: {app: other}}", Changes),
            ("rules", "", Nothing("the base has it")),
            ("retryAfter", ", retryAfter: true", Changes),
            ("maxClients", ", maxClients: 5", Changes),
        ],
    });
    check(&Message {
        name: "RateLimitRule",
        keys: keys::<r::RateLimitRule>(),
        kind: "LocalRateLimit",
        spec: &rule(&format!("{LIMIT} @")),
        rows: &[
            ("name", "", Nothing("the base has it")),
            ("match", ", match: {path: {exact: /a}}", Changes),
            ("perClient", ", perClient: {identity: true}", Changes),
            ("limit", "", Nothing("the base has it")),
        ],
    });
    check(&Message {
        name: "RateLimitMatch",
        keys: keys::<r::RateLimitMatch>(),
        kind: "LocalRateLimit",
        spec: &rule(&format!("match: {{path: {{prefix: /a}} @}}, {LIMIT}")),
        rows: &[
            ("path", "", Nothing("the base has it")),
            ("methods", ", methods: [GET]", Changes),
            ("headers", ", headers: {x-a: {exact: b}}", Changes),
        ],
    });
    for client in ["identity: true", "sourceAddress: true", "header: x-a"] {
        let others = ["identity: true", "sourceAddress: true", "header: x-a"].into_iter().filter(|other| *other != client);
        for other in others {
            let of = |client: &str| super::sent("LocalRateLimit", &rule(&format!("perClient: {{{client}}}, {LIMIT}"))).unwrap();
            assert_ne!(of(client), of(other));
        }
    }
    check(&Message {
        name: "RateLimit",
        keys: keys::<r::RateLimit>(),
        kind: "LocalRateLimit",
        spec: &rule("limit: {requests: 5 @}"),
        rows: &[("requests", "", Nothing("the base has it")), ("per", ", per: 60s", Changes), ("burst", ", burst: 9", Changes)],
    });
}
