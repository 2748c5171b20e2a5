//! Header values with Envoy's `%COMMAND%` operators, and the substitutions of rewritten paths: what is understood of them, so
//! that what is not is refused where it is written.

/// One piece of a header value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderValuePart {
    /// As it stands.
    Literal(String),
    /// `%DOWNSTREAM_REMOTE_ADDRESS%`, or with `_WITHOUT_PORT`.
    RemoteAddress {
        /// Whether the port is part of it.
        port: bool,
    },
    /// `%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%`, or with `_WITHOUT_PORT`.
    DirectRemoteAddress {
        /// Whether the port is part of it.
        port: bool,
    },
    /// `%DOWNSTREAM_LOCAL_ADDRESS%`, or with `_WITHOUT_PORT`.
    LocalAddress {
        /// Whether the port is part of it.
        port: bool,
    },
    /// `%PROTOCOL%`.
    Protocol,
    /// `%START_TIME%`.
    StartTime,
    /// `%UPSTREAM_HOST%`.
    UpstreamHost,
    /// `%HOSTNAME%`.
    Hostname,
    /// `%ENVIRONMENT(X)%`.
    Environment(String),
    /// `%DOWNSTREAM_PEER_URI_SAN%`.
    PeerUriSan,
    /// `%REQUESTED_SERVER_NAME%`.
    ServerName,
    /// `%RESPONSE_CODE%`.
    ResponseCode,
    /// `%REQ(NAME?ALTERNATIVE):LENGTH%`.
    Request {
        /// The header, in lower case.
        name: String,
        /// The header that stands in for it, in lower case.
        alternative: Option<String>,
        /// The most bytes that are taken.
        max: Option<usize>,
    },
}

impl HeaderValuePart {
    /// Takes a value apart; `%%` is a per cent sign.
    ///
    /// # Errors
    /// A `%` that begins no operator, or an operator that is not supported, which is named.
    pub fn parse(value: &str) -> Result<Vec<Self>, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = value;
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let end = operator_end(rest).ok_or("has a '%' that begins no command: write %% for a per cent sign")?;
            if !literal.is_empty() {
                parts.push(Self::Literal(std::mem::take(&mut literal)));
            }
            parts.push(operator(&rest[..end])?);
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Self::Literal(literal));
        }
        Ok(parts)
    }
}

/// The index of the `%` that closes an operator; one inside of parentheses does not.
fn operator_end(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'%' if depth == 0 => return Some(i),
            _ => {}
        }
    }
    None
}

fn operator(operator: &str) -> Result<HeaderValuePart, String> {
    use HeaderValuePart as Part;
    let unsupported = |why: &str| {
        let shown: String = operator.chars().take(80).collect();
        format!("%{shown}% is not supported in a header value by this version of Lateen{why}")
    };
    let Some((name, rest)) = operator.split_once('(') else {
        return match operator {
            "DOWNSTREAM_REMOTE_ADDRESS" => Ok(Part::RemoteAddress { port: true }),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Ok(Part::RemoteAddress { port: false }),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Ok(Part::DirectRemoteAddress { port: true }),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Ok(Part::DirectRemoteAddress { port: false }),
            "DOWNSTREAM_LOCAL_ADDRESS" => Ok(Part::LocalAddress { port: true }),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Ok(Part::LocalAddress { port: false }),
            "PROTOCOL" => Ok(Part::Protocol),
            "START_TIME" => Ok(Part::StartTime),
            "UPSTREAM_HOST" => Ok(Part::UpstreamHost),
            "HOSTNAME" => Ok(Part::Hostname),
            "DOWNSTREAM_PEER_URI_SAN" => Ok(Part::PeerUriSan),
            "REQUESTED_SERVER_NAME" => Ok(Part::ServerName),
            "RESPONSE_CODE" => Ok(Part::ResponseCode),
            _ => Err(unsupported("")),
        };
    };
    let (argument, after) = rest.rsplit_once(')').ok_or_else(|| unsupported(": ')' is missing"))?;
    match name {
        "REQ" => {
            let max = match after.strip_prefix(':') {
                Some(digits) => Some(digits.parse().map_err(|_| unsupported(": what follows ':' must be a length"))?),
                None if after.is_empty() => None,
                None => return Err(unsupported("")),
            };
            let (first, alternative) = match argument.split_once('?') {
                Some((first, alternative)) => (first, Some(alternative.to_ascii_lowercase())),
                None => (argument, None),
            };
            if first.is_empty() {
                return Err(unsupported(": a header name is missing"));
            }
            Ok(Part::Request { name: first.to_ascii_lowercase(), alternative, max })
        }
        "ENVIRONMENT" if after.is_empty() && !argument.is_empty() => Ok(Part::Environment(argument.to_owned())),
        _ => Err(unsupported("")),
    }
}

/// A piece of what a regular expression's match is replaced by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubstitutionPart {
    /// As it stands.
    Literal(String),
    /// What a group has matched; 0 is the whole.
    Group(usize),
}

impl SubstitutionPart {
    /// Takes a substitution in RE2's syntax apart: `\0` to `\9` are groups, `\\` is a backslash. `groups` is how many the
    /// pattern has, the whole included.
    ///
    /// # Errors
    /// A group that the pattern does not have, or a backslash before something else.
    pub fn parse(text: &str, groups: usize) -> Result<Vec<Self>, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '\\' {
                literal.push(c);
                continue;
            }
            match chars.next() {
                Some('\\') => literal.push('\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    let group = digit as usize - '0' as usize;
                    if group >= groups {
                        let has = groups.saturating_sub(1);
                        return Err(format!("\\{group} refers to a group that the pattern does not have ({has} groups)"));
                    }
                    if !literal.is_empty() {
                        parts.push(Self::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(Self::Group(group));
                }
                _ => return Err("'\\' must be followed by a digit or by another '\\'".to_owned()),
            }
        }
        if !literal.is_empty() {
            parts.push(Self::Literal(literal));
        }
        Ok(parts)
    }
}
