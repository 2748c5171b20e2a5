use super::*;
use crate::generate::fixture;
use lateen_model::dataplane::{HeaderPredicate, StringMatch, StringPredicate};

fn string(m: &StringMatch) -> String {
    let text = match &m.predicate {
        StringPredicate::Exact(t) => format!("={t}"),
        StringPredicate::Prefix(t) => format!("{t}*"),
        StringPredicate::Suffix(t) => format!("*{t}"),
        StringPredicate::Contains(t) => format!("*{t}*"),
        StringPredicate::Regex(r) => format!("/{}/", r.pattern()),
    };
    if m.ignore_case { format!("{text}~i") } else { text }
}

fn header(h: &lateen_model::dataplane::HeaderMatch) -> String {
    match &h.predicate {
        HeaderPredicate::Present(yes) => format!("{} present={yes}", h.name),
        HeaderPredicate::Value(m) => format!("{}{}", h.name, string(m)),
    }
}

fn permission(p: &Permission) -> String {
    let list = |l: &[Permission], sep| l.iter().map(permission).collect::<Vec<_>>().join(sep);
    match p {
        Permission::Any => "any".into(),
        Permission::And(l) => format!("({})", list(l, " & ")),
        Permission::Or(l) => format!("({})", list(l, " | ")),
        Permission::Not(p) => format!("!{}", permission(p)),
        Permission::Header(h) => header(h),
        Permission::Path(m) => format!("path{}", string(m)),
        Permission::PathTemplate(t) => format!("template {t}"),
        Permission::DestinationIp(net) => format!("dst {net}"),
        Permission::DestinationPort(port) => format!("port {port}"),
        Permission::RequestedServerName(m) => format!("sni{}", string(m)),
    }
}

fn principal(p: &Principal) -> String {
    let list = |l: &[Principal], sep| l.iter().map(principal).collect::<Vec<_>>().join(sep);
    match p {
        Principal::Any => "any".into(),
        Principal::And(l) => format!("({})", list(l, " & ")),
        Principal::Or(l) => format!("({})", list(l, " | ")),
        Principal::Not(p) => format!("!{}", principal(p)),
        Principal::Authenticated(None) => "mtls".into(),
        Principal::Authenticated(Some(m)) => format!("id{}", string(m)),
        Principal::DirectRemoteIp(net) => format!("ip {net}"),
        Principal::RemoteIp(net) => format!("client {net}"),
        Principal::Header(h) => header(h),
        Principal::Path(m) => format!("path{}", string(m)),
    }
}

fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

/// One line for each rule: `ACTION name: permissions <- principals`.
fn lines(manifests: &str, layer: Layer) -> Vec<String> {
    let pods = [fixture::pod("a", "one-0", [10, 0, 0, 1], &[("app", "one")])];
    let world = fixture::world(manifests, &pods);
    let proxy = fixture::proxy(&world, "a", "one-0");
    let mut out = Vec::new();
    for filter in filters(&world, &proxy, layer) {
        out.push(format!("{:?}:", filter.action));
        for p in &filter.policies {
            let what: Vec<_> = p.permissions.iter().map(permission).collect();
            let who: Vec<_> = p.principals.iter().map(principal).collect();
            out.push(format!("{}: {} <- {}", p.name, what.join(" || "), who.join(" || ")));
        }
    }
    out
}

#[test]
fn attributes() {
    for (rule, expected) in [
        ("{}", "any <- any"),
        ("{from: [{source: {principals: ['cluster.local/ns/a/sa/b']}}]}", "any <- id=spiffe://cluster.local/ns/a/sa/b"),
        ("{from: [{source: {principals: ['*']}}]}", "any <- id/.+/"),
        ("{from: [{source: {principals: ['cluster.local/ns/a/*']}}]}", "any <- idspiffe://cluster.local/ns/a/*"),
        ("{from: [{source: {principals: ['*/sa/b.c']}}]}", "any <- id/spiffe://.*/sa/b\\.c/"),
        ("{from: [{source: {namespaces: ['pro*']}}]}", "any <- id/.*/ns/pro.*/.*/"),
        ("{from: [{source: {notNamespaces: ['x', 'w']}}]}", "any <- !(id/.*/ns/x/.*/ | id/.*/ns/w/.*/)"),
        ("{from: [{source: {serviceAccounts: ['b']}}]}", "any <- id/spiffe://.+/ns/a/(.+/|)sa/b(/.+)?/"),
        ("{from: [{source: {serviceAccounts: ['n/b']}}]}", "any <- id/spiffe://.+/ns/n/(.+/|)sa/b(/.+)?/"),
        (
            "{from: [{source: {ipBlocks: ['10.1.0.0/16'], notRemoteIpBlocks: ['1.2.3.4']}}]}",
            "any <- (ip 10.1.0.0/16 & !client 1.2.3.4/32)",
        ),
        ("{to: [{operation: {methods: ['GET', 'P*'], notPaths: ['/x*']}}]}", "((:method=GET | :methodP*) & !path/x*) <- any"),
        ("{to: [{operation: {paths: ['/a/{*}/b/{**}']}}]}", "template /a/{*}/b/{**} <- any"),
        ("{to: [{operation: {paths: ['*/x']}}, {operation: {ports: ['80']}}]}", "path*/x || port 80 <- any"),
        ("{to: [{operation: {hosts: ['*.Foo.com', '*']}}]}", "(:authority*.Foo.com~i | :authority present=true) <- any"),
        (
            "{when: [{key: 'request.headers[X-Team]', values: ['a', 'b*'], notValues: ['bad']}]}",
            "any <- ((x-team=a | x-teamb*) & !x-team=bad)",
        ),
        ("{when: [{key: source.ip, values: ['::1']}, {key: destination.port, notValues: ['22']}]}", "!port 22 <- ip ::1/128"),
        (
            "{when: [{key: connection.sni, values: ['www.x']}, {key: destination.ip, values: ['10.0.0.0/8']}]}",
            "(sni=www.x & dst 10.0.0.0/8) <- any",
        ),
    ] {
        let got = lines(&policy("a", "p", &format!("{{rules: [{rule}]}}")), Layer::Http);
        assert_eq!(got, ["Allow:".to_owned(), format!("ns[a]-policy[p]-rule[0]: {expected}")], "{rule}");
    }
}

