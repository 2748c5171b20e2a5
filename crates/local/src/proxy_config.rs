//! The settings of one sidecar: the mesh's `defaultConfig`, over it the ProxyConfigs that are for it, and over them the pod's
//! annotation `proxy.istio.io/config`.

use std::time::Duration;

use lateen_model::mesh_config::{CONFIG_MAP_KEY, CONFIG_MAP_NAME, CONFIG_MAP_NAMESPACE, MeshConfig, ProxyConfig};
use lateen_model::resource::{CreationOrder, StringMap, WorkloadProxyConfig};
use serde_json::{Map, Value, json};

use crate::environment::PodFields;
use crate::resources::Resources;

/// The annotation that holds a pod's `ProxyConfig` as YAML.
const ANNOTATION: &str = "proxy.istio.io/config";

/// What is in force for one sidecar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Effective {
    /// The fields that are not at their defaults, for `PROXY_CONFIG`.
    pub(crate) fields: Map<String, Value>,
    /// `proxyMetadata`, which becomes variables of the sidecar.
    pub(crate) metadata: StringMap,
    /// `terminationDrainDuration`.
    pub(crate) drain: Duration,
    /// The mesh's trust domain.
    pub(crate) trust_domain: String,
    /// The mesh's name for telemetry; the trust domain if it has none.
    pub(crate) mesh_id: String,
}

/// Puts the settings together.
///
/// A field of the annotation counts as written when it is not at its default; writing a default there does not take back
/// what the mesh says.
///
/// Of ProxyConfigs those of the root namespace come first, then those of the pod's own, then those of its own with a selector that
/// matches; of each sort the oldest alone.
///
/// # Errors
/// What is wrong with the annotation, with its line. A wrong mesh configuration is the control plane's to refuse; without a
/// good one the defaults hold.
pub(crate) fn effective(resources: &Resources, pod: &PodFields) -> Result<Effective, String> {
    let mesh = resources
        .config_map(CONFIG_MAP_NAMESPACE, CONFIG_MAP_NAME)
        .and_then(|map| map.data.get(CONFIG_MAP_KEY))
        .and_then(|text| MeshConfig::parse(text, CONFIG_MAP_NAME).ok())
        .map(|parsed| parsed.config)
        .unwrap_or_default();
    let mut fields = written(&mesh.default_config);
    for config in proxy_configs(resources, &mesh.root_namespace, pod) {
        let spec = &config.spec;
        lay_over(&mut fields, spec.concurrency.map(|n| ("concurrency".to_owned(), json!(n))));
        let variables = (!spec.environment_variables.is_empty()).then(|| json!(spec.environment_variables));
        lay_over(&mut fields, variables.map(|variables| ("proxyMetadata".to_owned(), variables)));
    }
    if let Some(text) = pod.annotations.get(ANNOTATION) {
        lay_over(&mut fields, written(&parse(text)?));
    }
    let whole: ProxyConfig = serde_json::from_value(Value::Object(fields.clone())).map_err(|e| format!("{ANNOTATION}: {e}"))?;
    let trust_domain = mesh.trust_domain().as_str().to_owned();
    Ok(Effective {
        fields,
        metadata: whole.proxy_metadata,
        drain: whole.termination_drain_duration.get(),
        mesh_id: whole.mesh_id.filter(|id| !id.is_empty()).unwrap_or_else(|| trust_domain.clone()),
        trust_domain,
    })
}

/// Puts fields over others: maps are joined, all else is replaced.
fn lay_over(fields: &mut Map<String, Value>, new: impl IntoIterator<Item = (String, Value)>) {
    for (name, value) in new {
        match (fields.get_mut(&name), value) {
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
            (_, value) => drop(fields.insert(name, value)),
        }
    }
}

/// The ProxyConfigs for a pod, the weakest first.
fn proxy_configs<'r>(resources: &'r Resources, root: &str, pod: &PodFields) -> Vec<&'r WorkloadProxyConfig> {
    let oldest = |wanted: &dyn Fn(&WorkloadProxyConfig) -> bool| {
        resources.proxy_configs().filter(|config| wanted(config)).min_by_key(|config| CreationOrder::of(&config.metadata))
    };
    let of_all = |namespace: &str| oldest(&|c| c.metadata.namespace == namespace && !c.spec.has_selector());
    let own = oldest(&|c| c.metadata.namespace == pod.namespace && c.spec.has_selector() && c.spec.selects(&pod.labels));
    let of_namespace = (pod.namespace != root).then(|| of_all(&pod.namespace)).flatten();
    [of_all(root), of_namespace, own].into_iter().flatten().collect()
}

