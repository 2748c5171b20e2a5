use super::*;
use lateen_model::manifest;

fn content(file: &str, text: &str) -> FileContent {
    FileContent { file: file.into(), documents: manifest::read(text, file) }
}

fn virtual_service(name: &str, weight: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: a}}\nspec:\n  hosts: [{name}]\n  http:\n  - route:\n    - destination: {{host: {name}}}\n      weight: {weight}\n"
    )
}

fn summary(events: &[WorldEvent]) -> Vec<String> {
    let text = |e: &WorldEvent| match e {
        WorldEvent::Put(r) => format!("put {}", r.key()),
        WorldEvent::Remove(k) => format!("remove {k}"),
        WorldEvent::Mesh(m) => format!("mesh {}", m.trust_domain),
        other => format!("{other:?}"),
    };
    events.iter().map(text).collect()
}

#[test]
fn a_bad_document_leaves_its_last_good_version_and_the_others_alone() {
    let mut store = Store::new();
    let two = |w: &str| format!("{}---\n{}", virtual_service("x", w), virtual_service("w", "1"));
    let (events, refused) = store.apply(vec![content("f.yaml", &two("1"))]);
    assert_eq!(summary(&events), ["put VirtualService a/w", "put VirtualService a/x"]);
    assert!(refused.is_empty());

    let (events, refused) = store.apply(vec![content("f.yaml", &two("many"))]);
    assert!(events.is_empty(), "{events:?}");
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].in_force, InForce::LastGood);
    assert!(refused[0].rejection.to_string().starts_with("f.yaml:"), "{}", refused[0].rejection);
    assert!(refused[0].rejection.to_string().contains("weight"), "{}", refused[0].rejection);

    let (events, _) = store.apply(vec![content("f.yaml", &two("7"))]);
    assert_eq!(summary(&events), ["put VirtualService a/x"]);
    assert!(store.refusals().is_empty());
}

#[test]
fn a_document_that_cannot_be_told_keeps_what_its_file_held() {
    let mut store = Store::new();
    let _ = store.apply(vec![content("f.yaml", &format!("{}---\n{}", virtual_service("x", "1"), virtual_service("w", "1")))]);
    let (events, refused) = store.apply(vec![content("f.yaml", &format!("{{{{ not yaml\n---\n{}", virtual_service("w", "1")))]);
    assert!(events.is_empty(), "{}", summary(&events).join(", "));
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].in_force, InForce::LastGood);
    let (events, _) = store.apply(vec![content("f.yaml", &virtual_service("w", "1"))]);
    assert_eq!(summary(&events), ["remove VirtualService a/x"]);
}

#[test]
fn an_object_in_two_files_is_refused_in_the_second_and_moves_without_a_gap() {
    let mut store = Store::new();
    let _ = store.apply(vec![content("a.yaml", &virtual_service("x", "1"))]);
    let (events, refused) = store.apply(vec![content("b.yaml", &virtual_service("x", "2"))]);
    assert!(events.is_empty());
    assert!(refused[0].rejection.to_string().contains("a.yaml"), "{}", refused[0].rejection);
    let gone = FileContent { file: "a.yaml".into(), documents: Vec::new() };
    let (events, _) = store.apply(vec![gone]);
    assert_eq!(summary(&events), ["put VirtualService a/x"]);
    assert!(store.refusals().is_empty());
}

#[test]
fn deleting_removes_and_an_equal_edit_is_no_change() {
    let mut store = Store::new();
    let _ = store.apply(vec![content("f.yaml", &virtual_service("x", "1"))]);
    let (events, _) = store.apply(vec![content("f.yaml", &format!("# a comment\n{}", virtual_service("x", "1")))]);
    assert!(events.is_empty());
    let (events, _) = store.apply(vec![content("f.yaml", "")]);
    assert_eq!(summary(&events), ["remove VirtualService a/x"]);
    assert!(store.is_empty());
}

fn bad_policy(kind: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: a}}\nspec: {{nonsense: 1}}\n")
}

#[test]
fn a_policy_that_cannot_be_read_at_start_fails_closed() {
    let mut store = Store::new();
    let text = format!("{}---\n{}", bad_policy("AuthorizationPolicy"), bad_policy("PeerAuthentication"));
    let (events, refused) = store.apply(vec![content("f.yaml", &text)]);
    assert!(refused.iter().all(|r| r.in_force == InForce::Closed), "{refused:?}");
    let [WorldEvent::Put(Resource::PeerAuthentication(pa)), WorldEvent::Put(Resource::AuthorizationPolicy(ap))] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(pa.spec.mode(), MutualTlsMode::Strict);
    assert_eq!((ap.spec.action, ap.spec.rules.len()), (Action::Deny, 1));
    // Still wrong in another way: still closed.
    let (events, refused) = store.apply(vec![content("f.yaml", &text.replace("nonsense: 1", "nonsense: 2"))]);
    assert!(events.is_empty());
    assert!(refused.iter().all(|r| r.in_force == InForce::Closed), "{refused:?}");
    let (events, _) = store.apply(vec![content("f.yaml", "")]);
    assert_eq!(events.len(), 2, "gone with their documents");
}

