//! Who this process is, as Kubernetes' downward API tells a container: environment variables or label files.

use crate::EchoError;
use std::collections::BTreeMap;

/// Where a downward API volume puts the pod's labels by convention.
const LABEL_FILE: &str = "/etc/podinfo/labels";

/// The pod that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodIdentity {
    /// The pod's name; outside a pod the host's name.
    pub pod: String,
    /// The pod's namespace; empty when unknown.
    pub namespace: String,
    /// The pod's service account; empty when unknown.
    pub service_account: String,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
}

impl PodIdentity {
    /// Reads `POD_NAME`, `POD_NAMESPACE`, `SERVICE_ACCOUNT` and `LATEEN_POD_LABELS` (`k=v,k=v`) from the environment; what
    /// the environment lacks comes from the downward API's label file and the host's name.
    pub fn from_environment() -> Result<Self, EchoError> {
        let label_file = std::fs::read_to_string(LABEL_FILE).ok();
        Self::from_sources(|name| std::env::var(name).ok(), label_file.as_deref())
    }

    fn from_sources(variable: impl Fn(&str) -> Option<String>, label_file: Option<&str>) -> Result<Self, EchoError> {
        let labels = match (variable("LATEEN_POD_LABELS"), label_file) {
            (Some(text), _) => labels_from_variable(&text)?,
            (None, Some(text)) => labels_from_file(text)?,
            (None, None) => BTreeMap::new(),
        };
        let host_name = || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
        let pod = variable("POD_NAME").or_else(|| variable("HOSTNAME")).or_else(|| host_name().ok()).unwrap_or_default();
        Ok(Self {
            pod,
            namespace: variable("POD_NAMESPACE").unwrap_or_default(),
            service_account: variable("SERVICE_ACCOUNT").unwrap_or_default(),
            labels,
        })
    }

    /// The label `version`, or an empty text.
    pub fn version(&self) -> &str {
        self.labels.get("version").map_or("", String::as_str)
    }
}

fn labels_from_variable(text: &str) -> Result<BTreeMap<String, String>, EchoError> {
    let entries = text.split(',').map(str::trim).enumerate().filter(|(_, entry)| !entry.is_empty());
    entries
        .map(|(index, entry)| match entry.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(EchoError::Labels { path: "LATEEN_POD_LABELS".into(), line: index + 1, text: entry.into() }),
        })
        .collect()
}

/// Kubernetes writes `key="value"` lines, the value quoted as by Go's `strconv.Quote`; label values need no escapes.
fn labels_from_file(text: &str) -> Result<BTreeMap<String, String>, EchoError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let wrong = || EchoError::Labels { path: LABEL_FILE.into(), line: index + 1, text: line.into() };
            let (key, quoted) = line.trim().split_once('=').ok_or_else(wrong)?;
            let value = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(wrong)?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::PodIdentity;

    fn identity(variables: &[(&str, &str)], file: Option<&str>) -> Result<PodIdentity, crate::EchoError> {
        let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        PodIdentity::from_sources(lookup, file)
    }

    #[test]
    fn environment_wins_over_the_label_file() {
        let variables = [
            ("POD_NAME", "web-0"),
            ("POD_NAMESPACE", "shop"),
            ("SERVICE_ACCOUNT", "web-sa"),
            ("LATEEN_POD_LABELS", "app=web, version=v2,"),
        ];
        let me = identity(&variables, Some("version=\"v1\"\n")).expect("valid");
        assert_eq!((me.pod.as_str(), me.namespace.as_str(), me.service_account.as_str()), ("web-0", "shop", "web-sa"));
        assert_eq!(me.version(), "v2");
        assert_eq!(me.labels["app"], "web");
    }

    #[test]
    fn label_file_of_the_downward_api() {
        let me = identity(&[("POD_NAME", "p")], Some("app=\"web\"\nversion=\"v1\"\n\n")).expect("valid");
        assert_eq!(me.version(), "v1");
    }

    #[test]
    fn malformed_labels_say_where() {
        let error = identity(&[("LATEEN_POD_LABELS", "a=b,c")], None).expect_err("malformed").to_string();
        assert!(error.contains("LATEEN_POD_LABELS:2") && error.contains("\"c\""), "{error}");
        let error = identity(&[], Some("a=\"b\"\nc=d\n")).expect_err("malformed").to_string();
        assert!(error.contains("labels:2"), "{error}");
    }
}
