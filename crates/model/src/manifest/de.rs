//! Reads a typed object from a [`Node`] tree, strictly, and says where it fails.
//!
//! It differs from the usual way (tree → JSON → type) in what people notice: an error names the field and its place; all
//! unknown fields are found at once; and a field left empty counts as absent, as in a cluster, but with a warning, while an
//! empty entry of a map or a list is an error, for there it could widen what a policy matches.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, IntoDeserializer, Unexpected, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use super::plain::Scalar;
use super::suggest::nearest;
use super::tree::{Entry, Node, Position, Value};
use crate::resource::{FieldIssue, FieldPath, Segment, Warning, shorten};

/// Something wrong with a field, and where it is written.
pub(super) type Located = (Position, FieldIssue);

/// Reads a `T` from `node`.
pub(super) fn from_node<'de, T: Deserialize<'de>>(node: &'de Node) -> Result<(T, Vec<Warning>), Vec<Located>> {
    let findings = Findings::default();
    let result = T::deserialize(Reader { node, path: None, findings: &findings });
    let mut problems = findings.problems.into_inner();
    match result {
        Ok(value) if problems.is_empty() => Ok((value, findings.warnings.into_inner())),
        Ok(_) => Err(problems),
        Err(error) => {
            problems.push(error.into_located(node.at));
            Err(problems)
        }
    }
}

/// What is found on the way without stopping.
#[derive(Default)]
struct Findings {
    problems: RefCell<Vec<Located>>,
    warnings: RefCell<Vec<Warning>>,
}

/// The way to the current node, as a list on the stack.
#[derive(Clone, Copy)]
struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Key(&'p str),
    Index(usize),
}

fn collect(path: Option<&Path<'_>>) -> FieldPath {
    let mut segments = Vec::new();
    let mut next = path;
    while let Some(path) = next {
        segments.push(match path.step {
            Step::Key(key) => Segment::Key(key.to_owned()),
            Step::Index(index) => Segment::Index(index),
        });
        next = path.parent;
    }
    segments.into_iter().rev().collect()
}

/// Why a type could not be read. The innermost reader that sees it adds the place.
#[derive(Debug)]
pub(super) struct ReadError {
    text: String,
    place: Option<(Position, FieldPath)>,
}

impl ReadError {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), place: None }
    }

    fn locate(mut self, at: Position, path: Option<&Path<'_>>) -> Self {
        self.place.get_or_insert_with(|| (at, collect(path)));
        self
    }

    fn into_located(self, fallback: Position) -> Located {
        let (at, path) = self.place.unwrap_or_else(|| (fallback, FieldPath::root()));
        (at, FieldIssue { path, text: self.text })
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(format!("is {}, must be {}", describe(found), reword(&expected.to_string())))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, allowed: &'static [&'static str]) -> Self {
        let hint = nearest(variant, allowed.iter().copied()).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        Self::new(format!("is {:?}, must be {}{hint}", shorten(variant), one_of(allowed)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("the field {field:?} is required"))
    }
}

/// What was found, in the words of a YAML file.
fn describe(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("the boolean {value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Str(text) => format!("the string {:?}", shorten(text)),
        Unexpected::Unit | Unexpected::Option => "empty".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map | Unexpected::StructVariant => "a mapping".to_owned(),
        other => other.to_string(),
    }
}

/// What Rust's types are called in the words of a YAML file.
fn reword(expected: &str) -> String {
    let words = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" => "a whole number, not negative",
        "i32" => "a whole number of at most 32 bits",
        "i64" => "a whole number",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a mapping",
        "a string" | "a borrowed string" => "a string",
        other if other.starts_with("struct ") => "a mapping",
        other if other.starts_with("enum ") => "a name",
        other => other,
    };
    words.to_owned()
}

fn one_of(names: &[&str]) -> String {
    match names {
        [] => "nothing".to_owned(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("one of {} or {last}", first.join(", ")),
    }
}

/// Reads one node.
#[derive(Clone, Copy)]
struct Reader<'de, 'p> {
    node: &'de Node,
    path: Option<&'p Path<'p>>,
    findings: &'p Findings,
}

impl<'de, 'p> Reader<'de, 'p> {
    fn place<T>(self, result: Result<T, ReadError>) -> Result<T, ReadError> {
        result.map_err(|error| error.locate(self.node.at, self.path))
    }

    fn visit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let result = match &self.node.value {
            Value::Scalar(Scalar::Null) => visitor.visit_unit(),
            Value::Scalar(Scalar::Bool(value, _)) => visitor.visit_bool(*value),
            Value::Scalar(Scalar::Int(value, _)) => match u64::try_from(*value) {
                Ok(value) => visitor.visit_u64(value),
                Err(_) => visitor.visit_i64(*value),
            },
            Value::Scalar(Scalar::UInt(value, _)) => visitor.visit_u64(*value),
            Value::Scalar(Scalar::Float(value, _)) => visitor.visit_f64(*value),
            Value::Scalar(Scalar::String(text)) => visitor.visit_borrowed_str(text),
            Value::Sequence(items) => visitor.visit_seq(Items { items, next: 0, reader: self }),
            Value::Mapping(entries) => visitor.visit_map(Fields { entries, next: 0, reader: self, known: None }),
        };
        self.place(result)
    }

    /// Refuses scalars that YAML takes for something else, and says how to write the string that was meant.
    fn visit_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let (kind, text) = match &self.node.value {
            Value::Scalar(Scalar::Bool(_, text)) => ("boolean", text),
            Value::Scalar(Scalar::Int(_, text) | Scalar::UInt(_, text) | Scalar::Float(_, text)) => ("number", text),
            _ => return self.visit(visitor),
        };
        let text = shorten(text);
        self.place(Err(ReadError::new(format!("is the {kind} {text}, must be a string: write it in quotes, \"{text}\""))))
    }

    /// Reports the keys of `entries` that are no fields.
    fn check_fields(self, entries: &[Entry], fields: &'static [&'static str]) {
        for entry in entries.iter().filter(|entry| !fields.contains(&entry.key.as_str())) {
            let hint = match nearest(&entry.key, fields.iter().copied()) {
                Some(name) => format!("did you mean {name:?}?"),
                None if fields.is_empty() => "there are none here".to_owned(),
                None => format!("known here: {}", fields.join(", ")),
            };
            let path = collect(Some(&Path { parent: self.path, step: Step::Key(&entry.key) }));
            let issue = FieldIssue { path, text: format!("unknown field; {hint}") };
            self.findings.problems.borrow_mut().push((entry.key_at, issue));
        }
    }

    fn warn_empty(self, key: &str) {
        // Exporters write this one empty into every template.
        if key == "creationTimestamp" {
            return;
        }
        let path = collect(Some(&Path { parent: self.path, step: Step::Key(key) }));
        self.findings.warnings.borrow_mut().push(Warning { path, text: "is empty and counts as absent".to_owned() });
    }
}

