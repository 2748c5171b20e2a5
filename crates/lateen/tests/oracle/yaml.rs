//! YAML as JSON values, for the suite's own files.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Every document of a text.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>, String> {
    let mut reader = Reader { stack: Vec::new(), documents: Vec::new() };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|e| e.to_string())?;
        reader.event(event).map_err(|e| format!("line {}: {e}", span.start.line()))?;
    }
    Ok(reader.documents.into_iter().filter(|value| !value.is_null()).collect())
}

enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

struct Reader {
    stack: Vec<Open>,
    documents: Vec<Value>,
}

impl Reader {
    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, _, _) => {
                if let Some(Open::Map(map, key @ None)) = self.stack.last_mut() {
                    if map.contains_key(text.as_ref()) {
                        return Err(format!("{text:?} is written twice"));
                    }
                    *key = Some(text.into_owned());
                    return Ok(());
                }
                let plain = matches!(style, ScalarStyle::Plain);
                self.value(if plain { resolve(&text) } else { Value::String(text.into_owned()) })
            }
            Event::SequenceStart(..) => self.open(Open::List(Vec::new())),
            Event::MappingStart(..) => self.open(Open::Map(Map::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List(items)) => self.value(Value::Array(items)),
                Some(Open::Map(map, _)) => self.value(Value::Object(map)),
                None => Err("an end without a beginning".to_owned()),
            },
            Event::Alias(_) => Err("aliases are not read".to_owned()),
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open) -> Result<(), String> {
        if let Some(Open::Map(_, None)) = self.stack.last() {
            return Err("a key must be a text".to_owned());
        }
        self.stack.push(open);
        Ok(())
    }

    fn value(&mut self, value: Value) -> Result<(), String> {
        match self.stack.last_mut() {
            None => self.documents.push(value),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Map(map, key)) => {
                let key = key.take().ok_or("a key must be a text")?;
                map.insert(key, value);
            }
        }
        Ok(())
    }
}

/// A plain scalar, as YAML 1.2's core schema has it.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => text
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| text.parse::<f64>().map_err(|_| ()).map(Value::from))
            .unwrap_or_else(|()| Value::String(text.to_owned())),
    }
}
