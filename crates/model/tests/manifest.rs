//! Reading manifests: independent documents, positions, messages, bounds.

use lateen_model::manifest::{self, Document, Rejection};
use lateen_model::resource::{Kind, Resource};
use proptest::prelude::*;

fn read(text: &str) -> Vec<Result<Document, Rejection>> {
    manifest::read(text, "dir/file.yaml")
}

/// The only document of a text, which is valid.
fn good(text: &str) -> Document {
    let mut documents = read(text);
    assert_eq!(documents.len(), 1, "{documents:?}");
    documents.remove(0).unwrap_or_else(|rejection| panic!("{rejection}"))
}

/// The message about the only document of a text, which is refused.
fn message(text: &str) -> String {
    let documents = read(text);
    match documents.as_slice() {
        [Err(rejection)] => rejection.to_string(),
        other => panic!("{other:?}"),
    }
}

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: prod\n";

#[test]
fn documents_are_independent() {
    let text =
        format!("{NAMESPACE}---\na: [b\nc: }}\n---\n{NAMESPACE}---\napiVersion: v1\nkind: Namespace\nmetadata: {{nam: x}}\n");
    let documents = read(&text);
    let ok: Vec<bool> = documents.iter().map(Result::is_ok).collect();
    assert_eq!(ok, [true, false, true, false]);
    let third = documents[2].as_ref().expect("a valid document");
    assert_eq!(third.resource.origin().to_string(), "dir/file.yaml:9:1");
    let fourth = documents[3].as_ref().expect_err("a misspelled field");
    assert_eq!(fourth.to_string(), "dir/file.yaml:16:12: metadata.nam: unknown field; did you mean \"name\"?");
}

#[test]
fn a_marker_inside_a_block_scalar_is_text() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  script: |\n    ---\n    apiVersion: x\n";
    let Resource::ConfigMap(config_map) = good(text).resource else { panic!("another kind") };
    assert_eq!(config_map.get("script"), Some(&b"---\napiVersion: x\n"[..]));
}

