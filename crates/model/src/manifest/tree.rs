//! A YAML document as a tree whose nodes know where they were written.
//!
//! Everything is bounded: the depth, and the number of nodes with aliases expanded.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};

use super::plain::{self, Scalar};
use crate::resource::{FieldPath, Segment};

/// The deepest nesting that is read. Kubernetes' deepest kinds need about 15.
const MAX_DEPTH: usize = 64;
/// The most nodes that one document may have, aliases expanded.
const MAX_NODES: usize = 500_000;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Position {
    fn of(marker: &Marker) -> Self {
        // Texts are far shorter than 4 GiB; a line number that does not fit is only a number in a message.
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { line: number(marker.line()), column: number(marker.col() + 1) }
    }
}

/// A value and where it begins.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) value: Value,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Position,
    pub(crate) value: Node,
}

/// Why a text is no tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeError {
    pub(crate) at: Position,
    pub(crate) text: String,
}

impl Node {
    /// The value of a field, if this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Value::Mapping(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The text, if this is a string.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(Scalar::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Where `path` was written: at its key or list element or, if it is absent, where its nearest parent was.
    pub(crate) fn locate(&self, path: &FieldPath) -> Position {
        let mut node = self;
        let mut at = self.at;
        for segment in path.segments() {
            match (segment, &node.value) {
                (Segment::Key(key), Value::Mapping(entries)) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == *key) else { return at };
                    (node, at) = (&entry.value, entry.key_at);
                }
                (Segment::Index(index), Value::Sequence(items)) => {
                    let Some(item) = items.get(*index) else { return at };
                    (node, at) = (item, item.at);
                }
                _ => return at,
            }
        }
        at
    }
}

/// Parses one document. After an error, the tree as far as it was read comes along, to say which object is broken.
pub(crate) fn parse(text: &str) -> Result<Node, (TreeError, Option<Node>)> {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    match builder.run(&mut parser) {
        Ok(()) => {}
        Err(error) => return Err((error, builder.partial())),
    }
    let start = Position { line: 1, column: 1 };
    Ok(builder.root.unwrap_or(Node { at: start, value: Value::Scalar(Scalar::Null) }))
}

/// A collection that is not closed yet.
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value, in a mapping.
    key: Option<Key>,
    /// Keys seen, in a mapping.
    seen: HashSet<String>,
    /// What `<<` brings in, in a mapping; explicit keys win, whatever the order.
    merged: Vec<Entry>,
}

/// A key that waits for its value.
struct Key {
    text: String,
    at: Position,
    /// An unquoted `<<`.
    is_merge: bool,
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    stack: Vec<Open>,
    /// Finished anchored nodes and the number of nodes in each.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    documents: usize,
}

