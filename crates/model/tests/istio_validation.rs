//! Istio's validation rules, one line for each.

mod common;

use common::{check, findings, findings_of};

const NETWORKING: &str = "networking.istio.io/v1";
const SECURITY: &str = "security.istio.io/v1";
const LATER: &str = "is not supported by this version of Lateen";

/// Wraps HTTP routes in a spec.
fn http(routes: &str) -> String {
    format!("{{hosts: [web], http: [{routes}]}}")
}

/// A table whose left sides are HTTP routes.
fn check_http(table: &[(&str, &str)]) {
    let specs: Vec<(String, &str)> = table.iter().map(|(routes, expected)| (http(routes), *expected)).collect();
    let table: Vec<(&str, &str)> = specs.iter().map(|(spec, expected)| (spec.as_str(), *expected)).collect();
    check(NETWORKING, "VirtualService", &table);
}

#[test]
fn virtual_service_hosts_and_shape() {
    let http = "http: [{route: [{destination: {host: web}}]}]";
    let table = [
        (format!("{{hosts: [web, other.prod, '*.example.org', 10.0.0.1], {http}}}"), ""),
        (format!("{{{http}}}"), ""),
        (format!("{{hosts: [], gateways: [g], {http}}}"), "spec.gateways: must not be set without hosts"),
        ("{tcp: [{route: [{destination: {host: a}}]}]}".to_owned(), "spec.tcp: must not be set without hosts"),
        ("{hosts: [web]}".to_owned(), "spec: must have at least one route"),
        (format!("{{hosts: ['*'], {http}}}"), "spec.hosts[0]: \"*\" is allowed only for gateways"),
        (format!("{{hosts: ['*'], gateways: [mesh, g], {http}}}"), "spec.hosts[0]: \"*\" is allowed only for gateways"),
        (format!("{{hosts: ['*'], gateways: [g], {http}}}"), ""),
        (format!("{{hosts: [web, Web], {http}}}"), "spec.hosts[1]: the host web is listed twice"),
        (format!("{{hosts: ['*.com', a.com], {http}}}"), "spec.hosts[1]: the host a.com overlaps with *.com"),
        (format!("{{hosts: ['*.a.com', '*.com'], {http}}}"), "spec.hosts[0]: the host *.a.com overlaps with *.com"),
        (format!("{{hosts: [a.*.com], {http}}}"), "spec.hosts[0]: \"a.*.com\" is not a host name"),
        (format!("{{hosts: [a.1], {http}}}"), "spec.hosts[0]: \"a.1\" is not a host name: its last part"),
        (format!("{{hosts: [web], gateways: ['a b'], {http}}}"), "spec.gateways[0]: \"a b\" must be a DNS name"),
        (format!("{{hosts: [web], gateways: [mesh], {http}}}"), ""),
        (format!("{{hosts: [web], gateways: ['ns/g', './g', mesh], {http}}}"), ""),
        (
            format!("{{hosts: [web], gateways: [mesh, g.ns.svc.cluster.local], {http}}}"),
            "warning spec.gateways[1]: is read as NAME.NAMESPACE",
        ),
        (format!("{{hosts: [web], exportTo: ['*', a], {http}}}"), "spec.exportTo[0]: \"*\" means all namespaces"),
        (format!("{{hosts: [web], exportTo: ['.', prod], {http}}}"), "spec.exportTo[1]: the namespace \"prod\" is listed twice"),
        (format!("{{hosts: [web], exportTo: ['~'], {http}}}"), "spec.exportTo[0]: \"~\" (no namespace) is for ServiceEntry only"),
    ];
    let table: Vec<(&str, &str)> = table.iter().map(|(spec, expected)| (spec.as_str(), *expected)).collect();
    check(NETWORKING, "VirtualService", &table);
}

#[test]
fn virtual_service_actions() {
    check_http(&[
        ("{route: [{destination: {host: a}}]}", ""),
        ("{redirect: {uri: /a}}", ""),
        ("{directResponse: {status: 503}}", ""),
        ("{name: x}", "spec.http[0]: must have one of route, redirect, directResponse and delegate"),
        ("{route: [{destination: {host: a}}], redirect: {uri: /a}}", "spec.http[0]: has route and redirect: only one"),
        ("{redirect: {uri: /a}, directResponse: {status: 200}}", "spec.http[0]: has redirect and directResponse: only one"),
        ("{redirect: {uri: /a}, rewrite: {uri: /b}}", "spec.http[0].rewrite: is not allowed with redirect"),
        (
            "{directResponse: {status: 200}, fault: {abort: {httpStatus: 500}}}",
            "spec.http[0].fault: is not allowed with redirect",
        ),
        ("{delegate: {name: d}, route: [{destination: {host: a}}]}", "spec.http[0]: has route and delegate"),
        ("{delegate: {name: A_b}}", "spec.http[0].delegate.name: \"A_b\" must be a DNS name"),
    ]);
    let delegate = findings(NETWORKING, "VirtualService", "spec: {http: [{delegate: {name: d}}]}");
    assert!(delegate[0].starts_with("spec.http[0].delegate: must not stand in a delegate"), "{delegate:?}");
}