#[test]
fn a_policy_that_was_never_in_force_is_refused_alone() {
    let mut store = Store::new();
    store.set_started();
    let (events, refused) = store.apply(vec![content("f.yaml", &bad_policy("AuthorizationPolicy"))]);
    assert!(events.is_empty());
    assert_eq!(refused[0].in_force, InForce::Nothing);
}

#[test]
fn mesh_configuration_is_live_and_keeps_its_last_good_version() {
    let mut store = Store::new();
    let map = |mesh: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {mesh}\n"
        )
    };
    let (events, _) = store.apply(vec![content("m.yaml", &map("trustDomain: td1"))]);
    assert!(summary(&events).contains(&"mesh td1".to_owned()));
    let (events, refused) = store.apply(vec![content("m.yaml", &map("trustDomainn: td2"))]);
    assert!(!events.iter().any(|e| matches!(e, WorldEvent::Mesh(_))));
    assert_eq!(refused[0].in_force, InForce::LastGood);
    let (events, _) = store.apply(vec![content("m.yaml", "")]);
    assert!(summary(&events).contains(&"mesh cluster.local".to_owned()), "the default");
    let (_, refused) =
        store.apply(vec![content("m.yaml", &map("defaultConfig: {proxyHeaders: {xForwardedHost: {enabled: true}}}"))]);
    assert!(refused[0].rejection.to_string().contains("xForwardedHost"));
}

#[test]
fn age_is_the_order_of_first_sight_and_survives_an_edit() {
    let mut store = Store::new();
    let (first, _) = store.apply(vec![content("b.yaml", &virtual_service("x", "1"))]);
    let (_, _) = store.apply(vec![content("a.yaml", &virtual_service("w", "1"))]);
    let (again, _) = store.apply(vec![content("b.yaml", &virtual_service("x", "2"))]);
    let sequence = |events: &[WorldEvent]| match &events[0] {
        WorldEvent::Put(r) => r.metadata().provenance.sequence,
        other => panic!("{other:?}"),
    };
    assert_eq!(sequence(&first), sequence(&again));
}

#[test]
fn what_is_in_a_namespace_that_is_not_selected_is_not_there() {
    let mesh = |selectors: &str| {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: 'discoverySelectors: {selectors}'}}\n"
        );
        content("mesh.yaml", &text)
    };
    let namespace = |labels: &str| {
        content("a.yaml", &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: a, labels: {{{labels}}}}}\n"))
    };
    let mut store = Store::new();
    let told = |events: Vec<WorldEvent>| {
        let mut told = summary(&events);
        told.retain(|e| e.contains("VirtualService") || e.contains("Namespace"));
        told
    };
    let apply = |store: &mut Store, contents| told(store.apply(contents).0);
    assert_eq!(apply(&mut store, vec![content("x.yaml", &virtual_service("x", "1"))]), ["put VirtualService a/x"]);
    assert_eq!(apply(&mut store, vec![mesh("[{matchLabels: {team: red}}]")]), ["remove VirtualService a/x"]);
    // Edits of what is not known are not told, and neither is its end.
    assert!(apply(&mut store, vec![content("x.yaml", &virtual_service("x", "2"))]).is_empty());
    assert!(apply(&mut store, vec![content("y.yaml", &virtual_service("y", "1"))]).is_empty());
    assert!(apply(&mut store, vec![content("y.yaml", "")]).is_empty());
    let both = apply(&mut store, vec![namespace("team: red")]);
    assert!(both.contains(&"put VirtualService a/x".to_owned()) && both.len() == 2, "{both:?}");
    assert!(apply(&mut store, vec![namespace("team: blue")]).contains(&"remove VirtualService a/x".to_owned()));
    let by_name = "[{matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [a]}]}]";
    assert_eq!(apply(&mut store, vec![mesh(by_name)]), ["put VirtualService a/x"]);
    // The root namespace is always known.
    assert!(apply(&mut store, vec![mesh("[{matchLabels: {team: red}}]")]).contains(&"remove VirtualService a/x".to_owned()));
    let root = virtual_service("x", "1").replace("namespace: a", "namespace: istio-system");
    assert_eq!(apply(&mut store, vec![content("r.yaml", &root)]), ["put VirtualService istio-system/x"]);
    assert_eq!(apply(&mut store, vec![mesh("[]")]), ["put VirtualService a/x"]);
}
