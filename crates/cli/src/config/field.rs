//! Ways into the JSON of the admin pages. What is absent is empty, for the pages leave empty parts out.

use serde_json::Value;

/// The entries of a list; none if there is no list.
pub(super) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// A text; empty if there is none.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// A list of texts, joined by commas.
pub(super) fn joined(value: &Value, name: &str) -> String {
    list(value, name).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// The variant and the content of an enum: `"eds"` and `{…}` of `{"eds": {…}}`; a variant without content is a text.
pub(super) fn variant(value: &Value) -> Option<(&str, &Value)> {
    match value {
        Value::String(name) => Some((name, &Value::Null)),
        Value::Object(map) => map.iter().next().map(|(name, content)| (name.as_str(), content)),
        _ => None,
    }
}

/// `NAME.NAMESPACE` of the resource that an entry was made from
/// (`/apis/networking.istio.io/v1/namespaces/NAMESPACE/KIND/NAME`); empty if it was made from none.
pub(super) fn source(path: &str) -> String {
    let mut parts = path.rsplit('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(_), Some(namespace)) => format!("{name}.{namespace}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variants_and_sources() {
        assert_eq!(variant(&json!("plaintext")), Some(("plaintext", &Value::Null)));
        assert_eq!(variant(&json!({"exact": "/a"})), Some(("exact", &json!("/a"))));
        assert_eq!(variant(&Value::Null), None);
        assert_eq!(source("/apis/networking.istio.io/v1/namespaces/shop/virtual-service/web"), "web.shop");
        assert_eq!(source(""), "");
    }
}