#[test]
fn virtual_service_destinations() {
    check_http(&[
        ("{route: [{}]}", "spec.http[0].route[0].destination: is required"),
        ("{route: [{destination: {}}]}", "spec.http[0].route[0].destination.host: is required"),
        ("{route: [{destination: {host: '*'}}]}", "spec.http[0].route[0].destination.host: must be one service"),
        ("{route: [{destination: {host: a b}}]}", "spec.http[0].route[0].destination.host: \"a b\" is not a host name"),
        (
            "{route: [{destination: {host: a, subset: V_1}}]}",
            "spec.http[0].route[0].destination.subset: \"V_1\" must be a DNS label",
        ),
        (
            "{route: [{destination: {host: a, port: {number: 0}}}]}",
            "spec.http[0].route[0].destination.port.number: is 0, must be a port",
        ),
        ("{route: [{destination: {host: a}, weight: -1}]}", "spec.http[0].route[0].weight: is -1, must not be negative"),
        (
            "{route: [{destination: {host: a}}, {destination: {host: b}}]}",
            "spec.http[0].route: has several destinations whose weights are all 0",
        ),
        ("{route: [{destination: {host: a}, weight: 1}, {destination: {host: b}}]}", ""),
        ("{route: [{destination: {host: a}, weight: 70}, {destination: {host: b}, weight: 70}]}", ""),
    ]);
}

#[test]
fn virtual_service_matches() {
    let table = [
        ("uri: {prefix: ''}", ""),
        ("headers: {x-a: {}}", ""),
        ("headers: {x-a: {regex: '*'}}", ""),
        ("headers: {':path': {exact: /}}", ""),
        ("uri: {regex: '/v[0-9]+'}", ""),
        ("uri: {regex: 'a('}", "spec.http[0].match[0].uri.regex: \"a(\" is not a regular expression"),
        ("uri: {regex: '*'}", "spec.http[0].match[0].uri.regex: \"*\" is not a regular expression"),
        ("headers: {x-a: {prefix: ''}}", "spec.http[0].match[0].headers[x-a].prefix: must not be empty"),
        ("withoutHeaders: {x-a: {prefix: ''}}", "spec.http[0].match[0].withoutHeaders[x-a].prefix: must not be empty"),
        ("queryParams: {a: {prefix: ''}}", "spec.http[0].match[0].queryParams.a.prefix: must not be empty"),
        ("scheme: {prefix: ''}", "spec.http[0].match[0].scheme.prefix: must not be empty"),
        ("method: {prefix: ''}", "spec.http[0].match[0].method.prefix: must not be empty"),
        ("authority: {prefix: ''}", "spec.http[0].match[0].authority.prefix: must not be empty"),
        ("headers: {'x a': {exact: b}}", "spec.http[0].match[0].headers[x a]: \"x a\" is not a header name"),
        ("port: 0", "spec.http[0].match[0].port: is 0, must be a port"),
        ("sourceLabels: {'a b': c}", "spec.http[0].match[0].sourceLabels[a b]: the key \"a b\""),
        ("sourceNamespace: A", "spec.http[0].match[0].sourceNamespace: \"A\" must be a DNS label"),
        ("gateways: ['/']", "spec.http[0].match[0].gateways[0]: the namespace"),
        (
            "headers: {'@request.auth.claims.sub': {exact: a}}",
            "spec.http[0].match[0].headers[@request.auth.claims.sub]: JWT claims can be",
        ),
        ("statPrefix: a", "spec.http[0].match[0].statPrefix: is not supported"),
    ];
    for (condition, expected) in table {
        check_http(&[(&format!("{{match: [{{{condition}}}], route: [{{destination: {{host: a}}}}]}}"), expected)]);
    }
    let long = format!("{{match: [{{uri: {{regex: {}}}}}], route: [{{destination: {{host: a}}}}]}}", "a".repeat(1025));
    check_http(&[(&long, "spec.http[0].match[0].uri.regex: the regular expression is longer than 1024")]);
}

#[test]
fn virtual_service_redirect_rewrite_and_direct_response() {
    check_http(&[
        ("{redirect: {}}", "spec.http[0].redirect: must set at least one"),
        (
            "{redirect: {uri: /a, prefixRewrite: /b}, match: [{uri: {prefix: /c}}]}",
            "spec.http[0].redirect: has uri and prefixRewrite",
        ),
        (
            "{redirect: {prefixRewrite: /b}, match: [{uri: {exact: /c}}]}",
            "spec.http[0].redirect.prefixRewrite: needs a uri prefix",
        ),
        ("{redirect: {prefixRewrite: /b}, match: [{uri: {prefix: /c}}]}", ""),
        ("{redirect: {uri: /a, redirectCode: 200}}", "spec.http[0].redirect.redirectCode: is 200, must be 300 to 399"),
        ("{redirect: {uri: /a, redirectCode: 304}}", "spec.http[0].redirect.redirectCode: 304 is not supported"),
        ("{redirect: {scheme: ftp}}", "spec.http[0].redirect.scheme: is \"ftp\", must be http or https"),
        ("{redirect: {port: 80, derivePort: FROM_REQUEST_PORT}}", "spec.http[0].redirect: has port and derivePort"),
        ("{redirect: {port: 0}}", "spec.http[0].redirect.port: is 0, must be a port"),
        ("{route: [{destination: {host: a}}], rewrite: {}}", "spec.http[0].rewrite: must set at least one"),
        (
            "{route: [{destination: {host: a}}], rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}}",
            "spec.http[0].rewrite: has uri and uriRegexRewrite",
        ),
        (
            "{route: [{destination: {host: a}}], rewrite: {uriRegexRewrite: {rewrite: b}}}",
            "spec.http[0].rewrite.uriRegexRewrite.match: is required",
        ),
        (
            "{route: [{destination: {host: a}}], rewrite: {uriRegexRewrite: {match: '(', rewrite: b}}}",
            "spec.http[0].rewrite.uriRegexRewrite.match: \"(\" is not",
        ),
        (
            "{route: [{destination: {host: a}}], rewrite: {uriRegexRewrite: {match: '/(.*)', rewrite: '/\\2'}}}",
            "spec.http[0].rewrite.uriRegexRewrite.rewrite: \\2 refers to a group",
        ),
        (
            "{route: [{destination: {host: a}}], rewrite: {authority: a}, headers: {request: {set: {Host: b}}}}",
            "spec.http[0].rewrite: sets the authority, and so do",
        ),
        ("{directResponse: {}}", "spec.http[0].directResponse.status: is 0, must be an HTTP status"),
        ("{directResponse: {status: 600}}", "spec.http[0].directResponse.status: 600 is not supported"),
        ("{directResponse: {status: 601}}", "spec.http[0].directResponse.status: is 601, must be an HTTP status"),
        (
            "{directResponse: {status: 200, body: {string: a, bytes: YQ==}}}",
            "spec.http[0].directResponse.body: has string and bytes",
        ),
        ("{directResponse: {status: 200, body: {bytes: '!'}}}", "spec.http[0].directResponse.body.bytes: not base64"),
    ]);
    for (size, expected) in [
        (100 * 1024, ""),
        (100 * 1024 + 1, "warning spec.http[0].directResponse.body: has 102401 bytes"),
        (1024 * 1024 + 1, "spec.http[0].directResponse.body: has 1048577 bytes"),
    ] {
        check_http(&[(&format!("{{directResponse: {{status: 200, body: {{string: '{}'}}}}}}", "x".repeat(size)), expected)]);
    }
}