#[test]
fn messages_name_place_field_and_what_is_allowed() {
    let virtual_service = |spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: web, namespace: prod}}\nspec:\n{spec}"
        )
    };
    let cases = [
        (
            virtual_service("  hosts: [web]\n  http:\n  - route:\n    - destination: {host: web}\n      wieght: 3\n"),
            "dir/file.yaml:9:7: VirtualService prod/web: spec.http[0].route[0].wieght: unknown field; did you mean \"weight\"?",
        ),
        (
            virtual_service("  hosts: [web]\n  http:\n  - redirect: {redirectCode: 1}\n    zzz: 1\n"),
            "dir/file.yaml:8:5: VirtualService prod/web: spec.http[0].zzz: unknown field; known here: name, match, route, redirect, \
             directResponse, delegate, rewrite, timeout, retries, fault, mirror, mirrors, mirrorPercent, mirrorPercentage, corsPolicy, headers",
        ),
        (
            virtual_service("  hosts: [web]\n  http:\n  - timeout: 3 seconds\n"),
            "dir/file.yaml:7:14: VirtualService prod/web: spec.http[0].timeout: \"3 seconds\" is not a duration: \
             write a number and a unit (ms, s, m, h), such as \"1.5s\"",
        ),
        (
            virtual_service("  hosts: [web]\n  http:\n  - match:\n    - uri: {exact: /a, prefix: /b}\n"),
            "dir/file.yaml:8:12: VirtualService prod/web: spec.http[0].match[0].uri: only one of exact, prefix and regex may be set",
        ),
        (
            virtual_service("  hosts: web\n"),
            "dir/file.yaml:5:10: VirtualService prod/web: spec.hosts: is the string \"web\", must be a list",
        ),
        (
            virtual_service("  hosts: [web]\n  http:\n  - route: [{destination: {host: web, port: {number: 70000}}}]\n"),
            "dir/file.yaml:7:46: VirtualService prod/web: spec.http[0].route[0].destination.port.number: is 70000, must be a port from 1 to 65535",
        ),
        (
            virtual_service("  hosts: [web]\n  http:\n  - route: [{destination: {host: web, port: {number: -1}}}]\n"),
            "dir/file.yaml:7:54: VirtualService prod/web: spec.http[0].route[0].destination.port.number: is the number -1, \
             must be a whole number from 0 to 4294967295",
        ),
        (
            virtual_service("  hosts: [web]\n  http:\n  - name: x\n"),
            "dir/file.yaml:7:5: VirtualService prod/web: spec.http[0]: must have one of route, redirect, directResponse and delegate",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: prod\n  labels:\n    version: 1.10\n".to_owned(),
            "dir/file.yaml:6:14: Namespace prod: metadata.labels.version: is the number 1.10, must be a string: write it in quotes, \"1.10\"",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: prod\n  labels:\n    enabled: on\n".to_owned(),
            "dir/file.yaml:6:14: Namespace prod: metadata.labels.enabled: is the boolean on, must be a string: write it in quotes, \"on\"",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: prod\n  name: test\n".to_owned(),
            "dir/file.yaml:5:3: Namespace prod: the key \"name\" is written twice in one mapping",
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec: {mtls: {mode: strict}}\n"
                .to_owned(),
            "dir/file.yaml:4:21: PeerAuthentication default/a: spec.mtls.mode: is \"strict\", \
             must be one of UNSET, DISABLE, PERMISSIVE or STRICT; did you mean STRICT?",
        ),
        (
            "apiVersion: v1\nkind: Namespce\nmetadata: {name: a}\n".to_owned(),
            "dir/file.yaml:2:1: kind: \"Namespce\" of \"v1\" is not a known kind; did you mean Namespace?",
        ),
        (
            "apiVersion: v2\nkind: Namespace\nmetadata: {name: a}\n".to_owned(),
            "dir/file.yaml:1:1: apiVersion: \"v2\" does not have the kind Namespace; it is in v1",
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: UDPRoute\nmetadata: {name: a}\n".to_owned(),
            "dir/file.yaml:2:1: kind: UDPRoute of gateway.networking.k8s.io/v1 is not supported by this version of Lateen",
        ),
        ("kind: Namespace\n".to_owned(), "dir/file.yaml:1:1: apiVersion: is required"),
        ("- a\n- b\n".to_owned(), "dir/file.yaml:1:1: must be a mapping with apiVersion, kind and metadata"),
    ];
    for (text, expected) in cases {
        assert_eq!(message(&text), expected, "{text}");
    }
}

#[test]
fn all_unknown_fields_are_reported_at_once() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, lables: {}}\nspec:\n  port: []\n  selecter: {}\n";
    let documents = read(text);
    let [Err(rejection)] = documents.as_slice() else { panic!("{documents:?}") };
    let paths: Vec<String> = rejection.problems.iter().map(|problem| problem.path.to_string()).collect();
    assert_eq!(paths, ["metadata.lables", "spec.port", "spec.selecter"]);
}

#[test]
fn a_flood_of_problems_is_cut() {
    let fields: String = (0..1000).map(|n| format!("  unknown{n}: 1\n")).collect();
    let documents = read(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n{fields}"));
    let [Err(rejection)] = documents.as_slice() else { panic!("one document") };
    assert_eq!(rejection.problems.len(), 51);
    assert_eq!(rejection.problems[50].to_string(), "dir/file.yaml:55:3: and 950 more problems from here on");
}

#[test]
fn a_refused_document_still_says_which_object_it_is() {
    let key = |text: &str| match read(text).remove(0) {
        Err(rejection) => rejection.key.map(|key| key.to_string()),
        Ok(document) => panic!("{document:?}"),
    };
    let metadata = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: prod}\n";
    assert_eq!(key(&format!("{metadata}spec: {{prots: 1}}\n")).as_deref(), Some("Service prod/web"));
    assert_eq!(key(&format!("{metadata}spec:\n  ports: [\n")).as_deref(), Some("Service prod/web"), "after a syntax error");
    let unqualified = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n";
    assert_eq!(key(&format!("{unqualified}spec: [\n")).as_deref(), Some("Service default/web"));
    assert_eq!(key(&format!("{unqualified}  labels: [\n")), None, "a namespace may have followed");
    assert_eq!(key("apiVersion: v1\nkind: Service\nspec: 1\n"), None);
}

