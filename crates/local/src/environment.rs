//! What a container's variables are: `env`, `envFrom`, fields of the pod, and `$(NAME)` in commands.

use std::net::IpAddr;

use lateen_model::resource::{Container, EnvVarSource, StringMap};

use crate::resources::Resources;

/// What fields of the pod can be referred to.
#[derive(Debug, Clone)]
pub(crate) struct PodFields {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) labels: StringMap,
    pub(crate) annotations: StringMap,
    pub(crate) service_account: String,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) node_name: String,
    pub(crate) node_ip: IpAddr,
}

/// Why a container cannot have its variables (yet).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvError {
    #[error("{kind} {name} is not there")]
    Missing { kind: &'static str, name: String },
    #[error("{kind} {name} has no key `{key}`")]
    NoKey { kind: &'static str, name: String, key: String },
    #[error("the value of {kind} {name}, key `{key}`, is not text")]
    NotText { kind: &'static str, name: String, key: String },
    #[error("env {0}: the pod has no field `{1}` that can be referred to")]
    Field(String, String),
    #[error("env {0}: this kind of valueFrom is not supported")]
    Unsupported(String),
}

impl PodFields {
    /// The value of `metadata.name` and its like.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let keyed = |prefix: &str, map: &StringMap| {
            let key = path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']")?;
            Some(map.get(key).cloned().unwrap_or_default())
        };
        Some(match path {
            "metadata.name" => self.name.clone(),
            "metadata.namespace" => self.namespace.clone(),
            "metadata.uid" => self.uid.clone(),
            "metadata.labels" => downward(&self.labels),
            "metadata.annotations" => downward(&self.annotations),
            "spec.nodeName" => self.node_name.clone(),
            "spec.serviceAccountName" => self.service_account.clone(),
            "status.podIP" => join(&self.ips[..1.min(self.ips.len())]),
            "status.podIPs" => join(&self.ips),
            "status.hostIP" | "status.hostIPs" => self.node_ip.to_string(),
            _ => return keyed("metadata.labels", &self.labels).or_else(|| keyed("metadata.annotations", &self.annotations)),
        })
    }
}

/// Labels or annotations as the downward API writes them into a file: `key="value"` lines.
pub(crate) fn downward(map: &StringMap) -> String {
    map.iter().map(|(k, v)| format!("{k}={}", quoted(v))).collect::<Vec<_>>().join("\n")
}

/// A string as Go's `%q` writes it, for what occurs in labels and annotations.
fn quoted(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Variables in the order in which they were defined; a later one replaces an earlier one of the same name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Variables(Vec<(String, String)>);

impl Variables {
    pub(crate) fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(found) => found.1 = value,
            None => self.0.push((name, value)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn into_pairs(self) -> Vec<(String, String)> {
        self.0
    }

    /// Replaces `$(NAME)` by the variable's value; one that is not defined stays as it is written, and `$$(NAME)` stands
    /// for `$(NAME)` itself, as in Kubernetes.
    pub(crate) fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(tail) = rest.strip_prefix('$') {
                out.push('$');
                rest = tail;
            } else if let Some((name, tail)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
                match self.get(name) {
                    Some(value) => out.push_str(value),
                    None => {
                        out.push_str("$(");
                        out.push_str(name);
                        out.push(')');
                    }
                }
                rest = tail;
            } else {
                out.push('$');
            }
        }
        out.push_str(rest);
        out
    }
}

/// A container's variables, on top of `base`.
pub(crate) fn variables(
    container: &Container,
    pod: &PodFields,
    resources: &Resources,
    base: Variables,
) -> Result<Variables, EnvError> {
    let mut vars = base;
    for from in &container.env_from {
        let source =
            from.config_map_ref.as_ref().map(|r| (Kind::ConfigMap, r)).or(from.secret_ref.as_ref().map(|r| (Kind::Secret, r)));
        let Some((kind, reference)) = source else { continue };
        match kind.entries(resources, &pod.namespace, &reference.name) {
            Some(entries) => {
                for (key, bytes) in entries {
                    // Kubernetes leaves out what cannot be a variable.
                    if let Ok(text) = std::str::from_utf8(bytes) {
                        vars.set(format!("{}{key}", from.prefix), text);
                    }
                }
            }
            None if reference.optional => {}
            None => return Err(EnvError::Missing { kind: kind.name(), name: reference.name.clone() }),
        }
    }
    for var in &container.env {
        let value = match (&var.value, &var.value_from) {
            (_, Some(source)) => referred(&var.name, source, pod, resources)?,
            (Some(text), None) => Some(vars.expand(text)),
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            vars.set(&var.name, value);
        }
    }
    Ok(vars)
}

