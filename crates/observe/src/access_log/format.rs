//! Formats: text lines and JSON objects of command operators.

use super::escape;
use super::operator::{self, Operator, Shown};
use super::record::LogRecord;
use serde_json::Value;

/// Istio's default text format (`EnvoyTextLogFormat`).
const ISTIO_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" \
    %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
    \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's default JSON format (`EnvoyJSONLogFormatIstio`).
const ISTIO_JSON: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
];

/// Why a format was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// An operator that Lateen does not have.
    #[error("access log operator %{0}% is not supported")]
    Operator(String),
    /// An operator with a wrong argument.
    #[error("access log operator %{operator}%: the argument is wrong: it {problem}")]
    Argument {
        /// The operator's name.
        operator: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A conversion of `%START_TIME(…)%`.
    #[error("%START_TIME(…)%: {0:?} is not supported")]
    TimeFormat(String),
    /// A percent sign that begins no operator; `%%` prints one.
    #[error("access log format: no operator begins at byte {0} ({1:?}); write %% for a percent sign")]
    Syntax(usize, String),
    /// The offending key of a JSON format, and what is wrong with it.
    #[error("access log format, key {0:?}: {1}")]
    Key(String, Box<FormatError>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    Literal(Box<[u8]>),
    Value(Operator),
}

/// A JSON object's keys, escaped already, and what is printed for each.
type Entries = Box<[(Box<str>, Node)]>;

#[derive(Clone, Debug)]
enum Node {
    /// One operator alone keeps its type; anything else is text.
    Template(Box<[Op]>),
    Object(Entries),
    Array(Box<[Node]>),
    Literal(Box<str>),
}

/// A compiled format.
#[derive(Clone, Debug)]
pub struct LogFormat {
    shape: Shape,
    omit_empty: bool,
}

#[derive(Clone, Debug)]
enum Shape {
    Text(Box<[Op]>),
    Json(Entries),
}

impl LogFormat {
    /// Istio's default for `accessLogEncoding: TEXT`.
    pub fn istio_text() -> Self {
        Self::text(ISTIO_TEXT).expect("the default format has known operators only")
    }

    /// Istio's default for `accessLogEncoding: JSON`.
    pub fn istio_json() -> Self {
        let format = ISTIO_JSON.iter().map(|(key, value)| ((*key).to_owned(), Value::String((*value).to_owned()))).collect();
        Self::json(&format).expect("the default format has known operators only")
    }

    /// Compiles a text format; a line feed is appended if it has none.
    pub fn text(format: &str) -> Result<Self, FormatError> {
        let mut ops = compile(format)?;
        if !format.ends_with('\n') {
            ops.push(Op::Literal(b"\n".as_slice().into()));
        }
        Ok(Self { shape: Shape::Text(ops.into()), omit_empty: false })
    }

    /// Compiles a JSON format: texts are formats, objects and arrays may nest, other values are printed as they are.
    pub fn json(format: &serde_json::Map<String, Value>) -> Result<Self, FormatError> {
        Ok(Self { shape: Shape::Json(compile_object(format)?), omit_empty: false })
    }

    /// The names of all operators that formats may have.
    pub fn operators() -> Vec<&'static str> {
        operator::names()
    }

    /// Whether absent values are left out (JSON) or empty (text), instead of `null` and `-` (`omitEmptyValues`).
    #[must_use]
    pub fn omit_empty_values(mut self, omit: bool) -> Self {
        self.omit_empty = omit;
        self
    }

    /// Appends one line. `scratch` is a buffer to use again for each line; its content does not matter.
    pub fn write(&self, record: &LogRecord<'_>, out: &mut Vec<u8>, scratch: &mut Vec<u8>) {
        let mut writer = Writer { record, out, scratch, omit_empty: self.omit_empty };
        match &self.shape {
            Shape::Text(ops) => writer.template(ops, escape::plain),
            Shape::Json(entries) => {
                writer.object(entries);
                writer.out.push(b'\n');
            }
        }
    }
}

fn compile_object(object: &serde_json::Map<String, Value>) -> Result<Entries, FormatError> {
    let entry = |(key, value): (&String, &Value)| {
        let node = compile_node(value).map_err(|error| FormatError::Key(key.clone(), Box::new(error)))?;
        // The key is printed as it stands, so it is escaped now.
        let mut quoted = Vec::new();
        escape::json(&mut quoted, key.as_bytes());
        Ok((String::from_utf8_lossy(&quoted).into(), node))
    };
    object.iter().map(entry).collect()
}

fn compile_node(value: &Value) -> Result<Node, FormatError> {
    Ok(match value {
        Value::String(format) => Node::Template(compile(format)?.into()),
        Value::Object(object) => Node::Object(compile_object(object)?),
        Value::Array(array) => Node::Array(array.iter().map(compile_node).collect::<Result<_, _>>()?),
        Value::Null | Value::Bool(_) | Value::Number(_) => Node::Literal(value.to_string().into()),
    })
}