#[test]
fn virtual_service_timeouts_retries_and_headers() {
    let table = [
        ("timeout: 0s", ""),
        ("timeout: 1m", ""),
        ("timeout: 0.5ms", "spec.http[0].timeout: is 0.000500s, must be at least 1ms"),
        ("timeout: -1s", "spec.http[0].timeout: a duration must not be negative"),
        ("retries: {attempts: 0}", ""),
        ("retries: {attempts: 3, perTryTimeout: 1s, retryOn: 'gateway-error,503', backoff: 10ms}", ""),
        ("retries: {attempts: -1}", "spec.http[0].retries.attempts: is -1, must not be negative"),
        ("retries: {perTryTimeout: 1s}", "spec.http[0].retries.perTryTimeout: must not be set when attempts is 0"),
        ("retries: {retryOn: 5xx}", "spec.http[0].retries.retryOn: must not be set when attempts is 0"),
        (
            "retries: {retryRemoteLocalities: true}",
            "spec.http[0].retries.retryRemoteLocalities: must not be set when attempts is 0",
        ),
        ("retries: {attempts: 1, retryOn: '5xx, reset'}", "spec.http[0].retries.retryOn: \" reset\" is not a condition"),
        ("retries: {attempts: 1, retryOn: '999'}", "spec.http[0].retries.retryOn: \"999\" is not a condition"),
        ("retries: {attempts: 1, perTryTimeout: 0s}", "spec.http[0].retries.perTryTimeout: is 0s, must be at least 1ms"),
        ("headers: {request: {set: {':authority': a}}}", ""),
        ("headers: {request: {add: {x-a: '%START_TIME%', x-b: '100%%'}}}", ""),
        (
            "headers: {request: {add: {x-a: '%START_TIME(%s)%'}}}",
            "spec.http[0].headers.request.add[x-a]: %START_TIME(%s)% is not supported in a header value",
        ),
        ("headers: {request: {set: {':path': a}}}", "spec.http[0].headers.request.set[:path]: cannot be changed"),
        ("headers: {response: {set: {host: a}}}", "spec.http[0].headers.response.set.host: cannot be changed"),
        ("headers: {request: {remove: [Host]}}", "spec.http[0].headers.request.remove[0]: cannot be changed"),
        ("headers: {request: {set: {'x a': b}}}", "spec.http[0].headers.request.set[x a]: \"x a\" is not a header name"),
        ("headers: {request: {set: {x-a: \"b\\n\"}}}", "spec.http[0].headers.request.set[x-a]: must not have control characters"),
        ("headers: {request: {set: {x-a: '50%'}}}", "spec.http[0].headers.request.set[x-a]: has a '%' that begins no command"),
    ];
    for (fields, expected) in table {
        check_http(&[(&format!("{{{fields}, route: [{{destination: {{host: a}}}}]}}"), expected)]);
    }
}