/// A referred value; `None` for an optional one that is not there.
fn referred(name: &str, source: &EnvVarSource, pod: &PodFields, resources: &Resources) -> Result<Option<String>, EnvError> {
    if let Some(field) = &source.field_ref {
        let value = pod.get(&field.field_path);
        return value.map(Some).ok_or_else(|| EnvError::Field(name.to_owned(), field.field_path.clone()));
    }
    let keyed = source.config_map_key_ref.as_ref().map(|r| (Kind::ConfigMap, r));
    let Some((kind, r)) = keyed.or(source.secret_key_ref.as_ref().map(|r| (Kind::Secret, r))) else {
        return Err(EnvError::Unsupported(name.to_owned()));
    };
    let Some(entries) = kind.entries(resources, &pod.namespace, &r.name) else {
        return if r.optional { Ok(None) } else { Err(EnvError::Missing { kind: kind.name(), name: r.name.clone() }) };
    };
    match entries.into_iter().find(|(key, _)| *key == r.key) {
        Some((_, bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(EnvError::NotText { kind: kind.name(), name: r.name.clone(), key: r.key.clone() }),
        },
        None if r.optional => Ok(None),
        None => Err(EnvError::NoKey { kind: kind.name(), name: r.name.clone(), key: r.key.clone() }),
    }
}

/// Where keys and values come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    /// All keys and values; `None` when the object is not there.
    pub(crate) fn entries<'a>(self, resources: &'a Resources, namespace: &str, name: &str) -> Option<Vec<(&'a str, &'a [u8])>> {
        match self {
            Self::ConfigMap => resources.config_map(namespace, name).map(|c| c.entries().collect()),
            Self::Secret => resources.secret(namespace, name).map(|s| s.entries().collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn fields() -> PodFields {
        PodFields {
            name: "web-1".to_owned(),
            namespace: "shop".to_owned(),
            uid: "u".to_owned(),
            labels: StringMap::from([("app".to_owned(), "web".to_owned()), ("a.b/c".to_owned(), "d".to_owned())]),
            annotations: StringMap::from([("note".to_owned(), "say \"hi\"\n".to_owned())]),
            service_account: "web-sa".to_owned(),
            ips: vec!["10.244.0.9".parse().unwrap(), "fd00::9".parse().unwrap()],
            node_name: "lateen".to_owned(),
            node_ip: "10.244.0.1".parse().unwrap(),
        }
    }

    #[test]
    fn references_in_commands_expand_as_in_kubernetes() {
        let mut vars = Variables::default();
        vars.set("A", "one");
        vars.set("B", "$(A)");
        for (text, expected) in [
            ("plain", "plain"),
            ("$(A)/$(A)", "one/one"),
            ("$(B)", "$(A)"),
            ("$(MISSING)", "$(MISSING)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$one"),
            ("$A $( $", "$A $( $"),
            ("100$", "100$"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(vars.expand(text), expected, "{text}");
        }
    }

    #[test]
    fn fields_of_the_pod_are_found() {
        let pod = fields();
        for (path, expected) in [
            ("metadata.name", Some("web-1")),
            ("metadata.labels['app']", Some("web")),
            ("metadata.labels['a.b/c']", Some("d")),
            ("metadata.labels['other']", Some("")),
            ("metadata.annotations['note']", Some("say \"hi\"\n")),
            ("status.podIP", Some("10.244.0.9")),
            ("status.podIPs", Some("10.244.0.9,fd00::9")),
            ("status.hostIP", Some("10.244.0.1")),
            ("spec.serviceAccountName", Some("web-sa")),
            ("spec.containers", None),
        ] {
            assert_eq!(pod.get(path).as_deref(), expected, "{path}");
        }
        assert_eq!(downward(&pod.labels), "a.b/c=\"d\"\napp=\"web\"");
        assert_eq!(downward(&pod.annotations), "note=\"say \\\"hi\\\"\\n\"");
    }

    const RESOURCES: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {COLOR: green, SIZE: "7"}
---
apiVersion: v1
kind: Secret
metadata: {name: password, namespace: shop}
stringData: {word: sesame}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  containers:
  - name: app
    command: ["true"]
    envFrom:
    - prefix: S_
      configMapRef: {name: settings}
    env:
    - {name: WHO, value: "I am $(POD) in $(S_COLOR)"}
    - name: POD
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    - {name: AGAIN, value: "I am $(POD) in $(S_COLOR)"}
    - name: WORD
      valueFrom: {secretKeyRef: {name: password, key: word}}
    - name: MAYBE
      valueFrom: {configMapKeyRef: {name: none, key: x, optional: true}}
"#;

    #[test]
    fn variables_come_from_everywhere_and_refer_to_earlier_ones() {
        let resources = Resources::from_text(RESOURCES);
        let pod = resources.pods().next().unwrap();
        let vars = variables(&pod.spec.containers[0], &fields(), &resources, Variables::default()).unwrap();
        assert_eq!(vars.get("WHO"), Some("I am $(POD) in green"));
        assert_eq!(vars.get("AGAIN"), Some("I am web-1 in green"));
        assert_eq!(vars.get("WORD"), Some("sesame"));
        assert_eq!(vars.get("S_SIZE"), Some("7"));
        assert_eq!(vars.get("MAYBE"), None);
        let without = Resources::from_text(RESOURCES.split_once("---").unwrap().1);
        let error = variables(&pod.spec.containers[0], &fields(), &without, Variables::default()).unwrap_err();
        assert_eq!(error.to_string(), "ConfigMap settings is not there");
    }
}
