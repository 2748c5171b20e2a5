//! Resources that are in force, as people ask to see them, with what became of them.

use crate::gateway_api::{self, Transitions};
use crate::store::Store;
use crate::world::World;
use lateen_model::resource::gateway_api::{BUILT_IN_CLASSES, GatewayClass, GatewayClassSpec};
use lateen_model::resource::{Kind, ObjectMeta, Resource, ResourceKey, Timestamp, WorkloadEntry};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// Which resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    kinds: Vec<Kind>,
    namespace: Option<String>,
    name: Option<String>,
}

impl Query {
    /// Of the kinds that a word means; of one namespace and of one name, if these are given.
    ///
    /// # Errors
    /// If the word means none; the text lists those that there are.
    pub fn new(word: &str, namespace: Option<String>, name: Option<String>) -> Result<Self, String> {
        let kinds = Kind::from_word(word);
        if kinds.is_empty() {
            let mut names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            names.sort_unstable();
            names.dedup();
            return Err(format!("{word:?} is no kind that is read; there are {}", names.join(", ")));
        }
        Ok(Self { kinds, namespace, name })
    }

    fn covers(&self, key: &ResourceKey) -> bool {
        self.kinds.contains(&key.kind)
            && (key.namespace.is_empty() || self.namespace.as_ref().is_none_or(|ns| *ns == key.namespace))
            && self.name.as_ref().is_none_or(|name| *name == key.name)
    }
}

