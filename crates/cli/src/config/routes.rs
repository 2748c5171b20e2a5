//! Routes.

use serde_json::Value;

use super::field::{list, source, text, variant};
use crate::table::Table;

/// A row for each route of each virtual host, in the order in which they are tried.
pub(super) fn table(configurations: &[Value]) -> Table {
    let mut table = Table::new(&["NAME", "VHOST", "DOMAINS", "MATCH", "DESTINATION", "VIRTUAL SERVICE"]);
    for configuration in configurations {
        for host in list(configuration, "virtual_hosts") {
            for route in list(host, "routes") {
                table.row([
                    text(configuration, "name").to_owned(),
                    text(host, "name").to_owned(),
                    domains(host),
                    matched(&route["matches"]),
                    destination(&route["action"]),
                    source(text(route, "config_source")),
                ]);
            }
        }
    }
    table
}

/// The first domain; the rest are other ways to write it.
fn domains(host: &Value) -> String {
    let all = list(host, "domains");
    let first = all.first().and_then(Value::as_str).unwrap_or_default();
    if all.len() > 1 { format!("{first} +{}", all.len() - 1) } else { first.to_owned() }
}

/// Path, headers and query parameters that a request must have.
fn matched(rules: &Value) -> String {
    let path = match variant(&rules["path"]) {
        Some(("exact", path)) => path.as_str().unwrap_or_default().to_owned(),
        Some(("regex", path)) => format!("~{}", path.as_str().unwrap_or_default()),
        Some((_, path)) => format!("{}*", path.as_str().unwrap_or_default()),
        None => String::new(),
    };
    let conditions = |name| list(rules, name).iter().map(condition);
    std::iter::once(path).chain(conditions("headers")).chain(conditions("query")).collect::<Vec<_>>().join(" ")
}

/// One condition on a header or a query parameter: `x=1`, `x=1*`, `!x`.
fn condition(rule: &Value) -> String {
    let name = text(rule, "name");
    let no = if rule["invert"] == true { "!" } else { "" };
    match variant(&rule["predicate"]) {
        Some(("value", value)) => {
            let (kind, wanted) = variant(&value["predicate"]).unwrap_or(("", &Value::Null));
            let wanted = wanted.as_str().unwrap_or_default();
            match kind {
                "prefix" => format!("{no}{name}={wanted}*"),
                "suffix" => format!("{no}{name}=*{wanted}"),
                "contains" => format!("{no}{name}=*{wanted}*"),
                "regex" => format!("{no}{name}=~{wanted}"),
                _ => format!("{no}{name}={wanted}"),
            }
        }
        Some((_, present)) if *present == false => format!("!{no}{name}"),
        _ => format!("{no}{name}"),
    }
}

/// What becomes of the request.
fn destination(action: &Value) -> String {
    match variant(action) {
        Some(("forward", forward)) => match variant(&forward["cluster"]) {
            Some(("weighted", branches)) => branches.as_array().into_iter().flatten().map(branch).collect::<Vec<_>>().join(", "),
            Some((_, name)) => name.as_str().unwrap_or_default().to_owned(),
            None => String::new(),
        },
        Some(("redirect", redirect)) => format!("redirect {}", redirect["status"]),
        Some((_, direct)) => format!("answer {}", direct["status"]),
        None => String::new(),
    }
}

fn branch(branch: &Value) -> String {
    format!("{} ({})", text(branch, "name"), branch["weight"])
}

#[cfg(test)]
mod tests {
    use super::table;
    use serde_json::json;

    #[test]
    fn a_canary_reads_like_its_virtual_service() {
        let from = "/apis/networking.istio.io/v1/namespaces/shop/virtual-service/web";
        let header = json!({"name": "x-canary", "predicate": {"value": {"predicate": {"exact": "true"}}}, "invert": false});
        let weighted = json!({"weighted": [{"name": "web-v1", "weight": 95}, {"name": "web-v2", "weight": 5}]});
        let text =
            table(&[json!({"name": "80", "virtual_hosts": [{"name": "web:80", "domains": ["web", "web.shop"], "routes": [
                {"matches": {"path": {"prefix": "/"}, "headers": [header]},
                 "action": {"forward": {"cluster": {"single": "web-v2"}}}, "config_source": from},
                {"matches": {"path": {"prefix": "/"}}, "action": {"forward": {"cluster": weighted}}, "config_source": from},
                {"matches": {"path": {"regex": "/a.*"}}, "action": {"direct_response": {"status": 404}}},
            ]}]})])
            .text();
        let squeezed: Vec<String> = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            squeezed[1..],
            [
                "80 web:80 web +1 /* x-canary=true web-v2 web.shop",
                "80 web:80 web +1 /* web-v1 (95), web-v2 (5) web.shop",
                "80 web:80 web +1 ~/a.* answer 404 -",
            ]
        );
    }
}