impl Builder {
    fn run(&mut self, parser: &mut Parser<'_, StrInput<'_>>) -> Result<(), TreeError> {
        while let Some(event) = parser.next_event() {
            let (event, span) = event
                .map_err(|error| TreeError { at: Position::of(error.marker()), text: format!("not YAML: {}", error.info()) })?;
            self.event(event, &span)?;
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), TreeError> {
        let at = Position::of(&span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                match self.documents {
                    1 => Ok(()),
                    _ => Err(fail(at, "a second document begins here without --- before it")),
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, at)?;
                if self.expects_key() {
                    if anchor != 0 {
                        let node = Node { at, value: Value::Scalar(Scalar::String(text.to_string())) };
                        self.anchors.insert(anchor, (node, 1));
                    }
                    return self.key(text.into_owned(), style, at);
                }
                let plain = matches!(style, ScalarStyle::Plain);
                let scalar =
                    plain::resolve(&text, plain, core_tag(tag.as_deref(), at)?).map_err(|text| TreeError { at, text })?;
                self.value(Node { at, value: Value::Scalar(scalar) }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.expect_tag(tag.as_deref(), "seq", at)?;
                self.open(Node { at, value: Value::Sequence(Vec::new()) }, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.expect_tag(tag.as_deref(), "map", at)?;
                self.open(Node { at, value: Value::Mapping(Vec::new()) }, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, at),
        }
    }

    fn count(&mut self, nodes: usize, at: Position) -> Result<(), TreeError> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(fail(at, &format!("the document has more than {MAX_NODES} values (aliases expanded)")));
        }
        Ok(())
    }

    fn expects_key(&self) -> bool {
        self.stack.last().is_some_and(|open| matches!(open.node.value, Value::Mapping(_)) && open.key.is_none())
    }

    fn expect_tag(&self, tag: Option<&Tag>, allowed: &str, at: Position) -> Result<(), TreeError> {
        match core_tag(tag, at)? {
            None => Ok(()),
            Some(tag) if tag == allowed => Ok(()),
            Some(tag) => Err(fail(at, &format!("the tag !!{tag} does not fit what it stands before"))),
        }
    }

    fn key(&mut self, key: String, style: ScalarStyle, at: Position) -> Result<(), TreeError> {
        let plain = matches!(style, ScalarStyle::Plain);
        if plain && matches!(key.as_str(), "" | "~" | "null") {
            return Err(fail(at, "a key is missing before ':'"));
        }
        let Some(open) = self.stack.last_mut() else { return Ok(()) };
        // A merge key adds to `merged` and may stand beside any other.
        let is_merge = plain && key == "<<";
        if !is_merge && !open.seen.insert(key.clone()) {
            return Err(fail(at, &format!("the key {:?} is written twice in one mapping", crate::resource::shorten(&key))));
        }
        open.key = Some(Key { text: key, at, is_merge });
        Ok(())
    }

    fn open(&mut self, node: Node, anchor: usize) -> Result<(), TreeError> {
        let at = node.at;
        self.count(1, at)?;
        if self.expects_key() {
            return Err(fail(at, "a key must be a string, not a list or a mapping"));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(fail(at, &format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.stack.push(Open { node, anchor, key: None, seen: HashSet::new(), merged: Vec::new() });
        Ok(())
    }

    fn close(&mut self) -> Result<(), TreeError> {
        let Some(open) = self.stack.pop() else { return Ok(()) };
        let anchor = open.anchor;
        self.value(open.finish(), anchor)
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<(), TreeError> {
        let nodes = self.anchors.get(&anchor).map_or(0, |(_, nodes)| *nodes);
        self.count(nodes, at)?;
        let Some((node, _)) = self.anchors.get(&anchor).cloned() else {
            return Err(fail(at, "an alias may not stand inside what it refers to"));
        };
        if self.stack.len() + depth(&node) > MAX_DEPTH {
            return Err(fail(at, &format!("nested deeper than {MAX_DEPTH} levels")));
        }
        if self.expects_key() {
            let Value::Scalar(Scalar::String(text)) = node.value else {
                return Err(fail(at, "a key must be a string"));
            };
            return self.key(text, ScalarStyle::DoubleQuoted, at);
        }
        self.value(Node { at, value: node.value }, 0)
    }

    fn value(&mut self, node: Node, anchor: usize) -> Result<(), TreeError> {
        if anchor != 0 {
            let nodes = size(&node);
            self.anchors.insert(anchor, (node.clone(), nodes));
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node.value {
            Value::Sequence(items) => items.push(node),
            Value::Mapping(entries) => match open.key.take() {
                Some(key) if key.is_merge => merge(&mut open.merged, node, key.at)?,
                Some(key) => entries.push(Entry { key: key.text, key_at: key.at, value: node }),
                None => {}
            },
            Value::Scalar(_) => {}
        }
        Ok(())
    }

    /// What was read before an error, with every open collection closed.
    fn partial(mut self) -> Option<Node> {
        while let Some(open) = self.stack.pop() {
            let node = open.finish();
            // Values never fail once they exist, except for merge keys, which may be lost here.
            let _ = self.value(node, 0);
        }
        self.root
    }
}

impl Open {
    fn finish(mut self) -> Node {
        if let Value::Mapping(entries) = &mut self.node.value {
            let missing = self.merged.into_iter().filter(|entry| !self.seen.contains(&entry.key));
            entries.extend(missing);
        }
        self.node
    }
}

/// Takes in the value of `<<`: a mapping, or a list of mappings of which earlier ones win.
fn merge(merged: &mut Vec<Entry>, node: Node, at: Position) -> Result<(), TreeError> {
    let mappings = match node.value {
        Value::Mapping(entries) => vec![entries],
        Value::Sequence(items) => {
            let entries = items.into_iter().map(|item| match item.value {
                Value::Mapping(entries) => Ok(entries),
                _ => Err(fail(at, "<< takes a mapping or a list of mappings")),
            });
            entries.collect::<Result<_, _>>()?
        }
        Value::Scalar(_) => return Err(fail(at, "<< takes a mapping or a list of mappings")),
    };
    let mut seen: HashSet<String> = merged.iter().map(|entry| entry.key.clone()).collect();
    for entry in mappings.into_iter().flatten() {
        if seen.insert(entry.key.clone()) {
            merged.push(entry);
        }
    }
    Ok(())
}

fn fail(at: Position, text: &str) -> TreeError {
    TreeError { at, text: text.to_owned() }
}

/// The name of a tag of YAML's core schema; any other tag is an error.
fn core_tag(tag: Option<&Tag>, at: Position) -> Result<Option<&str>, TreeError> {
    match tag {
        None => Ok(None),
        // The non-specific tag `!` asks for a string, as quotes would.
        Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => Ok(Some("str")),
        Some(tag) if tag.is_yaml_core_schema() => Ok(Some(&tag.suffix)),
        Some(tag) => Err(fail(at, &format!("the tag {}{} is not known", tag.handle, tag.suffix))),
    }
}

/// The number of nodes in a tree. Recursion is bounded by [`MAX_DEPTH`].
fn size(node: &Node) -> usize {
    match &node.value {
        Value::Scalar(_) => 1,
        Value::Sequence(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Mapping(entries) => 1 + entries.iter().map(|entry| size(&entry.value)).sum::<usize>(),
    }
}

/// The number of collections around the deepest scalar. Recursion is bounded by [`MAX_DEPTH`].
fn depth(node: &Node) -> usize {
    match &node.value {
        Value::Scalar(_) => 0,
        Value::Sequence(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Mapping(entries) => 1 + entries.iter().map(|entry| depth(&entry.value)).max().unwrap_or(0),
    }
}