#[test]
fn faults_mirrors_origins_delegates_and_bytes() {
    let table = [
        ("fault: {delay: {fixedDelay: 1s, percentage: {value: 0.1}}}", ""),
        ("fault: {}", "spec.http[0].fault: must set delay or abort"),
        ("fault: {delay: {}}", "spec.http[0].fault.delay.fixedDelay: is required"),
        ("fault: {abort: {httpStatus: 700}}", "spec.http[0].fault.abort.httpStatus: is 700"),
        ("fault: {abort: {grpcStatus: NOPE}}", "spec.http[0].fault.abort.grpcStatus: \"NOPE\" is not one of"),
        ("fault: {abort: {httpStatus: 500, grpcStatus: OK}}", "spec.http[0].fault.abort: only one of httpStatus"),
        ("fault: {abort: {httpStatus: 500, percentage: {value: 101}}}", "spec.http[0].fault.abort.percentage: is 101"),
        ("fault: {abort: {httpStatus: 500, percentage: {value: 0.00001}}}", "spec.http[0].fault.abort.percentage: is 0.00001"),
        ("mirror: {host: b}", ""),
        ("mirror: {host: b}, mirrors: [{destination: {host: c}}]", "spec.http[0]: has mirror and mirrors"),
        ("mirrors: [{}]", "spec.http[0].mirrors[0].destination: is required"),
        ("mirror: {host: b}, mirrorPercent: 101", "spec.http[0].mirrorPercent: is 101"),
        ("mirror: {host: b}, mirrorPercentage: {value: -1}", "spec.http[0].mirrorPercentage: is -1"),
        ("corsPolicy: {allowOrigins: [{exact: a}]}", ""),
        ("fault: {delay: {exponentialDelay: 1s}}", "spec.http[0].fault.delay"),
        ("fault: {abort: {http2Error: x}}", "spec.http[0].fault.abort.http2Error: is not supported"),
        ("corsPolicy: {allowMethods: [FETCH]}", "spec.http[0].corsPolicy.allowMethods[0]: \"FETCH\" is not one of"),
        ("corsPolicy: {maxAge: 1.5s}", "spec.http[0].corsPolicy.maxAge: is 1.500s, must be whole seconds"),
        ("corsPolicy: {allowOrigins: [{regex: '('}]}", "spec.http[0].corsPolicy.allowOrigins[0].regex: \"(\" is not"),
    ];
    for (fields, expected) in table {
        check_http(&[(&format!("{{{fields}, route: [{{destination: {{host: a}}}}]}}"), expected)]);
    }
    check_http(&[("{delegate: {name: d}}", "")]);
    check(
        NETWORKING,
        "VirtualService",
        &[
            ("{hosts: [a.b], tls: [{match: [{sniHosts: [a.b], port: 443}], route: [{destination: {host: c}}]}]}", ""),
            ("{hosts: [a.b], tls: [{route: [{destination: {host: c}}]}]}", "spec.tls[0].match: must not be empty"),
            (
                "{hosts: [a.b], tls: [{match: [{}], route: [{destination: {host: c}}]}]}",
                "spec.tls[0].match[0].sniHosts: must not be empty",
            ),
            (
                "{hosts: [a.b], tls: [{match: [{sniHosts: [c.d]}], route: [{destination: {host: c}}]}]}",
                "spec.tls[0].match[0].sniHosts[0]: c.d is not covered",
            ),
            ("{hosts: ['*.b'], tls: [{match: [{sniHosts: [a.b]}]}]}", "spec.tls[0].route: must not be empty"),
            (
                "{hosts: [a.b], tcp: [{match: [{port: 1, destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: c}}]}]}",
                "",
            ),
            (
                "{hosts: [a.b], tcp: [{match: [{destinationSubnets: [x]}], route: [{destination: {host: c}}]}]}",
                "spec.tcp[0].match[0].destinationSubnets[0]: \"x\" must be an IP",
            ),
        ],
    );
}

#[test]
fn virtual_service_routes_that_are_never_reached() {
    let to = "route: [{destination: {host: a}}]";
    check_http(&[
        (&format!("{{{to}}}, {{name: b, {to}}}"), "warning spec.http[1]: is never reached: route 0"),
        (
            &format!("{{match: [{{uri: {{prefix: /}}}}], {to}}}, {{match: [{{port: 80}}], {to}}}"),
            "warning spec.http[1]: is never reached: route 0",
        ),
        (
            &format!("{{match: [{{uri: {{prefix: /a}}}}], {to}}}, {{match: [{{uri: {{prefix: /ab}}}}], {to}}}"),
            "warning spec.http[1]: is never reached: earlier",
        ),
        (
            &format!(
                "{{match: [{{uri: {{exact: /a}}}}], {to}}}, {{match: [{{uri: {{exact: /a}}}}, {{uri: {{exact: /b}}}}], {to}}}"
            ),
            "warning spec.http[1].match[0]: never decides",
        ),
        (&format!("{{match: [{{uri: {{prefix: /ab}}}}], {to}}}, {{match: [{{uri: {{prefix: /a}}}}], {to}}}"), ""),
        (
            &format!(
                "{{match: [{{uri: {{prefix: /a}}, port: 80}}], {to}}}, {{match: [{{uri: {{prefix: /a}}, port: 81}}], {to}}}"
            ),
            "",
        ),
        (
            &format!(
                "{{match: [{{uri: {{prefix: /a}}}}], {to}}}, {{match: [{{uri: {{prefix: /A}}, ignoreUriCase: true}}], {to}}}, {{{to}}}"
            ),
            "",
        ),
        (&format!("{{match: [{{sourceNamespace: x}}], {to}}}, {{{to}}}"), ""),
    ]);
}