/// The present moment, as statuses have it.
pub fn now() -> Timestamp {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default();
    Timestamp::from_unix_seconds(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// The resources that are asked for, as JSON: by kind, namespace and name. What is made for Gateways, and entries of
/// workloads that have registered themselves, are among them.
pub fn show(
    store: &Store,
    world: &World,
    (transitions, registered): (&Transitions, &BTreeMap<(String, String), WorkloadEntry>),
    query: &Query,
) -> Vec<Value> {
    let registered = registered.values().map(|entry| Resource::from(entry.clone()));
    let mut found: BTreeMap<ResourceKey, Resource> = made(world).chain(registered).map(|r| (r.key(), r)).collect();
    found.extend(store.in_force().map(|r| (r.key(), r)));
    found.retain(|key, _| query.covers(key));
    found.iter().filter_map(|(key, resource)| object(key, resource, (world, transitions))).collect()
}

/// What exists without being written: workloads of Gateways, and, where there is anything of the Gateway API, its classes.
fn made(world: &World) -> impl Iterator<Item = Resource> {
    let sources = world.gateway_api();
    let managed = gateway_api::managed(sources).into_iter().flat_map(|gateway| {
        let account = gateway.service_account.map(Resource::from);
        [Some(gateway.deployment.into()), Some(gateway.service.into()), account].into_iter().flatten()
    });
    let classes = BUILT_IN_CLASSES.iter().filter(|_| sources.is_active()).map(|class| {
        let metadata = ObjectMeta { name: class.name.to_owned(), generation: Some(1), ..ObjectMeta::default() };
        let spec = GatewayClassSpec {
            controller_name: class.controller.to_owned(),
            description: Some(class.description.to_owned()),
            parameters_ref: None,
        };
        let (api_version, kind) = (Kind::GatewayClass.api_versions()[0].to_owned(), Kind::GatewayClass.name().to_owned());
        Resource::from(GatewayClass { api_version, kind, metadata, spec, ..GatewayClass::default() })
    });
    managed.chain(classes).collect::<Vec<_>>().into_iter()
}

fn object(key: &ResourceKey, resource: &Resource, (world, transitions): (&World, &Transitions)) -> Option<Value> {
    let mut value = resource.to_json().ok()?;
    if key.kind == Kind::Secret {
        hide(&mut value);
    }
    prune(&mut value);
    if let (Some(status), Value::Object(fields)) = (world.statuses().get(key), &mut value) {
        fields.insert("status".to_owned(), status.to_json(&transitions.of(key)));
    }
    Some(value)
}

/// Secrets are told by their keys alone.
fn hide(value: &mut Value) {
    for field in ["data", "stringData"] {
        let Some(Value::Object(entries)) = value.get_mut(field) else { continue };
        for content in entries.values_mut() {
            let bytes = content.as_str().map_or(0, str::len);
            *content = Value::String(format!("<{bytes} characters, not shown>"));
        }
    }
}

/// Leaves out what is empty, which is what nobody wrote.
fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            let kept = std::mem::take(fields).into_iter().filter(|(_, v)| !is_empty(v));
            *fields = kept.collect::<Map<String, Value>>();
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FileContent;
    use crate::world::Settings;
    use lateen_model::manifest;
    use tokio::time::Instant;

    const OBJECTS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: a}\nspec: {gatewayClassName: istio, listeners: [{name: web, port: 80, protocol: HTTP}]}\n---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: old, namespace: b}\nspec: {selector: {x: z}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: a}\nstringData: {k: hidden}\n";

    struct Bench {
        store: Store,
        world: World,
        transitions: Transitions,
    }

    impl Bench {
        fn apply(&mut self, text: &str) {
            let documents = manifest::read(text, "t.yaml");
            assert!(documents.iter().all(Result::is_ok), "{documents:?}");
            let (events, _) = self.store.apply(vec![FileContent { file: "t.yaml".into(), documents }]);
            self.world = self.world.apply(events, Instant::now()).0;
            self.transitions.update(self.world.statuses(), Timestamp::from_unix_seconds(100));
        }

        fn show(&self, word: &str, namespace: Option<&str>, name: Option<&str>) -> Vec<Value> {
            let query = Query::new(word, namespace.map(str::to_owned), name.map(str::to_owned)).unwrap();
            show(&self.store, &self.world, (&self.transitions, &BTreeMap::new()), &query)
        }
    }

    fn bench() -> Bench {
        let mut bench =
            Bench { store: Store::new(), world: World::new(Settings::default()), transitions: Transitions::default() };
        bench.apply(OBJECTS);
        bench
    }

    fn names(objects: &[Value]) -> Vec<&str> {
        objects.iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn kinds_are_found_by_the_words_that_people_use() {
        let bench = bench();
        for (word, expected) in [
            ("gateway", vec!["old", "gw"]),
            ("gw", vec!["old", "gw"]),
            ("Gateways.gateway.networking.k8s.io", vec!["gw"]),
            ("gateways.networking.istio.io", vec!["old"]),
            ("svc", vec!["gw-istio"]),
            ("deployments", vec!["gw-istio"]),
            ("gatewayclasses", vec!["istio", "istio-remote"]),
            ("httproutes", vec![]),
        ] {
            assert_eq!(names(&bench.show(word, None, None)), expected, "{word}");
        }
        assert_eq!(names(&bench.show("gw", Some("a"), None)), ["gw"]);
        assert_eq!(names(&bench.show("gw", None, Some("old"))), ["old"]);
        let error = Query::new("gatway", None, None).unwrap_err();
        assert!(error.contains("\"gatway\" is no kind") && error.contains("HTTPRoute"), "{error}");
    }

    #[test]
    fn objects_have_their_status_and_nothing_that_is_empty_or_secret() {
        let mut bench = bench();
        let shown = bench.show("gw", Some("a"), None).remove(0);
        assert_eq!(shown["kind"], "Gateway");
        assert_eq!(shown["metadata"], serde_json::json!({"name": "gw", "namespace": "a", "generation": 1}));
        let accepted = &shown["status"]["conditions"][0];
        assert_eq!(accepted["type"], "Accepted");
        assert_eq!((accepted["status"].as_str(), accepted["observedGeneration"].as_i64()), (Some("True"), Some(1)));
        assert_eq!(accepted["lastTransitionTime"], "1970-01-01T00:01:40Z");
        let secret = bench.show("secret", None, None).remove(0).to_string();
        assert!(!secret.contains("hidden") && secret.contains("not shown"), "{secret}");
        // A label is no new generation; another port is.
        bench.apply(&OBJECTS.replace("{name: gw, namespace: a}", "{name: gw, namespace: a, labels: {l: m}}"));
        assert_eq!(bench.show("gw", Some("a"), None)[0]["metadata"]["generation"], 1);
        bench.apply(&OBJECTS.replace("port: 80, protocol", "port: 81, protocol"));
        let shown = bench.show("gw", Some("a"), None).remove(0);
        assert_eq!(shown["metadata"]["generation"], 2);
        assert_eq!(shown["status"]["listeners"][0]["conditions"][0]["observedGeneration"], 2);
    }
}