impl<'de> de::Deserializer<'de> for Reader<'de, '_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.visit(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.visit_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.visit_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Scalar(Scalar::Null) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Mapping(entries) => {
                self.check_fields(entries, fields);
                self.place(visitor.visit_map(Fields { entries, next: 0, reader: self, known: Some(fields) }))
            }
            Value::Sequence(_) => self.place(Err(de::Error::invalid_type(Unexpected::Seq, &"a mapping"))),
            Value::Scalar(_) => self.visit(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Scalar(Scalar::String(text)) => {
                let variant: de::value::StrDeserializer<'_, ReadError> = text.as_str().into_deserializer();
                self.place(visitor.visit_enum(variant))
            }
            Value::Scalar(Scalar::Bool(_, text)) => self.place(Err(de::Error::unknown_variant(text, variants))),
            Value::Scalar(Scalar::Int(_, text) | Scalar::UInt(_, text) | Scalar::Float(_, text)) => {
                self.place(Err(de::Error::unknown_variant(text, variants)))
            }
            Value::Scalar(Scalar::Null) => self.place(Err(ReadError::new(format!("is empty, must be {}", one_of(variants))))),
            Value::Sequence(_) => self.place(Err(ReadError::new(format!("is a list, must be {}", one_of(variants))))),
            Value::Mapping(_) => self.place(Err(ReadError::new(format!("is a mapping, must be {}", one_of(variants))))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct map
        identifier
    }
}

/// The elements of a list.
struct Items<'de, 'p> {
    items: &'de [Node],
    next: usize,
    reader: Reader<'de, 'p>,
}

impl<'de> de::SeqAccess<'de> for Items<'de, '_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        let Some(node) = self.items.get(self.next) else { return Ok(None) };
        let path = Path { parent: self.reader.path, step: Step::Index(self.next) };
        self.next += 1;
        let result = seed.deserialize(Reader { node, path: Some(&path), findings: self.reader.findings });
        result.map(Some).map_err(|error| error.locate(node.at, Some(&path)))
    }

    fn size_hint(&self) -> Option<usize> {
        // The number is what was parsed, so it is bounded; a claim cannot make anything large.
        Some(self.items.len() - self.next.min(self.items.len()))
    }
}

/// The entries of a mapping.
struct Fields<'de, 'p> {
    entries: &'de [Entry],
    next: usize,
    reader: Reader<'de, 'p>,
    /// The fields, if the mapping is a message and not a map: others were reported and are passed over, and so are empty ones.
    known: Option<&'static [&'static str]>,
}

impl<'de> de::MapAccess<'de> for Fields<'de, '_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        while let Some(entry) = self.entries.get(self.next) {
            match self.known {
                Some(known) if !known.contains(&entry.key.as_str()) => {}
                Some(_) if matches!(entry.value.value, Value::Scalar(Scalar::Null)) => self.reader.warn_empty(&entry.key),
                _ => {
                    let path = Path { parent: self.reader.path, step: Step::Key(&entry.key) };
                    let key = seed.deserialize(MapKey(&entry.key));
                    return key.map(Some).map_err(|error| error.locate(entry.key_at, Some(&path)));
                }
            }
            self.next += 1;
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let Some(entry) = self.entries.get(self.next) else {
            return Err(ReadError::new("a value was asked for before its key"));
        };
        self.next += 1;
        let path = Path { parent: self.reader.path, step: Step::Key(&entry.key) };
        let result = seed.deserialize(Reader { node: &entry.value, path: Some(&path), findings: self.reader.findings });
        result.map_err(|error| error.locate(entry.value.at, Some(&path)))
    }
}

/// A key of a mapping: a string, or a number where the type says so.
struct MapKey<'de>(&'de str);

impl MapKey<'_> {
    fn number<T: std::str::FromStr>(&self) -> Result<T, ReadError> {
        self.0.parse().map_err(|_| ReadError::new(format!("the key {:?} must be a whole number", shorten(self.0))))
    }
}

impl<'de> de::Deserializer<'de> for MapKey<'de> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_u16(self.number()?)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_u32(self.number()?)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}