#[test]
fn destination_rule() {
    let policy = |policy: &str| format!("{{host: a, trafficPolicy: {{{policy}}}}}");
    let table = [
        ("{}".to_owned(), "spec.host: is required"),
        ("{host: a..b}".to_owned(), "spec.host: \"a..b\" is not a host name"),
        ("{host: '*.local'}".to_owned(), ""),
        ("{host: a, trafficPolicy: {}}".to_owned(), "spec.trafficPolicy: must set at least one field"),
        ("{host: a, subsets: [{name: v1}, {name: v1}]}".to_owned(), "spec.subsets[1].name: the subset \"v1\" is defined twice"),
        ("{host: a, subsets: [{name: V1}]}".to_owned(), "spec.subsets[0].name: \"V1\" must be a DNS label"),
        ("{host: a, subsets: [{}]}".to_owned(), "spec.subsets[0].name: is required"),
        ("{host: a, subsets: [null]}".to_owned(), "spec.subsets[0]: is empty, must be a mapping"),
        ("{host: a, subsets: [{name: v1, labels: {a: 'b c'}}]}".to_owned(), "spec.subsets[0].labels.a: \"b c\" must be"),
        (
            "{host: a, subsets: [{name: v1, trafficPolicy: {connectionPool: {}}}]}".to_owned(),
            "spec.subsets[0].trafficPolicy.connectionPool: must set tcp or http",
        ),
        ("{host: a, exportTo: [B]}".to_owned(), "spec.exportTo[0]: \"B\" must be a DNS label"),
        ("{host: a, workloadSelector: {matchLabels: {a: b}}}".to_owned(), ""),
        (
            "{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: [other]}".to_owned(),
            "spec.exportTo: must be the own namespace",
        ),
        (
            policy(
                "connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s, idleTimeout: 0s, tcpKeepalive: {time: 60s, probes: 3, interval: 1s}}}",
            ),
            "",
        ),
        (policy("connectionPool: {tcp: {maxConnections: -1}}"), "spec.trafficPolicy.connectionPool.tcp.maxConnections: is -1"),
        (
            policy("connectionPool: {tcp: {connectTimeout: 1us}}"),
            "spec.trafficPolicy.connectionPool.tcp.connectTimeout: is 0.000001s",
        ),
        (
            policy("connectionPool: {http: {http1MaxPendingRequests: -1}}"),
            "spec.trafficPolicy.connectionPool.http.http1MaxPendingRequests: is -1",
        ),
        (policy("connectionPool: {http: {maxRetries: -1}}"), "spec.trafficPolicy.connectionPool.http.maxRetries: is -1"),
        (
            policy("connectionPool: {http: {http2KeepAlive: {interval: 1s}}}"),
            "spec.trafficPolicy.connectionPool.http.http2KeepAlive.timeout: is required",
        ),
        (
            policy("connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}"),
            "spec.trafficPolicy.connectionPool.http.useClientProtocol: contradicts",
        ),
        (policy("outlierDetection: {consecutive5xxErrors: 5, interval: 1s, baseEjectionTime: 10s, maxEjectionPercent: 50}"), ""),
        (policy("outlierDetection: {maxEjectionPercent: 101}"), "spec.trafficPolicy.outlierDetection.maxEjectionPercent: is 101"),
        (policy("outlierDetection: {minHealthPercent: -1}"), "spec.trafficPolicy.outlierDetection.minHealthPercent: is -1"),
        (policy("outlierDetection: {interval: 0s}"), "spec.trafficPolicy.outlierDetection.interval: is 0s"),
        (
            policy("outlierDetection: {consecutiveLocalOriginFailures: 1}"),
            "spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures: needs",
        ),
        (
            policy("outlierDetection: {consecutiveErrors: 1}"),
            "warning spec.trafficPolicy.outlierDetection.consecutiveErrors: is deprecated",
        ),
        (policy("portLevelSettings: [{tls: {mode: DISABLE}}]"), "spec.trafficPolicy.portLevelSettings[0].port: is required"),
        (policy("portLevelSettings: [{port: {number: 80}}]"), "spec.trafficPolicy.portLevelSettings[0]: must set at least one"),
        (policy("portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]"), ""),
        (policy("retryBudget: {percent: 20, minRetryConcurrency: 3}"), ""),
        (policy("retryBudget: {percent: 101}"), "spec.trafficPolicy.retryBudget.percent: is 101"),
        (policy("tunnel: {targetHost: a, targetPort: 80}"), ""),
        (policy("tunnel: {targetHost: 'fd00::1', targetPort: 80}"), ""),
        (policy("tunnel: {protocol: PUT, targetHost: a, targetPort: 80}"), "spec.trafficPolicy.tunnel.protocol: is \"PUT\""),
        (policy("tunnel: {targetHost: '*.a', targetPort: 80}"), "spec.trafficPolicy.tunnel.targetHost: *.a must be one name"),
        (policy("tunnel: {targetHost: a}, proxyProtocol: {}"), "spec.trafficPolicy: has tunnel and proxyProtocol"),
        (policy("proxyProtocol: {version: V2}"), ""),
    ];
    let table: Vec<(&str, &str)> = table.iter().map(|(spec, expected)| (spec.as_str(), *expected)).collect();
    check(NETWORKING, "DestinationRule", &table);
}