#[test]
fn http_attributes_on_tcp_ports() {
    let rules = "rules: [{to: [{operation: {methods: [GET], ports: ['80']}}]}, {from: [{source: {namespaces: [b]}}]}, {when: [{key: 'request.headers[x]', values: [v]}]}]";
    assert_eq!(
        lines(&policy("a", "p", &format!("{{{rules}}}")), Layer::Tcp),
        ["Allow:", "ns[a]-policy[p]-rule[1]: any <- id/.*/ns/b/.*/"],
        "an ALLOW rule that cannot be decided is dropped"
    );
    assert_eq!(
        lines(&policy("a", "p", &format!("{{action: DENY, {rules}}}")), Layer::Tcp),
        [
            "Deny:",
            "ns[a]-policy[p]-rule[0]: port 80 <- any",
            "ns[a]-policy[p]-rule[1]: any <- id/.*/ns/b/.*/",
            "ns[a]-policy[p]-rule[2]: any <- any",
        ],
        "a DENY rule loses only the attribute, and so denies more"
    );
}

#[test]
fn order_scope_and_empty_policies() {
    let manifests = [
        policy("a", "allow-nothing", "{}"),
        policy("a", "deny", "{action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]}"),
        policy("a", "audit", "{action: AUDIT, rules: [{}]}"),
        policy("istio-system", "root", "{action: DENY, rules: [{from: [{source: {ipBlocks: [1.1.1.1]}}]}]}"),
        policy("istio-system", "root-selected", "{selector: {matchLabels: {app: one}}, rules: [{}]}"),
        policy("a", "other-pods", "{selector: {matchLabels: {app: two}}, action: DENY, rules: [{}]}"),
        policy("b", "other-namespace", "{action: DENY, rules: [{}]}"),
    ]
    .concat();
    assert_eq!(
        lines(&manifests, Layer::Http),
        [
            "Log:",
            "ns[a]-policy[audit]-rule[0]: any <- any",
            "Deny:",
            "ns[a]-policy[deny]-rule[0]: :method=PUT <- any",
            "ns[istio-system]-policy[root]-rule[0]: any <- ip 1.1.1.1/32",
            "Allow:",
            "ns[istio-system]-policy[root-selected]-rule[0]: any <- any",
        ]
    );
    assert_eq!(lines(&policy("a", "allow-nothing", "{}"), Layer::Http), ["Allow:"], "an ALLOW policy without rules denies all");
}

#[test]
fn trust_domain_aliases() {
    let mesh = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: '{trustDomain: new, trustDomainAliases: [old]}'}\n---\n";
    let rule = |p: &str| policy("a", "p", &format!("{{rules: [{{from: [{{source: {{principals: ['{p}']}}}}]}}]}}"));
    for (written, expected) in [
        ("old/ns/a/sa/b", "(id=spiffe://new/ns/a/sa/b | id=spiffe://old/ns/a/sa/b)"),
        ("new/ns/a/sa/b", "(id=spiffe://new/ns/a/sa/b | id=spiffe://old/ns/a/sa/b)"),
        ("cluster.local/ns/a/sa/b", "(id=spiffe://new/ns/a/sa/b | id=spiffe://old/ns/a/sa/b)"),
        ("elsewhere/ns/a/sa/b", "id=spiffe://elsewhere/ns/a/sa/b"),
    ] {
        let got = lines(&format!("{mesh}{}", rule(written)), Layer::Tcp);
        assert_eq!(got[1], format!("ns[a]-policy[p]-rule[0]: any <- {expected}"), "{written}");
    }
}