/// Reads the annotation with the rules of the mesh configuration, of whose `defaultConfig` it has the form.
fn parse(text: &str) -> Result<ProxyConfig, String> {
    let mut nested = "defaultConfig:\n".to_owned();
    for line in text.lines() {
        nested.push_str("  ");
        nested.push_str(line);
        nested.push('\n');
    }
    match MeshConfig::parse(&nested, ANNOTATION) {
        Ok(parsed) => Ok(parsed.config.default_config),
        Err(rejection) => {
            let problems = rejection.problems.iter();
            let texts =
                problems.map(|p| format!("annotation {ANNOTATION}, line {}: {}", p.origin.line.saturating_sub(1), p.text));
            Err(texts.collect::<Vec<_>>().join("\n"))
        }
    }
}

/// The fields that are not at their defaults.
fn written(config: &ProxyConfig) -> Map<String, Value> {
    let object = |c: &ProxyConfig| match serde_json::to_value(c) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let defaults = object(&ProxyConfig::default());
    object(config).into_iter().filter(|(name, value)| defaults.get(name) != Some(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESH: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    trustDomain: example.org
    defaultConfig:
      concurrency: 4
      proxyMetadata: {A: "1", B: "2"}
"#;

    fn pod(annotations: StringMap) -> PodFields {
        PodFields {
            name: "web-0".to_owned(),
            namespace: "shop".to_owned(),
            uid: String::new(),
            labels: StringMap::from([("app".to_owned(), "web".to_owned())]),
            annotations,
            service_account: "default".to_owned(),
            ips: Vec::new(),
            node_name: "local".to_owned(),
            node_ip: [10, 0, 0, 1].into(),
        }
    }

    fn annotated(text: &str) -> Result<Effective, String> {
        effective(&Resources::from_text(MESH), &pod(StringMap::from([(ANNOTATION.to_owned(), text.to_owned())])))
    }

    #[test]
    fn proxy_configs_stand_between_the_mesh_and_the_annotation() {
        let config = |namespace: &str, name: &str, spec: &str| {
            format!(
                "---\napiVersion: networking.istio.io/v1beta1\nkind: ProxyConfig\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
            )
        };
        let effective_of = |configs: &[String], annotation: Option<&str>| {
            let resources = Resources::from_text(&format!("{MESH}{}", configs.concat()));
            let annotations = annotation.map(|text| (ANNOTATION.to_owned(), text.to_owned()));
            let found = effective(&resources, &pod(annotations.into_iter().collect())).unwrap();
            (found.fields["concurrency"].as_u64().unwrap(), found.metadata)
        };
        let variables =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<StringMap>();
        let mut configs = vec![config("istio-system", "mesh", "concurrency: 5, environmentVariables: {B: mesh, C: mesh}")];
        assert_eq!(effective_of(&configs, None), (5, variables(&[("A", "1"), ("B", "mesh"), ("C", "mesh")])));
        configs.push(config("shop", "own", "environmentVariables: {C: own}"));
        configs.push(config("other", "elsewhere", "concurrency: 9"));
        configs.push(config("shop", "younger", "concurrency: 9"));
        assert_eq!(effective_of(&configs, None), (5, variables(&[("A", "1"), ("B", "mesh"), ("C", "own")])));
        configs.push(config("shop", "others", "selector: {matchLabels: {app: db}}, concurrency: 9"));
        configs.push(config(
            "shop",
            "workload",
            "selector: {matchLabels: {app: web}}, concurrency: 6, environmentVariables: {D: web}",
        ));
        let all = variables(&[("A", "1"), ("B", "mesh"), ("C", "own"), ("D", "web")]);
        assert_eq!(effective_of(&configs, None), (6, all.clone()));
        assert_eq!(effective_of(&configs, Some("concurrency: 7")), (7, all));
    }

    #[test]
    fn the_annotation_stands_over_the_mesh() {
        let mesh = effective(&Resources::from_text(MESH), &pod(StringMap::new())).unwrap();
        assert_eq!((mesh.fields["concurrency"].as_u64(), mesh.drain), (Some(4), Duration::from_secs(5)));
        assert_eq!((mesh.trust_domain.as_str(), mesh.mesh_id.as_str()), ("example.org", "example.org"));
        let own = annotated("concurrency: 1\nterminationDrainDuration: 9s\nproxyMetadata: {B: \"3\"}").unwrap();
        assert_eq!((own.fields["concurrency"].as_u64(), own.drain), (Some(1), Duration::from_secs(9)));
        assert_eq!(own.metadata, StringMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "3".to_owned())]));
        assert_eq!(annotated("{concurrency: 3}").unwrap().fields["concurrency"].as_u64(), Some(3));
    }

    #[test]
    fn a_wrong_annotation_is_refused_with_its_line() {
        let error = annotated("concurrency: 1\nconcurency: 2").unwrap_err();
        assert!(error.contains("line 2"), "{error}");
    }
}
