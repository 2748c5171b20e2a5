//! What the tables of validation tests share.

use lateen_model::manifest;

/// Reads one object of `kind` in namespace `prod` and answers what was found, each as `path: text`: errors first if it was
/// refused, else warnings with `warning ` before them.
pub(crate) fn findings(api_version: &str, kind: &str, body: &str) -> Vec<String> {
    let text = format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: web, namespace: prod}}\n{body}\n");
    findings_of(&text)
}

/// The same for a whole text of one document.
pub(crate) fn findings_of(text: &str) -> Vec<String> {
    let mut documents = manifest::read(text, "f.yaml");
    assert_eq!(documents.len(), 1, "{text}");
    match documents.remove(0) {
        Ok(document) => document.warnings.iter().map(|found| format!("warning {}: {}", found.path, found.text)).collect(),
        Err(rejection) => rejection.problems.iter().map(|found| format!("{}: {}", found.path, found.text)).collect(),
    }
}

/// Checks a table: each spec (in flow style) must give a finding that begins with the expected text, or, if nothing is
/// expected, no finding at all.
pub(crate) fn check(api_version: &str, kind: &str, table: &[(&str, &str)]) {
    for (spec, expected) in table {
        let found = findings(api_version, kind, &format!("spec: {spec}"));
        match *expected {
            "" => assert!(found.is_empty(), "{spec}\n{found:#?}"),
            expected => assert!(found.iter().any(|text| text.starts_with(expected)), "{spec}\nwants {expected}\n{found:#?}"),
        }
    }
}