#[test]
fn destination_rule_load_balancing_and_tls() {
    let table = [
        ("loadBalancer: {simple: ROUND_ROBIN}", ""),
        ("loadBalancer: {simple: RANDOM}", ""),
        ("loadBalancer: {simple: UNSPECIFIED}", ""),
        ("loadBalancer: {simple: LEAST_CONN}", "warning spec.trafficPolicy.loadBalancer.simple: LEAST_CONN is deprecated"),
        ("loadBalancer: {simple: PASSTHROUGH}", ""),
        (
            "loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}",
            "spec.trafficPolicy.loadBalancer: has simple and consistentHash",
        ),
        ("loadBalancer: {consistentHash: {useSourceIp: true}}", ""),
        ("loadBalancer: {consistentHash: {}}", "spec.trafficPolicy.loadBalancer.consistentHash: must set exactly one"),
        (
            "loadBalancer: {consistentHash: {httpCookie: {ttl: 0s}}}",
            "spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.name: is required",
        ),
        (
            "loadBalancer: {consistentHash: {httpCookie: {name: a, attributes: [{name: Secure}, {name: secure}]}}}",
            "spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes[1]: the attribute",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}",
            "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize: is 100",
        ),
        ("loadBalancer: {warmup: {duration: 10s, minimumPercent: 0, aggression: 0.1}}", ""),
        (
            "loadBalancer: {simple: LEAST_REQUEST, warmupDurationSecs: 10s}",
            "warning spec.trafficPolicy.loadBalancer.warmupDurationSecs: is deprecated",
        ),
        (
            "loadBalancer: {warmup: {duration: 0s}}",
            "spec.trafficPolicy.loadBalancer.warmup.duration: is 0s, must be at least 1ms",
        ),
        (
            "loadBalancer: {warmupDurationSecs: 0s}",
            "spec.trafficPolicy.loadBalancer.warmupDurationSecs: is 0s, must be at least 1ms",
        ),
        (
            "loadBalancer: {warmup: {duration: 1s, minimumPercent: 101}}",
            "spec.trafficPolicy.loadBalancer.warmup.minimumPercent: is 101",
        ),
        ("loadBalancer: {warmup: {duration: 1s, aggression: 0}}", "spec.trafficPolicy.loadBalancer.warmup.aggression: is 0"),
        ("loadBalancer: {warmup: {}}", "spec.trafficPolicy.loadBalancer.warmup.duration: is required"),
        ("loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}", "spec.trafficPolicy.loadBalancer: warmup works with"),
        (
            "loadBalancer: {warmupDurationSecs: 1s, warmup: {duration: 1s}}",
            "spec.trafficPolicy.loadBalancer: has warmup and warmupDurationSecs",
        ),
        ("loadBalancer: {localityLbSetting: {enabled: false}}", ""),
        ("loadBalancer: {localityLbSetting: {distribute: [{from: a/*, to: {a/*: 60, b: 40}}]}}", ""),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {a: 50, b: 40}}]}}",
            "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to: the weights must each be 1 to 100",
        ),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: a/*, to: {a: 100}}, {from: a/b, to: {a: 100}}]}}",
            "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[1].from: \"a/b\" overlaps",
        ),
        (
            "loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}",
            "spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0]: from and to must differ",
        ),
        (
            "loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}], distribute: [{from: a, to: {a: 100}}]}}",
            "spec.trafficPolicy.loadBalancer.localityLbSetting: has distribute and failover",
        ),
        (
            "loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}], failoverPriority: [topology.kubernetes.io/zone]}}",
            "spec.trafficPolicy.loadBalancer.localityLbSetting: has failover, and failoverPriority",
        ),
        ("tls: {mode: ISTIO_MUTUAL}", ""),
        ("tls: {mode: ISTIO_MUTUAL, sni: a, subjectAltNames: [b]}", ""),
        ("tls: {mode: DISABLE}", ""),
        ("tls: {mode: ISTIO_MUTUAL, privateKey: k}", "spec.trafficPolicy.tls.privateKey: must not be set with ISTIO_MUTUAL"),
        ("tls: {mode: MUTUAL, clientCertificate: c}", "spec.trafficPolicy.tls.privateKey: is required with MUTUAL"),
        (
            "tls: {mode: MUTUAL, credentialName: c, privateKey: k}",
            "spec.trafficPolicy.tls.privateKey: must not be set together with credentialName",
        ),
        (
            "tls: {mode: SIMPLE, insecureSkipVerify: true, caCertificates: c}",
            "spec.trafficPolicy.tls.caCertificates: contradicts insecureSkipVerify",
        ),
    ];
    for (policy, expected) in table {
        check(NETWORKING, "DestinationRule", &[(&format!("{{host: a, trafficPolicy: {{{policy}}}}}"), expected)]);
    }
}

#[test]
fn sidecar() {
    check(
        NETWORKING,
        "Sidecar",
        &[
            ("{}", "spec: must set at least one field"),
            ("{workloadSelector: {labels: {app: a}}, egress: [{hosts: ['./*']}]}", ""),
            (
                "{workloadSelector: {matchLabels: {app: a}}, egress: [{hosts: ['./a.prod.svc.cluster.local', 'istio-system/*']}]}",
                "",
            ),
            (
                "{workloadSelector: {labels: {a: b}, matchLabels: {a: b}}, egress: [{hosts: ['./*']}]}",
                "spec.workloadSelector: has labels and matchLabels",
            ),
            ("{workloadSelector: {}, egress: [{hosts: ['./*']}]}", "warning spec.workloadSelector: has no labels"),
            (
                "{workloadSelector: {labels: {a: '*'}}, egress: [{hosts: ['./*']}]}",
                "spec.workloadSelector.labels.a: labels are compared exactly",
            ),
            ("{egress: [{hosts: ['~/*']}]}", ""),
            ("{egress: [{hosts: ['*/*', '~a/*.b']}]}", ""),
            ("{egress: [{hosts: ['*/*', './a']}]}", "warning spec.egress[0].hosts[0]: \"*/*\" covers"),
            ("{egress: [{hosts: ['./a', './a']}]}", "warning spec.egress[0].hosts[1]: \"./a\" is listed twice"),
            ("{egress: [{hosts: []}]}", "spec.egress[0].hosts: must not be empty"),
            ("{egress: [{hosts: [a]}]}", "spec.egress[0].hosts[0]: \"a\" must be NAMESPACE/HOST"),
            ("{egress: [{hosts: ['a/b/c']}]}", "spec.egress[0].hosts[0]: \"b/c\" is not a host name"),
            ("{egress: [{hosts: ['A/b']}]}", "spec.egress[0].hosts[0]: \"A/b\" must be NAMESPACE/HOST"),
            ("{egress: [{hosts: ['./a']}, {hosts: ['./b']}]}", "spec.egress[1]: is a second listener without a port"),
            (
                "{egress: [{hosts: ['./a']}, {port: {number: 80, protocol: HTTP}, hosts: ['./b']}]}",
                "spec.egress[0]: has no port and so must be the last",
            ),
            ("{egress: [{port: {number: 80, protocol: HTTP}, hosts: ['./b']}]}", ""),
            ("{egress: [{port: {number: 80, protocol: HTTP}, bind: 127.0.0.1, captureMode: NONE, hosts: ['./b']}]}", ""),
            (
                "{egress: [{port: {protocol: HTTP}, bind: 'unix:///a', hosts: ['./b']}]}",
                "spec.egress[0].bind: Unix sockets are not supported",
            ),
            ("{egress: [{port: {number: 80, protocol: HTTP_PROXY}, hosts: ['./b']}]}", ""),
            (
                "{egress: [{port: {number: 80, protocol: HTTP}, hosts: ['./b']}, {port: {number: 80, protocol: HTTP}, hosts: ['./b']}]}",
                "spec.egress[1].port: is used by an earlier",
            ),
            (
                "{egress: [{bind: 'unix:///a', captureMode: NONE, port: {protocol: HTTP}, hosts: ['./b']}]}",
                "spec.egress[0].captureMode: has no meaning for a Unix",
            ),
            ("{outboundTrafficPolicy: {}}", ""),
            ("{outboundTrafficPolicy: {mode: ALLOW_ANY}}", ""),
            (
                "{outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}}",
                "spec.outboundTrafficPolicy.mode: ALLOW_ANY_DYNAMIC_DNS is for MeshConfig",
            ),
            (
                "{outboundTrafficPolicy: {egressProxy: {host: a}}}",
                "spec.outboundTrafficPolicy.egressProxy: needs mode: ALLOW_ANY",
            ),
            (
                "{ingress: [{port: {number: 80, protocol: HTTP}, defaultEndpoint: '127.0.0.1:8080', connectionPool: {tcp: {maxConnections: 1}}}]}",
                "",
            ),
            (
                "{ingress: [{port: {number: 80, protocol: HTTP}, defaultEndpoint: 'unix:///a'}]}",
                "spec.ingress[0].defaultEndpoint: Unix sockets are not supported",
            ),
            (
                "{ingress: [{port: {number: 80, protocol: HTTP}, captureMode: NONE}]}",
                "spec.ingress[0].defaultEndpoint: must be 127.0.0.1:PORT or [::1]:PORT with captureMode: NONE",
            ),
            (
                "{ingress: [{port: {number: 80, protocol: HTTP}, defaultEndpoint: '10.0.0.1:80'}]}",
                "spec.ingress[0].defaultEndpoint: must be",
            ),
            ("{ingress: [{}]}", "spec.ingress[0].port: is required"),
            ("{inboundConnectionPool: {tcp: {maxConnections: 1}}}", ""),
        ],
    );
}

