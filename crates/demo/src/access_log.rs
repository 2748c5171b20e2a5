//! The sidecars' access logs, in the JSON form that `demo/mesh.yaml` asks for.

use std::path::Path;

use serde_json::Value;

/// The entries of a pod's log for a path, oldest first; none if there is no log.
pub(crate) fn entries(logs: &Path, namespace: &str, pod: &str, path: &str) -> Vec<Value> {
    let file = logs.join(format!("{namespace}_{pod}_istio-proxy.log"));
    let text = std::fs::read(file).unwrap_or_default();
    // The sidecar's own words stand between the entries; they are no JSON.
    let entries = String::from_utf8_lossy(&text).lines().filter_map(|l| serde_json::from_str(l).ok()).collect::<Vec<Value>>();
    entries.into_iter().filter(|e| e["path"] == path).collect()
}

/// What an entry says of a field; `-` if nothing.
pub(crate) fn word(entry: &Value, field: &str) -> String {
    match &entry[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_between_other_lines() {
        let dir = tempfile::tempdir().unwrap();
        let text = "2026 INFO starting\n{\"path\":\"/a\",\"n\":1}\n{\"path\":\"/b\"}\nhalf {\n{\"path\":\"/a\",\"f\":\"UO\"}\n";
        std::fs::write(dir.path().join("ns_p_istio-proxy.log"), text).unwrap();
        let found = entries(dir.path(), "ns", "p", "/a");
        assert_eq!(found.len(), 2);
        assert_eq!((word(&found[0], "n"), word(&found[1], "f"), word(&found[0], "f")), ("1".into(), "UO".into(), "-".into()));
        assert!(entries(dir.path(), "ns", "other", "/a").is_empty());
    }
}