#[test]
fn lists_are_flattened() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n\
                - apiVersion: v1\n  kind: Namespace\n  metadata: {name: B}\n- apiVersion: v1\n  kind: List\n";
    let documents = read(text);
    assert_eq!(documents.len(), 3);
    assert_eq!(documents[0].as_ref().expect("valid").resource.origin().line, 4);
    let messages: Vec<String> =
        documents.iter().filter_map(|document| document.as_ref().err()).map(Rejection::to_string).collect();
    assert!(
        messages[0].starts_with("dir/file.yaml:9:14: Namespace B: items[1].metadata.name: \"B\" must be a DNS label"),
        "{messages:?}"
    );
    assert!(messages[1].contains("items[2]: a List must not hold a List"), "{messages:?}");
    assert!(message("apiVersion: v1\nkind: List\n").contains("items: must be a list of objects"));
}

#[test]
fn the_namespace_defaults_and_keys_identify() {
    let document = good("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n");
    assert_eq!(document.resource.key().to_string(), "ServiceAccount default/a");
    assert_eq!(good(NAMESPACE).resource.key().to_string(), "Namespace prod");
    assert!(
        message("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}\n").contains("does not live in a namespace")
    );
}

#[test]
fn every_served_version_is_read() {
    let specs = [
        (Kind::VirtualService, "{hosts: [a], http: [{route: [{destination: {host: a}}]}]}"),
        (Kind::DestinationRule, "{host: a}"),
        (Kind::Sidecar, "{egress: [{hosts: ['./*']}]}"),
        (Kind::PeerAuthentication, "{}"),
        (Kind::AuthorizationPolicy, "{}"),
    ];
    for (kind, spec) in specs {
        assert!(kind.api_versions().len() >= 2);
        for version in kind.api_versions() {
            let document = good(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n"));
            assert_eq!(document.resource.kind(), kind);
        }
    }
}

#[test]
fn empty_fields_count_as_absent_with_a_warning() {
    let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: a\n  creationTimestamp: null\n\
                spec:\n  rules:\n  - from:\n    to: [{operation: {methods: [GET]}}]\nstatus: {}\n";
    let warnings: Vec<String> = good(text).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["dir/file.yaml:8:5: spec.rules[0].from: is empty and counts as absent"]);
    // In maps and lists an empty entry could widen what is matched.
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n";
    assert!(message(&format!("{policy}spec:\n  rules:\n  -\n")).contains("spec.rules[0]: is empty, must be a mapping"));
    assert!(
        message(&format!("{policy}spec: {{selector: {{matchLabels: {{app: }}}}}}\n"))
            .contains("matchLabels.app: is empty, must be a string")
    );
}

#[test]
fn anchors_aliases_and_merge_keys() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  annotations: &common {x: '1', y: '2'}\n  labels:\n    <<: *common\n    y: '3'\n";
    let labels = good(text).resource.metadata().labels.clone();
    assert_eq!(labels.into_iter().collect::<Vec<_>>(), [("x".to_owned(), "1".to_owned()), ("y".to_owned(), "3".to_owned())]);
    assert!(message("apiVersion: v1\nkind: Namespace\nmetadata: &m {name: a, labels: *m}\n").contains("may not stand inside"));
    assert!(message("a: *unknown\n").contains("not YAML"));
}

