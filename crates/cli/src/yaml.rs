//! JSON values as YAML, for people.

use std::fmt::Write;

use serde_json::Value;

/// One document, in block style; every text that could be read as something else is quoted.
pub(crate) fn document(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                indent(depth, out);
                out.push_str(&text(key));
                out.push(':');
                match value {
                    // A list may stand as far left as its key.
                    Value::Array(items) if !items.is_empty() => {
                        out.push('\n');
                        block(value, depth, out);
                    }
                    Value::Object(fields) if !fields.is_empty() => {
                        out.push('\n');
                        block(value, depth + 1, out);
                    }
                    _ => {
                        out.push(' ');
                        scalar(value, out);
                    }
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut inner = String::new();
                block(item, depth + 1, &mut inner);
                indent(depth, out);
                out.push_str("- ");
                // The first line takes the place that its indentation had.
                out.push_str(inner.trim_start_matches(' '));
            }
        }
        _ => {
            indent(depth, out);
            scalar(value, out);
        }
    }
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}

fn scalar(value: &Value, out: &mut String) {
    let written = match value {
        Value::String(s) => text(s),
        // Empty lists and maps, numbers, truth and nothing are the same in both.
        other => other.to_string(),
    };
    let _ = writeln!(out, "{written}");
}

/// A text as it stands, or in double quotes with JSON's escapes, which are YAML's too.
fn text(s: &str) -> String {
    if is_plain(s) { s.to_owned() } else { Value::String(s.to_owned()).to_string() }
}

fn is_plain(s: &str) -> bool {
    const WORDS: [&str; 10] = ["null", "~", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let first = s.chars().next();
    let begins_well = first.is_some_and(|c| c.is_alphabetic() || c == '/' || c == '_' || c == '<');
    let inside = |c: char| !c.is_control() && !matches!(c, '#' | '\u{feff}' | '\u{2028}' | '\u{2029}' | '\u{85}');
    let special = [".inf", ".nan", "inf", "nan"];
    let lower = s.to_ascii_lowercase();
    begins_well
        && s.chars().all(inside)
        && !s.contains(": ")
        && !s.ends_with([':', ' '])
        && !WORDS.contains(&lower.as_str())
        && !special.contains(&lower.as_str())
}

#[cfg(test)]
mod tests {
    use super::document;
    use serde_json::json;

    #[test]
    fn values_are_written_so_that_they_are_read_as_they_were() {
        let value = json!({
            "empty": {"list": [], "map": {}, "text": ""},
            "list": [1, "a", {"b": "c", "d": [true, null]}, [2, [3]]],
            "words": ["yes", "Null", "1", "a: b", "a#b", "/path/a:b", "*", "line\nbreak", "-x", "12:30", "<3 bytes>"],
        });
        assert_eq!(
            document(&value),
            "empty:\n  list: []\n  map: {}\n  text: \"\"\nlist:\n- 1\n- a\n- b: c\n  d:\n  - true\n  - null\n- - 2\n  - - 3\n\
             words:\n- \"yes\"\n- \"Null\"\n- \"1\"\n- \"a: b\"\n- \"a#b\"\n- /path/a:b\n- \"*\"\n- \"line\\nbreak\"\n- \"-x\"\n- \"12:30\"\n- <3 bytes>\n"
        );
        assert_eq!(document(&json!("x")), "x\n");
    }
}