#[test]
fn peer_authentication() {
    check(
        SECURITY,
        "PeerAuthentication",
        &[
            ("{}", ""),
            ("{mtls: {mode: STRICT}}", ""),
            ("{selector: {matchLabels: {app: a}}, mtls: {}, portLevelMtls: {8080: {mode: DISABLE}, '9090': {}}}", ""),
            ("{portLevelMtls: {8080: {mode: DISABLE}}}", "spec.portLevelMtls: needs a selector"),
            ("{selector: {matchLabels: {app: a}}, portLevelMtls: {}}", "spec.portLevelMtls: must not be empty"),
            ("{selector: {matchLabels: {app: a}}, portLevelMtls: {0: {}}}", "spec.portLevelMtls.0: is 0, must be a port"),
            (
                "{selector: {matchLabels: {app: a}}, portLevelMtls: {http: {}}}",
                "spec.portLevelMtls.http: the key \"http\" must be a whole number",
            ),
            ("{selector: {matchLabels: {'*': a}}}", "spec.selector.matchLabels[*]: labels are compared exactly"),
            ("{selector: {matchLabels: {app: '*'}}}", "spec.selector.matchLabels.app: labels are compared exactly"),
            ("{selector: {matchLabels: {'': a}}}", "spec.selector.matchLabels[]: a label's key must not be empty"),
            ("{selector: {}}", "warning spec.selector: has no labels"),
            ("{selector: {labels: {a: b}}}", "spec.selector.labels: unknown field; did you mean \"matchLabels\"?"),
        ],
    );
}

