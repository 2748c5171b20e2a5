//! No field of a traffic resource is silently ignored: each one changes what a proxy is sent, or is refused with its place.
//!
//! The tables below name every field of every message; a field that is added to the model and to no table fails the test.

use super::View;
use crate::generate::proxy::ProxyRole;
use crate::generate::{Proxy, fixture};
use lateen_model::manifest;
use lateen_model::resource as r;
use lateen_xds::server::Watch;
use lateen_xds::{Generation, ResourceType};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;

const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: one, namespace: a}
spec: {selector: {app: one}, ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 81}, {name: tcp, port: 82}, {name: tls, port: 83}]}
---
apiVersion: v1
kind: Service
metadata: {name: two, namespace: a}
spec: {selector: {app: two}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-1, port: 84}, {name: tcp-2, port: 85}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bytes, namespace: a}
spec:
  hosts: [two]
  tcp:
  - {match: [{port: 84}], route: [{destination: {host: one, port: {number: 82}}}]}
  - {match: [{port: 85}], route: [{destination: {host: one, subset: s, port: {number: 82}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: three, namespace: b}
spec: {selector: {app: three}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
";

/// What a field's example must come to.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// A proxy is sent something else with it than without it.
    Changes,
    /// It is refused, with a message that has these words.
    Refused(&'static str),
    /// It changes nothing, as in Istio, for this reason.
    Nothing(#[expect(dead_code, reason = "for who reads the table")] &'static str),
}

use Fate::{Changes, Nothing, Refused};

const LATER: Fate = Refused("is not supported by this version of Lateen");

/// A field, an example of it in YAML's flow style as it stands among its siblings, and what that must come to.
type Row = (&'static str, &'static str, Fate);

/// A message: its default, to know all its fields; a resource's spec with `@` where further fields of the message may stand;
/// and all its fields.
struct Message<'a> {
    name: &'a str,
    keys: BTreeSet<String>,
    kind: &'a str,
    spec: &'a str,
    rows: &'a [Row],
}

fn keys<T: Serialize + Default>() -> BTreeSet<String> {
    let value = serde_json::to_value(T::default()).unwrap();
    value.as_object().unwrap().keys().cloned().collect()
}

/// All that the pod `one-0` of namespace `a` is sent, as text; or why the document is refused.
fn sent(kind: &str, spec: &str) -> Result<String, Vec<String>> {
    let group = if kind == "LocalRateLimit" { "policy.lateen.dev/v1alpha1" } else { "networking.istio.io/v1" };
    let document = format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{name: x, namespace: a}}\nspec: {spec}\n");
    if let Some(Err(rejection)) = manifest::read(&document, "x.yaml").into_iter().next() {
        return Err(rejection.problems.iter().map(ToString::to_string).collect());
    }
    let labels: [&[(&str, &str)]; 4] = [
        &[("app", "one"), ("version", "v1"), ("istio-locality", "eu")],
        &[("app", "one"), ("version", "v2"), ("istio-locality", "us")],
        &[("app", "one"), ("version", "v1"), ("istio-locality", "asia")],
        &[("app", "two")],
    ];
    let pods: Vec<_> = ["one-0", "one-1", "one-2", "two-0"]
        .into_iter()
        .zip(1u8..)
        .zip(labels)
        .map(|((name, ip), labels)| fixture::pod("a", name, [10, 0, 0, ip], labels))
        .collect();
    let world = fixture::world(&format!("{MESH}{document}"), &pods);
    let role = if kind == "Gateway" { ProxyRole::Router } else { ProxyRole::Sidecar };
    let proxy = Arc::new(Proxy { role, ..fixture::discovering(&world, "a", "one-0") });
    let view = View::new(Generation(1), &world, proxy, &Arc::default());
    let routes = if role == ProxyRole::Router { ["http.8080", "https.443.p.x.a"] } else { ["80", "81"] };
    let _ = view.generate(ResourceType::Rds, Watch::Names(&routes.map(Into::into)));
    Ok(serde_json::to_string_pretty(&crate::server::debug::config_dump(&view)).unwrap())
}

fn check(message: &Message<'_>) {
    let Message { name, keys, kind, spec, rows } = message;
    let named: BTreeSet<String> = rows.iter().map(|(field, ..)| (*field).to_owned()).collect();
    assert_eq!(&named, keys, "the fields of {name}");
    let without = sent(kind, &spec.replace('@', "")).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    for (field, example, fate) in *rows {
        let with = sent(kind, &spec.replace('@', example));
        match (fate, with) {
            (Changes, Ok(with)) => assert_ne!(with, without, "{name}.{field} is silently ignored: {example}"),
            (Refused(words), Err(problems)) => {
                let at = |p: &String| p.starts_with("x.yaml:4:") && p.contains(field) && p.contains(words);
                assert!(problems.iter().any(at), "{name}.{field}: {problems:#?}");
            }
            (Nothing(_), Ok(with)) => assert_eq!(with, without, "{name}.{field} has an effect"),
            (fate, with) => panic!("{name}.{field}: {fate:?}, but {:?}", with.map(|_| "it is accepted")),
        }
    }
}

#[test]
fn virtual_services() {
    const TO: &str = "route: [{destination: {host: one}}]";
    let one = |http: &str| format!("{{hosts: [one], http: [{http}]}}");
    let (route, condition) =
        (one("{route: [{destination: {host: one}}] @}"), one(&format!("{{match: [{{uri: {{prefix: /a}} @}}], {TO}}}")));
    let bare_condition = one(&format!("{{match: [{{method: {{exact: GET}} @}}], {TO}}}"));
    check(&Message {
        name: "VirtualService",
        keys: keys::<r::VirtualServiceSpec>(),
        kind: "VirtualService",
        spec: "{hosts: [one], http: [{name: r, route: [{destination: {host: two}}]}] @}",
        rows: &[
            ("hosts", "", Nothing("the base has it")),
            ("http", "", Nothing("the base has it")),
            ("gateways", ", gateways: [g]", Changes),
            ("tls", ", tls: [{match: [{sniHosts: [one]}], route: [{destination: {host: two}}]}]", Changes),
            ("tcp", ", tcp: [{route: [{destination: {host: two}}]}]", Changes),
            ("exportTo", ", exportTo: [b]", Changes),
        ],
    });
    check(&Message {
        name: "HTTPRoute",
        keys: keys::<r::HttpRoute>(),
        kind: "VirtualService",
        spec: &route,
        rows: &[
            ("name", ", name: r", Changes),
            ("match", ", match: [{uri: {exact: /a}}]", Changes),
            ("route", "", Nothing("the base has it")),
            ("redirect", "", Nothing("below: it excludes a route")),
            ("directResponse", "", Nothing("below: it excludes a route")),
            ("delegate", "", Nothing("below: it excludes a route")),
            ("rewrite", ", rewrite: {uri: /x}", Changes),
            ("timeout", ", timeout: 1s", Changes),
            ("retries", ", retries: {attempts: 1}", Changes),
            ("fault", ", fault: {abort: {httpStatus: 500, percentage: {value: 1}}}", Changes),
            ("mirror", ", mirror: {host: two}", Changes),
            ("mirrors", ", mirrors: [{destination: {host: two}}]", Changes),
            ("mirrorPercent", "", Nothing("below: it qualifies mirror")),
            ("mirrorPercentage", "", Nothing("below: it qualifies mirror")),
            ("corsPolicy", ", corsPolicy: {allowMethods: [GET]}", Changes),
            ("headers", ", headers: {request: {set: {a: b}}}", Changes),
        ],
    });
    for (words, http) in [
        ("http[0].redirect.redirectCode: 304 is not supported", "{redirect: {uri: /a, redirectCode: 304}}"),
        ("http[0].directResponse.status: 600 is not supported", "{directResponse: {status: 600}}"),
    ] {
        let problems = sent("VirtualService", &one(http)).unwrap_err();
        assert!(problems.iter().any(|p| p.contains(words)), "{http}: {problems:?}");
    }
    check(&Message {
        name: "HTTPMatchRequest",
        keys: keys::<r::HttpMatchRequest>(),
        kind: "VirtualService",
        spec: &condition,
        rows: &[
            ("name", ", name: r", Changes),
            ("uri", "", Nothing("the base has it")),
            ("scheme", ", scheme: {exact: http}", Changes),
            ("method", ", method: {exact: GET}", Changes),
            ("authority", ", authority: {exact: one}", Changes),
            ("headers", ", headers: {x: {exact: a}}", Changes),
            ("port", ", port: 81", Changes),
            ("sourceLabels", ", sourceLabels: {app: two}", Changes),
            ("gateways", ", gateways: [g]", Changes),
            ("queryParams", ", queryParams: {q: {exact: a}}", Changes),
            ("ignoreUriCase", ", ignoreUriCase: true", Changes),
            ("withoutHeaders", ", withoutHeaders: {x: {exact: a}}", Changes),
            ("sourceNamespace", ", sourceNamespace: b", Changes),
            ("statPrefix", ", statPrefix: s", LATER),
        ],
    });
    for value in ["{exact: /x}", "{prefix: /x}", "{regex: '/x+'}"] {
        let with = sent("VirtualService", &bare_condition.replace('@', &format!(", uri: {value}")));
        assert_ne!(with.unwrap(), sent("VirtualService", &bare_condition.replace('@', "")).unwrap(), "{value}");
    }
    check(&Message {
        name: "HTTPRouteDestination",
        keys: keys::<r::HttpRouteDestination>(),
        kind: "VirtualService",
        spec: &one("{route: [{destination: {host: one}, weight: 1}, {destination: {host: two} @}]}"),
        rows: &[
            ("destination", "", Nothing("the base has it")),
            ("weight", ", weight: 1", Changes),
            ("headers", ", weight: 0, headers: {request: {set: {a: b}}}", Nothing("without weight it gets no requests")),
        ],
    });
    check(&Message {
        name: "Destination",
        keys: keys::<r::Destination>(),
        kind: "VirtualService",
        spec: &one("{route: [{destination: {host: one @}}]}"),
        rows: &[
            ("host", "", Nothing("the base has it")),
            ("subset", ", subset: v1", Changes),
            ("port", ", port: {number: 81}", Changes),
        ],
    });
    for (side, base) in [
        ("request", "{route: [{destination: {host: one}}], headers: {request: {set: {z: z} @}}}"),
        ("response", "{route: [{destination: {host: one}}], headers: {response: {set: {z: z} @}}}"),
    ] {
        check(&Message {
            name: side,
            keys: keys::<r::HeaderOperations>(),
            kind: "VirtualService",
            spec: &one(base),
            rows: &[
                ("set", "", Nothing("the base has it")),
                ("add", ", add: {a: b}", Changes),
                ("remove", ", remove: [a]", Changes),
            ],
        });
    }
}

#[test]
fn faults_mirrors_and_origins() {
    let route = |more: &str| format!("{{hosts: [one], http: [{{route: [{{destination: {{host: one}}}}], {more}}}]}}");
    let mirrored = |more: &str| sent("VirtualService", &route(&format!("mirror: {{host: two}} {more}"))).unwrap();
    for share in [", mirrorPercent: 5", ", mirrorPercentage: {value: 5}"] {
        assert_ne!(mirrored(share), mirrored(""), "{share}");
    }
    check(&Message {
        name: "HTTPMirrorPolicy",
        keys: keys::<r::HttpMirrorPolicy>(),
        kind: "VirtualService",
        spec: &route("mirrors: [{destination: {host: two} @}]"),
        rows: &[("destination", "", Nothing("the base has it")), ("percentage", ", percentage: {value: 5}", Changes)],
    });
    check(&Message {
        name: "HTTPFaultInjection",
        keys: keys::<r::FaultInjection>(),
        kind: "VirtualService",
        spec: &route("timeout: 1s, fault: {delay: {fixedDelay: 1s, percentage: {value: 1}} @}"),
        rows: &[
            ("delay", "", Nothing("the base has it")),
            ("abort", ", abort: {httpStatus: 500, percentage: {value: 1}}", Changes),
        ],
    });
    check(&Message {
        name: "HTTPFaultInjection.Delay",
        keys: keys::<r::FaultDelay>(),
        kind: "VirtualService",
        spec: &route("fault: {abort: {httpStatus: 500, percentage: {value: 1}}, delay: {fixedDelay: 1s @}}"),
        rows: &[
            ("percent", ", percent: 5", Changes),
            ("fixedDelay", "", Nothing("the base has it")),
            ("exponentialDelay", ", exponentialDelay: 1s", LATER),
            ("percentage", ", percentage: {value: 6}", Changes),
        ],
    });
    check(&Message {
        name: "HTTPFaultInjection.Abort",
        keys: keys::<r::FaultAbort>(),
        kind: "VirtualService",
        spec: &route("fault: {delay: {fixedDelay: 1s, percentage: {value: 1}}, abort: {@}}"),
        rows: &[
            ("httpStatus", "httpStatus: 503, percentage: {value: 5}", Changes),
            ("grpcStatus", "grpcStatus: UNAVAILABLE, percentage: {value: 5}", Changes),
            ("http2Error", "http2Error: x", LATER),
            ("percentage", "httpStatus: 503, percentage: {value: 6}", Changes),
        ],
    });
    check(&Message {
        name: "CorsPolicy",
        keys: keys::<r::CorsPolicy>(),
        kind: "VirtualService",
        spec: &route("corsPolicy: {maxAge: 1s @}"),
        rows: &[
            ("allowOrigin", ", allowOrigin: [a]", Changes),
            ("allowOrigins", ", allowOrigins: [{prefix: a}]", Changes),
            ("allowMethods", ", allowMethods: [GET]", Changes),
            ("allowHeaders", ", allowHeaders: [a]", Changes),
            ("exposeHeaders", ", exposeHeaders: [a]", Changes),
            ("maxAge", "", Nothing("the base has it")),
            ("allowCredentials", ", allowCredentials: true", Changes),
            ("unmatchedPreflights", ", unmatchedPreflights: IGNORE", Changes),
        ],
    });
}

#[test]
fn answers_rewrites_and_retries() {
    let one = |http: &str| format!("{{hosts: [one], http: [{http}]}}");
    let redirect = one("{match: [{uri: {prefix: /a}}], redirect: {authority: h @}}");
    check(&Message {
        name: "HTTPRedirect",
        keys: keys::<r::HttpRedirect>(),
        kind: "VirtualService",
        spec: &redirect,
        rows: &[
            ("uri", ", uri: /b", Changes),
            ("authority", "", Nothing("the base has it")),
            ("port", ", port: 8443", Changes),
            ("derivePort", ", scheme: https, derivePort: FROM_REQUEST_PORT", Changes),
            ("scheme", ", scheme: https", Changes),
            ("redirectCode", ", redirectCode: 308", Changes),
            ("prefixRewrite", ", prefixRewrite: /b", Changes),
        ],
    });
    check(&Message {
        name: "HTTPDirectResponse",
        keys: keys::<r::HttpDirectResponse>(),
        kind: "VirtualService",
        spec: &one("{directResponse: {status: 200 @}}"),
        rows: &[("status", "", Nothing("the base has it")), ("body", ", body: {string: x}", Changes)],
    });
    check(&Message {
        name: "HTTPBody",
        keys: keys::<r::HttpBody>(),
        kind: "VirtualService",
        spec: &one("{directResponse: {status: 200, body: {@}}}"),
        rows: &[("string", "string: x", Changes), ("bytes", "bytes: eA==", Changes)],
    });
    check(&Message {
        name: "HTTPRewrite",
        keys: keys::<r::HttpRewrite>(),
        kind: "VirtualService",
        spec: &one("{route: [{destination: {host: one}}], rewrite: {authority: h @}}"),
        rows: &[
            ("uri", ", uri: /b", Changes),
            ("authority", "", Nothing("the base has it")),
            ("uriRegexRewrite", ", uriRegexRewrite: {match: a, rewrite: b}", Changes),
        ],
    });
    check(&Message {
        name: "HTTPRetry",
        keys: keys::<r::HttpRetry>(),
        kind: "VirtualService",
        spec: &one("{route: [{destination: {host: one}}], retries: {attempts: 7 @}}"),
        rows: &[
            ("attempts", "", Nothing("the base has it")),
            ("perTryTimeout", ", perTryTimeout: 1s", Changes),
            ("retryOn", ", retryOn: 5xx", Changes),
            ("retryRemoteLocalities", ", retryRemoteLocalities: true", Changes),
            ("retryIgnorePreviousHosts", ", retryIgnorePreviousHosts: false", Changes),
            ("backoff", ", backoff: 1s", Changes),
        ],
    });
}

#[test]
fn destination_rules() {
    check(&Message {
        name: "DestinationRule",
        keys: keys::<r::DestinationRuleSpec>(),
        kind: "DestinationRule",
        spec: "{host: one @}",
        rows: &[
            ("host", "", Nothing("the base has it")),
            ("trafficPolicy", ", trafficPolicy: {loadBalancer: {simple: RANDOM}}", Changes),
            ("subsets", ", subsets: [{name: v1, labels: {version: v1}}]", Changes),
            ("exportTo", ", exportTo: [b]", Changes),
            ("workloadSelector", ", workloadSelector: {matchLabels: {app: other}}", Changes),
        ],
    });
    check(&Message {
        name: "Subset",
        keys: keys::<r::Subset>(),
        kind: "DestinationRule",
        spec: "{host: one, subsets: [{name: s @}]}",
        rows: &[
            ("name", "", Nothing("the base has it")),
            ("labels", ", labels: {version: v1}", Changes),
            ("trafficPolicy", ", trafficPolicy: {loadBalancer: {simple: RANDOM}}", Changes),
        ],
    });
    let policy: &[Row] = &[
        ("loadBalancer", ", loadBalancer: {simple: ROUND_ROBIN}", Changes),
        ("connectionPool", ", connectionPool: {tcp: {maxConnections: 7}}", Changes),
        ("outlierDetection", ", outlierDetection: {interval: 3s}", Changes),
        ("tls", ", tls: {mode: DISABLE}", Changes),
    ];
    let whole: &[Row] = &[
        ("portLevelSettings", ", portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: RANDOM}}]", Changes),
        ("tunnel", ", tunnel: {targetHost: a.example, targetPort: 80}", Changes),
        ("proxyProtocol", ", proxyProtocol: {version: V1}", Changes),
        ("retryBudget", ", retryBudget: {percent: 5}", Changes),
    ];
    for spec in [
        "{host: one, trafficPolicy: {retryBudget: {percent: 1} @}}",
        "{host: one, subsets: [{name: s, trafficPolicy: {retryBudget: {percent: 1} @}}]}",
    ] {
        let rows: Vec<Row> =
            policy.iter().chain(&whole[..3]).copied().chain([("retryBudget", "", Nothing("the base has it"))]).collect();
        check(&Message { name: "TrafficPolicy", keys: keys::<r::TrafficPolicy>(), kind: "DestinationRule", spec, rows: &rows });
    }
    let port: Vec<Row> = [("port", "", Nothing("the base has it"))].into_iter().chain(policy.iter().copied()).collect();
    check(&Message {
        name: "PortTrafficPolicy",
        keys: keys::<r::PortTrafficPolicy>(),
        kind: "DestinationRule",
        spec: "{host: one, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL} @}]}}",
        rows: &port
            .iter()
            .copied()
            .map(|row| if row.0 == "tls" { ("tls", "", Nothing("the base has it")) } else { row })
            .collect::<Vec<_>>(),
    });
}

#[test]
fn what_connections_go_through() {
    check(&Message {
        name: "ProxyProtocol",
        keys: keys::<r::ProxyProtocol>(),
        kind: "DestinationRule",
        spec: "{host: one, trafficPolicy: {proxyProtocol: {@}}}",
        rows: &[("version", "version: V2", Changes)],
    });
    check(&Message {
        name: "TunnelSettings",
        keys: keys::<r::TunnelSettings>(),
        kind: "DestinationRule",
        spec: "{host: one, trafficPolicy: {tunnel: {targetHost: a.example, targetPort: 80 @}}}",
        rows: &[
            ("protocol", ", protocol: POST", Changes),
            ("targetHost", "", Nothing("the base has it")),
            ("targetPort", "", Nothing("the base has it")),
        ],
    });
    let of = |host: &str, port: u16| {
        let spec = format!("{{host: one, trafficPolicy: {{tunnel: {{targetHost: '{host}', targetPort: {port}}}}}}}");
        sent("DestinationRule", &spec).unwrap()
    };
    for (host, port, target) in
        [("a.example", 80, "a.example:80"), ("10.1.2.3", 81, "10.1.2.3:81"), ("fd00::1", 82, "[fd00::1]:82")]
    {
        assert!(of(host, port).contains(&format!("\"{target}\"")), "{target}");
    }
}

#[test]
fn settings_of_destination_rules() {
    let policy = |settings: &str| format!("{{host: one, trafficPolicy: {{{settings}}}}}");
    check(&Message {
        name: "LoadBalancerSettings",
        keys: keys::<r::LoadBalancerSettings>(),
        kind: "DestinationRule",
        spec: &policy("loadBalancer: {@}"),
        rows: &[
            ("simple", "simple: RANDOM", Changes),
            ("consistentHash", "consistentHash: {useSourceIp: true}", Changes),
            ("localityLbSetting", "localityLbSetting: {distribute: [{from: '*', to: {us: 100}}]}", Changes),
            ("zoneAwareLbSetting", "zoneAwareLbSetting: {}", Changes),
            ("warmupDurationSecs", "warmupDurationSecs: 1s", Changes),
            ("warmup", "warmup: {duration: 1s}", Changes),
        ],
    });
    check(&Message {
        name: "LocalityLoadBalancerSetting",
        keys: keys::<r::LocalityLbSetting>(),
        kind: "DestinationRule",
        spec: &policy("outlierDetection: {}, loadBalancer: {localityLbSetting: {@}}"),
        rows: &[
            ("distribute", "distribute: [{from: eu, to: {eu: 80, us: 20}}]", Changes),
            ("failover", "failover: [{from: eu, to: us}]", Changes),
            ("failoverPriority", "failoverPriority: [version]", Changes),
            ("enabled", "enabled: false", Changes),
        ],
    });
    check(&Message {
        name: "ZoneAwareLoadBalancerSetting",
        keys: keys::<r::ZoneAwareLbSetting>(),
        kind: "DestinationRule",
        spec: &policy("loadBalancer: {zoneAwareLbSetting: {@}}"),
        rows: &[
            ("enabled", "enabled: false", Changes),
            ("failover", "failover: [{from: eu, to: us}]", Changes),
            ("failoverPriority", "failoverPriority: [version]", Changes),
            ("minClusterSize", "minClusterSize: 2", Changes),
        ],
    });
    check(&Message {
        name: "WarmupConfiguration",
        keys: keys::<r::Warmup>(),
        kind: "DestinationRule",
        spec: &policy("loadBalancer: {warmup: {duration: 7s @}}"),
        rows: &[
            ("duration", "", Nothing("the base has it")),
            ("minimumPercent", ", minimumPercent: 20", Changes),
            ("aggression", ", aggression: 2", Changes),
        ],
    });
    check(&Message {
        name: "ConsistentHashLB",
        keys: keys::<r::ConsistentHash>(),
        kind: "DestinationRule",
        spec: &policy("connectionPool: {tcp: {maxConnections: 7}} @"),
        rows: &[
            ("httpHeaderName", ", loadBalancer: {consistentHash: {httpHeaderName: x-user}}", Changes),
            ("httpCookie", ", loadBalancer: {consistentHash: {httpCookie: {name: c}}}", Changes),
            ("useSourceIp", ", loadBalancer: {consistentHash: {useSourceIp: true}}", Changes),
            ("httpQueryParameterName", ", loadBalancer: {consistentHash: {httpQueryParameterName: user}}", Changes),
            ("ringHash", ", loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 8}}}", Changes),
            ("maglev", ", loadBalancer: {consistentHash: {useSourceIp: true, maglev: {}}}", Changes),
            ("minimumRingSize", ", loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 7}}", Changes),
        ],
    });
    let hashed = |table: &str| {
        sent("DestinationRule", &policy(&format!("loadBalancer: {{consistentHash: {{useSourceIp: true {table}}}}}"))).unwrap()
    };
    for table in [", ringHash: {minimumRingSize: 8}", ", maglev: {}", ", minimumRingSize: 7"] {
        assert_ne!(hashed(table), hashed(""), "{table}");
    }
    let simple = |value: &str| sent("DestinationRule", &policy(&format!("loadBalancer: {{simple: {value}}}"))).unwrap();
    assert_ne!(simple("PASSTHROUGH"), simple("LEAST_REQUEST"));
    check(&Message {
        name: "ConnectionPoolSettings.tcp",
        keys: keys::<r::TcpPoolSettings>(),
        kind: "DestinationRule",
        spec: &policy("connectionPool: {tcp: {@}}"),
        rows: &[
            ("maxConnections", "maxConnections: 1", Changes),
            ("connectTimeout", "connectTimeout: 1s", Changes),
            ("tcpKeepalive", "tcpKeepalive: {time: 1s}", Changes),
            ("maxConnectionDuration", "maxConnectionDuration: 1s", Changes),
            ("idleTimeout", "idleTimeout: 1s", Changes),
        ],
    });
    check(&Message {
        name: "TcpKeepalive",
        keys: keys::<r::TcpKeepalive>(),
        kind: "DestinationRule",
        spec: &policy("connectionPool: {tcp: {tcpKeepalive: {@}}}"),
        rows: &[("probes", "probes: 1", Changes), ("time", "time: 1s", Changes), ("interval", "interval: 1s", Changes)],
    });
    check(&Message {
        name: "ConnectionPoolSettings.http",
        keys: keys::<r::HttpPoolSettings>(),
        kind: "DestinationRule",
        spec: &policy("connectionPool: {http: {@}}"),
        rows: &[
            ("http1MaxPendingRequests", "http1MaxPendingRequests: 1", Changes),
            ("http2MaxRequests", "http2MaxRequests: 1", Changes),
            ("maxRequestsPerConnection", "maxRequestsPerConnection: 1", Changes),
            ("maxRetries", "maxRetries: 1", Changes),
            ("idleTimeout", "idleTimeout: 1s", Changes),
            ("h2UpgradePolicy", "h2UpgradePolicy: UPGRADE", Changes),
            ("useClientProtocol", "useClientProtocol: true", Changes),
            ("maxConcurrentStreams", "maxConcurrentStreams: 1", Changes),
            ("http2KeepAlive", "h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 1s, timeout: 1s}", Changes),
        ],
    });
    check(&Message {
        name: "OutlierDetection",
        keys: keys::<r::OutlierDetection>(),
        kind: "DestinationRule",
        spec: &policy("outlierDetection: {@}"),
        rows: &[
            ("consecutiveErrors", "consecutiveErrors: 3", Nothing("deprecated; there is a warning")),
            ("consecutive5xxErrors", "consecutive5xxErrors: 3", Changes),
            ("consecutiveGatewayErrors", "consecutiveGatewayErrors: 3", Changes),
            ("splitExternalLocalOriginErrors", "splitExternalLocalOriginErrors: true", Changes),
            (
                "consecutiveLocalOriginFailures",
                "splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 3",
                Changes,
            ),
            ("interval", "interval: 3s", Changes),
            ("baseEjectionTime", "baseEjectionTime: 3s", Changes),
            ("maxEjectionPercent", "maxEjectionPercent: 30", Changes),
            ("minHealthPercent", "minHealthPercent: 30", Changes),
            ("outlierDetectionHttpErrorCodes", "outlierDetectionHttpErrorCodes: [500]", Changes),
        ],
    });
    check(&Message {
        name: "RetryBudget",
        keys: keys::<r::RetryBudget>(),
        kind: "DestinationRule",
        spec: &policy("retryBudget: {@}"),
        rows: &[
            ("percent", "percent: 5", Changes),
            ("minRetryConcurrency", "minRetryConcurrency: 5", Changes),
            ("budgetInterval", "budgetInterval: 5s", Changes),
        ],
    });
    check(&Message {
        name: "ClientTLSSettings",
        keys: keys::<r::ClientTlsSettings>(),
        kind: "DestinationRule",
        spec: &policy("tls: {mode: ISTIO_MUTUAL @}"),
        rows: &[
            ("mode", "", Nothing("the base has it")),
            ("clientCertificate", ", clientCertificate: c", Refused("must not be set with ISTIO_MUTUAL")),
            ("privateKey", ", privateKey: c", Refused("must not be set with ISTIO_MUTUAL")),
            ("caCertificates", ", caCertificates: c", Refused("must not be set with ISTIO_MUTUAL")),
            ("subjectAltNames", ", subjectAltNames: [a]", Changes),
            ("sni", ", sni: a", Changes),
            ("credentialName", ", credentialName: c", Refused("must not be set with ISTIO_MUTUAL")),
            ("insecureSkipVerify", ", insecureSkipVerify: true", Refused("contradicts ISTIO_MUTUAL")),
            ("caCrl", ", caCrl: c", Refused("must not be set with ISTIO_MUTUAL")),
        ],
    });
    check(&Message {
        name: "ClientTLSSettings",
        keys: keys::<r::ClientTlsSettings>(),
        kind: "DestinationRule",
        spec: &policy("tls: {mode: SIMPLE @}"),
        rows: &[
            ("mode", "", Nothing("the base has it")),
            ("clientCertificate", ", clientCertificate: c", Nothing("is for MUTUAL")),
            ("privateKey", ", privateKey: c", Nothing("is for MUTUAL")),
            ("caCertificates", ", caCertificates: c", Changes),
            ("subjectAltNames", ", subjectAltNames: [a]", Changes),
            ("sni", ", sni: a", Changes),
            ("credentialName", ", credentialName: c", Nothing("is for gateways, as a warning says")),
            ("insecureSkipVerify", ", insecureSkipVerify: true", Changes),
            ("caCrl", ", caCrl: c", Changes),
        ],
    });
}

#[test]
fn sidecars() {
    check(&Message {
        name: "Sidecar",
        keys: keys::<r::SidecarSpec>(),
        kind: "Sidecar",
        spec: "{egress: [{hosts: ['./one.a.svc.cluster.local']}] @}",
        rows: &[
            ("workloadSelector", ", workloadSelector: {labels: {app: other}}", Changes),
            ("ingress", ", ingress: [{port: {number: 80, protocol: HTTP}}]", Changes),
            ("egress", "", Nothing("the base has it")),
            ("outboundTrafficPolicy", ", outboundTrafficPolicy: {}", Changes),
            ("inboundConnectionPool", ", inboundConnectionPool: {tcp: {maxConnections: 1}}", Changes),
        ],
    });
    check(&Message {
        name: "IstioEgressListener",
        keys: keys::<r::IstioEgressListener>(),
        kind: "Sidecar",
        spec: "{egress: [{hosts: ['./*'] @}]}",
        rows: &[
            ("port", ", port: {number: 81, protocol: HTTP}", Changes),
            ("bind", ", port: {number: 80, protocol: HTTP}, bind: 127.0.0.1", Changes),
            ("captureMode", ", port: {number: 80, protocol: HTTP}, captureMode: NONE", Changes),
            ("hosts", "", Nothing("the base has it")),
        ],
    });
    let ingress = |capture: &str, rows: &[Row]| {
        check(&Message {
            name: "IstioIngressListener",
            keys: keys::<r::IstioIngressListener>(),
            kind: "Sidecar",
            spec: &format!(
                "{{ingress: [{{port: {{number: 8085, protocol: HTTP}}, defaultEndpoint: '127.0.0.1:8080' {capture} @}}]}}"
            ),
            rows,
        });
    };
    ingress(
        "",
        &[
            ("port", "", Nothing("the base has it")),
            ("bind", ", bind: 10.0.0.1", Nothing("is of no matter to what is captured, as a warning says")),
            ("captureMode", ", captureMode: NONE", Changes),
            ("defaultEndpoint", "", Nothing("the base has it")),
            ("tls", ", tls: {mode: SIMPLE}", Refused("ENABLE_TLS_ON_SIDECAR_INGRESS")),
            ("connectionPool", ", connectionPool: {tcp: {maxConnections: 1}}", Changes),
        ],
    );
    ingress(
        ", captureMode: NONE",
        &[
            ("port", "", Nothing("the base has it")),
            ("bind", ", bind: 10.0.0.1", Changes),
            ("captureMode", "", Nothing("the base has it")),
            ("defaultEndpoint", "", Nothing("the base has it")),
            ("tls", ", tls: {mode: SIMPLE}", Refused("ENABLE_TLS_ON_SIDECAR_INGRESS")),
            ("connectionPool", ", connectionPool: {tcp: {maxConnections: 1}}", Changes),
        ],
    );
    check(&Message {
        name: "OutboundTrafficPolicy",
        keys: keys::<r::OutboundTrafficPolicy>(),
        kind: "Sidecar",
        spec: "{outboundTrafficPolicy: {mode: ALLOW_ANY @}}",
        rows: &[("mode", "", Nothing("the base has it")), ("egressProxy", ", egressProxy: {host: one}", Changes)],
    });
}

#[path = "effect_tests_entries.rs"]
mod entries;

#[path = "effect_tests_gateways.rs"]
mod gateways;

#[path = "effect_tests_policies.rs"]
mod policies;