fn compile(format: &str) -> Result<Vec<Op>, FormatError> {
    let mut ops = Vec::new();
    let mut literal = Vec::new();
    let mut rest = format;
    while let Some(percent) = rest.find('%') {
        literal.extend_from_slice(&rest.as_bytes()[..percent]);
        let after = &rest[percent + 1..];
        if let Some(plain) = after.strip_prefix('%') {
            literal.push(b'%');
            rest = plain;
            continue;
        }
        let at = format.len() - after.len() - 1;
        let shown = || after.chars().take(16).collect();
        let (operator, remaining) = compile_operator(after)?.ok_or_else(|| FormatError::Syntax(at, shown()))?;
        if !literal.is_empty() {
            ops.push(Op::Literal(std::mem::take(&mut literal).into()));
        }
        ops.push(Op::Value(operator));
        rest = remaining;
    }
    literal.extend_from_slice(rest.as_bytes());
    if !literal.is_empty() {
        ops.push(Op::Literal(literal.into()));
    }
    Ok(ops)
}

/// Reads `NAME(ARGUMENT):LENGTH%`; none if it is not of that form.
fn compile_operator(text: &str) -> Result<Option<(Operator, &str)>, FormatError> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let name_end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(name_end);
    if name.is_empty() {
        return Ok(None);
    }
    let mut argument = None;
    if let Some(inside) = rest.strip_prefix('(') {
        let Some((found, after)) = inside.split_once(')') else { return Ok(None) };
        argument = Some(found);
        rest = after;
    }
    let mut limit = None;
    if let Some(after) = rest.strip_prefix(':') {
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let Ok(number) = after[..digits].parse() else { return Ok(None) };
        limit = Some(number);
        rest = &after[digits..];
    }
    let Some(rest) = rest.strip_prefix('%') else { return Ok(None) };
    let operator = match (name, argument) {
        ("START_TIME", Some(format)) if !format.is_empty() => operator::start_time(format)?,
        _ => Operator::compile(name, argument, limit)?,
    };
    Ok(Some((operator, rest)))
}

struct Writer<'a, 'b> {
    record: &'a LogRecord<'a>,
    out: &'b mut Vec<u8>,
    scratch: &'b mut Vec<u8>,
    omit_empty: bool,
}

impl Writer<'_, '_> {
    fn template(&mut self, ops: &[Op], escape: fn(&mut Vec<u8>, &[u8])) {
        for op in ops {
            let operator = match op {
                Op::Literal(literal) => {
                    self.out.extend_from_slice(literal);
                    continue;
                }
                Op::Value(operator) => operator,
            };
            self.scratch.clear();
            match operator.show(self.record, self.scratch) {
                Shown::Absent if self.omit_empty => {}
                Shown::Absent => self.out.push(b'-'),
                Shown::Number(number) => self.number(number),
                Shown::Text(text) => escape(self.out, text),
                Shown::Scratch => self.out.extend_from_slice(self.scratch),
            }
        }
    }

    fn number(&mut self, number: u64) {
        self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    fn object(&mut self, entries: &[(Box<str>, Node)]) {
        self.out.push(b'{');
        let mut first = true;
        for (key, node) in entries {
            let start = self.out.len();
            if !first {
                self.out.push(b',');
            }
            self.out.push(b'"');
            self.out.extend_from_slice(key.as_bytes());
            self.out.extend_from_slice(b"\":");
            if self.node(node) || !self.omit_empty {
                first = false;
            } else {
                self.out.truncate(start);
            }
        }
        self.out.push(b'}');
    }

    /// Writes a value; false if it is one that `omitEmptyValues` leaves out.
    fn node(&mut self, node: &Node) -> bool {
        match node {
            Node::Template(ops) => match &**ops {
                [Op::Value(operator)] => return self.typed(operator),
                ops => {
                    self.out.push(b'"');
                    self.json_template(ops);
                    self.out.push(b'"');
                }
            },
            Node::Object(entries) => self.object(entries),
            Node::Array(nodes) => {
                self.out.push(b'[');
                for (index, node) in nodes.iter().enumerate() {
                    if index > 0 {
                        self.out.push(b',');
                    }
                    self.node(node);
                }
                self.out.push(b']');
            }
            Node::Literal(text) => self.out.extend_from_slice(text.as_bytes()),
        }
        true
    }

    /// Literals inside a JSON text are the configuration's, and need escaping like the rest.
    fn json_template(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Literal(literal) => escape::json(self.out, literal),
                Op::Value(_) => self.template(std::slice::from_ref(op), escape::json),
            }
        }
    }

    fn typed(&mut self, operator: &Operator) -> bool {
        self.scratch.clear();
        match operator.show(self.record, self.scratch) {
            Shown::Absent => {
                self.out.extend_from_slice(b"null");
                return false;
            }
            Shown::Number(number) => self.number(number),
            Shown::Text(text) => {
                self.out.push(b'"');
                escape::json(self.out, text);
                self.out.push(b'"');
            }
            Shown::Scratch => {
                self.out.push(b'"');
                escape::json(self.out, self.scratch);
                self.out.push(b'"');
            }
        }
        true
    }
}