#[test]
fn authorization_policy() {
    let rule = |rule: &str| format!("{{rules: [{{{rule}}}]}}");
    let table = [
        ("{}".to_owned(), ""),
        ("{rules: [{}]}".to_owned(), ""),
        ("{action: AUDIT, rules: [{}]}".to_owned(), ""),
        ("{action: DENY}".to_owned(), "spec.rules: is required with DENY and CUSTOM"),
        ("{action: CUSTOM, provider: {name: a}}".to_owned(), "spec.rules: is required with DENY and CUSTOM"),
        ("{action: CUSTOM, rules: [{}]}".to_owned(), "spec.provider: is required with CUSTOM"),
        ("{action: CUSTOM, provider: {name: a}, rules: [{}]}".to_owned(), "spec.action: CUSTOM is not supported"),
        (
            "{action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {principals: [a]}}]}]}".to_owned(),
            "spec.rules[0].from[0].source.principals: cannot be",
        ),
        (
            "{action: CUSTOM, provider: {name: a}, rules: [{when: [{key: source.namespace, values: [a]}]}]}".to_owned(),
            "spec.rules[0].when[0].key: cannot be used",
        ),
        ("{provider: {name: a}}".to_owned(), "spec.provider: is allowed with CUSTOM only"),
        (
            "{selector: {matchLabels: {a: b}}, targetRef: {kind: Service, name: a}}".to_owned(),
            "spec: only one of selector, targetRef",
        ),
        ("{targetRefs: [{kind: Service, name: a}]}".to_owned(), "spec.targetRefs: is not supported"),
        ("{targetRefs: [{kind: Pod, name: a}]}".to_owned(), "spec.targetRefs[0].kind: must be Service"),
        ("{targetRefs: [{kind: Service, name: a, namespace: b}]}".to_owned(), "spec.targetRefs[0].namespace: must be empty"),
        (rule("from: []"), "spec.rules[0].from: must not be empty"),
        (rule("to: []"), "spec.rules[0].to: must not be empty"),
        (rule("from: [{}]"), "spec.rules[0].from[0].source: is required"),
        (rule("to: [{}]"), "spec.rules[0].to[0].operation: is required"),
        (rule("from: [{source: {}}]"), "spec.rules[0].from[0].source: must set at least one field"),
        (rule("to: [{operation: {}}]"), "spec.rules[0].to[0].operation: must set at least one field"),
        (
            rule("from: [{source: {principals: ['*'], notNamespaces: [a], ipBlocks: [10.0.0.0/8, '::1'], trustDomains: ['*']}}]"),
            "",
        ),
        (rule("from: [{source: {namespaces: ['']}}]"), "spec.rules[0].from[0].source.namespaces[0]: must not be empty"),
        (
            rule("from: [{source: {principals: ['spiffe://a/ns/b/sa/c']}}]"),
            "spec.rules[0].from[0].source.principals[0]: must be written without spiffe://",
        ),
        (
            rule("from: [{source: {ipBlocks: [10.0.0.0/33]}}]"),
            "spec.rules[0].from[0].source.ipBlocks[0]: \"10.0.0.0/33\" must be an IP",
        ),
        (rule("from: [{source: {remoteIpBlocks: [x]}}]"), "spec.rules[0].from[0].source.remoteIpBlocks[0]: \"x\" must be an IP"),
        (rule("from: [{source: {serviceAccounts: [a, b/c]}}]"), ""),
        (
            rule("from: [{source: {serviceAccounts: ['*']}}]"),
            "spec.rules[0].from[0].source.serviceAccounts[0]: \"*\" must be ACCOUNT",
        ),
        (
            rule("from: [{source: {serviceAccounts: [a], namespaces: [b]}}]"),
            "spec.rules[0].from[0].source: serviceAccounts cannot be combined",
        ),
        (
            rule("from: [{source: {trustDomains: [a/b]}}]"),
            "spec.rules[0].from[0].source.trustDomains[0]: \"a/b\" must be a trust domain",
        ),
        (
            rule("from: [{source: {requestPrincipals: ['*']}}]"),
            "spec.rules[0].from[0].source.requestPrincipals: is not supported",
        ),
        (rule("to: [{operation: {hosts: ['*.a'], methods: [GET], paths: ['/a/{*}/b'], ports: ['80']}}]"), ""),
        (rule("to: [{operation: {ports: [80]}}]"), "spec.rules[0].to[0].operation.ports[0]: is the number 80, must be a string"),
        (rule("to: [{operation: {ports: ['0']}}]"), "spec.rules[0].to[0].operation.ports[0]: is 0, must be a port"),
        (rule("to: [{operation: {paths: ['/{**}/{*}']}}]"), "spec.rules[0].to[0].operation.paths[0]: {**} must be the last"),
        (
            rule("to: [{operation: {notPaths: ['/a{b}']}}]"),
            "spec.rules[0].to[0].operation.notPaths[0]: \"/a{b}\": braces may only",
        ),
        (rule("when: [{key: 'request.headers[x-a]', values: [b]}, {key: connection.sni, notValues: [c]}]"), ""),
        (rule("when: [{values: [b]}]"), "spec.rules[0].when[0].key: is required"),
        (rule("when: [{key: source.ip}]"), "spec.rules[0].when[0]: must set values or notValues"),
        (rule("when: [{key: source.ip, values: [x]}]"), "spec.rules[0].when[0].values[0]: \"x\" must be an IP"),
        (rule("when: [{key: destination.port, values: ['x']}]"), "spec.rules[0].when[0].values[0]: \"x\" must be a port"),
        (
            rule("when: [{key: destination.labels, values: [x]}]"),
            "spec.rules[0].when[0].key: \"destination.labels\" is no longer part",
        ),
        (rule("when: [{key: nonsense, values: [x]}]"), "spec.rules[0].when[0].key: \"nonsense\" is not an attribute"),
        (
            rule("when: [{key: 'request.auth.claims[iss]', values: [x]}]"),
            "spec.rules[0].when[0].key: request.auth.claims[iss] is not supported",
        ),
        (
            "{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}".to_owned(),
            "warning spec.rules[0]: has only attributes of HTTP",
        ),
        ("{action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ['80']}}]}]}".to_owned(), ""),
    ];
    let table: Vec<(&str, &str)> = table.iter().map(|(spec, expected)| (spec.as_str(), *expected)).collect();
    check(SECURITY, "AuthorizationPolicy", &table);
    let many = format!("{{targetRefs: [{}]}}", vec!["{kind: Service, name: a}"; 17].join(", "));
    check(SECURITY, "AuthorizationPolicy", &[(&many, "spec.targetRefs: has 17 entries; 16 are allowed")]);
    let accounts = format!("{{rules: [{{from: [{{source: {{serviceAccounts: [{}]}}}}]}}]}}", vec!["a"; 17].join(", "));
    check(SECURITY, "AuthorizationPolicy", &[(&accounts, "spec.rules[0].from[0].source.serviceAccounts: has 17 values")]);
}

#[test]
fn annotations_of_istio() {
    let annotated = |kind: &str, version: &str, annotation: &str, spec: &str| {
        findings_of(&format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a, annotations: {{{annotation}}}}}\nspec: {spec}\n"
        ))
    };
    let found = annotated("PeerAuthentication", SECURITY, "istio.io/dry-run: 'true'", "{}");
    assert_eq!(found, ["metadata.annotations[istio.io/dry-run]: is for AuthorizationPolicy only"]);
    let found = annotated("AuthorizationPolicy", SECURITY, "istio.io/dry-run: 'true'", "{}");
    assert_eq!(found, [format!("metadata.annotations[istio.io/dry-run]: {LATER}")]);
    let found = annotated("AuthorizationPolicy", SECURITY, "istio.io/dry-run: 'false'", "{}");
    assert!(found.is_empty(), "{found:?}");
    let found = annotated("AuthorizationPolicy", SECURITY, "istio.io/dry-run: 'maybe'", "{}");
    assert_eq!(found, ["metadata.annotations[istio.io/dry-run]: is \"maybe\", must be \"true\" or \"false\""]);
    let found = annotated("AuthorizationPolicy", SECURITY, "istio.io/dry-run: 'false'", "{action: AUDIT, rules: [{}]}");
    assert_eq!(found, ["metadata.annotations[istio.io/dry-run]: works with ALLOW and DENY only"]);
    let found = annotated("DestinationRule", NETWORKING, "internal.istio.io/parents: x", "{host: a}");
    assert_eq!(found, ["metadata.annotations[internal.istio.io/parents]: is reserved for the control plane"]);
}