#[test]
fn expansion_bombs_depth_and_size_are_bounded() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert!(message(&bomb).contains("has more than 500000 values"));
    for depth in [100, 5000, 100_000] {
        let nested = message(&format!("a: {}{}", "[".repeat(depth), "]".repeat(depth)));
        assert!(nested.contains("nested deeper than 64") || nested.contains("recursion limit"), "{nested}");
    }
    let block: String = (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(message(&block).contains("nested deeper than 64"));
    let mut chain = "a0: &a0 {k: v}\n".to_owned();
    for level in 1..100 {
        chain.push_str(&format!("a{level}: &a{level} {{k: *a{}}}\n", level - 1));
    }
    assert!(message(&chain).contains("nested deeper than 64"));
    let large = format!("a: '{}'\n", "x".repeat(manifest::MAX_DOCUMENT_BYTES));
    assert!(message(&large).contains("bytes; 3145728 are allowed"));
}

#[test]
fn a_thousand_routes_are_read() {
    let mut text =
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n  http:\n"
            .to_owned();
    for route in 0..1000 {
        text.push_str(&format!("  - match: [{{uri: {{prefix: /r{route}/}}, headers: {{x-a: {{regex: 'v{route}.*'}}}}}}]\n"));
        text.push_str(&format!("    route: [{{destination: {{host: s{route}}}}}]\n"));
    }
    let document = good(&text);
    assert!(document.warnings.is_empty(), "{:?}", document.warnings.first());
    let Resource::VirtualService(virtual_service) = document.resource else { panic!("another kind") };
    assert_eq!(virtual_service.spec.http.len(), 1000);
}

#[test]
fn content_is_compared_without_its_place() {
    let first = good(NAMESPACE).resource;
    let moved = good(&format!("# a comment\n{NAMESPACE}")).resource;
    assert_ne!(first.origin(), moved.origin());
    assert!(first.same_content(&moved));
    assert!(!first.same_content(&good(&format!("{NAMESPACE}  labels: {{a: b}}\n")).resource));
}

#[test]
fn a_bad_mesh_configuration_is_refused_inside_its_config_map() {
    let config_map = |name: &str, mesh: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: istio-system}}\ndata:\n  mesh: |-\n    # settings\n{mesh}"
        )
    };
    good(&config_map("istio", "    trustDomain: example.org\n"));
    assert_eq!(
        message(&config_map("istio", "    trustDomain: example.org\n    acessLogFile: /dev/stdout\n")),
        "dir/file.yaml:8:5: ConfigMap istio-system/istio: data.mesh.acessLogFile: unknown field; did you mean \"accessLogFile\"?"
    );
    good(&config_map("other", "    anything: 1\n"));
}

fn fragment() -> impl Strategy<Value = String> {
    let pieces = vec![
        "apiVersion: v1\n",
        "kind: Service\n",
        "metadata:\n",
        "  name: a\n",
        "---\n",
        "...\n",
        "- ",
        "  ",
        "\n",
        "{",
        "}",
        "[",
        "]",
        ": ",
        ", ",
        "&a ",
        "*a",
        "|\n",
        ">-\n",
        "'",
        "\"",
        "<<: ",
        "!!str ",
        "!x ",
        "#",
        "? ",
        "\t",
        "spec:\n",
        "ä",
        "\u{feff}",
        "\\x",
        "%YAML 1.2\n",
        "~",
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics_and_never_hides(text in any::<String>()) {
        for rejection in read(&text).into_iter().filter_map(Result::err) {
            prop_assert!(!rejection.problems.is_empty());
        }
    }

    #[test]
    fn arbitrary_yaml_like_text_never_panics(text in fragment()) {
        for rejection in read(&text).into_iter().filter_map(Result::err) {
            prop_assert!(!rejection.problems.is_empty());
            let lines = u32::try_from(text.lines().count()).expect("a short text");
            for problem in &rejection.problems {
                prop_assert!(problem.origin.line >= 1 && problem.origin.line <= lines + 1, "{}", problem);
            }
        }
    }

    #[test]
    fn a_valid_document_survives_any_neighbour(before in fragment(), after in fragment()) {
        // A marker ends whatever came before, except for an open comment or directive line, which the line break ends.
        let text = format!("{before}\n---\n{NAMESPACE}---\n{after}");
        let found = read(&text).into_iter().flatten().any(|document| document.resource.key().to_string() == "Namespace prod");
        prop_assert!(found);
    }
}
