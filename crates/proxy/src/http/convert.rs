//! Heads to and from the types of the `h2` crate.

use super::head::{Head, Scheme, Version};
use super::name::{KnownHeader, Value};
use super::target::parse_length;
use crate::http1::{HeadError, Limits};
use ::http::uri::{Authority, PathAndQuery};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, request, response};

/// What HTTP/2 says by other means, or not at all (RFC 9113 §8.2.2).
fn is_of_http1(known: KnownHeader) -> bool {
    matches!(
        known,
        KnownHeader::Connection
            | KnownHeader::KeepAlive
            | KnownHeader::ProxyConnection
            | KnownHeader::TransferEncoding
            | KnownHeader::Upgrade
            | KnownHeader::Http2Settings
            | KnownHeader::Host
    )
}

/// A head of a request that came over HTTP/2. The authority becomes the one `host` header; a `host` beside `:authority` is
/// dropped, as Envoy does.
///
/// # Errors
/// If HTTP/1 could not carry the same request: such a request is refused, never sent on differently.
pub(crate) fn request_from_h2(parts: &request::Parts, limits: Limits) -> Result<Head, HeadError> {
    let mut head = Head::new();
    head.set_version(Version::Http2);
    head.set_method(parts.method.as_str()).map_err(|_| HeadError::Malformed("an invalid :method"))?;
    let authority = match parts.uri.authority() {
        Some(authority) => Some(authority.as_str().as_bytes()),
        None => single(&parts.headers, &::http::header::HOST)?,
    };
    let authority = authority.and_then(|a| std::str::from_utf8(a).ok()).ok_or(HeadError::Malformed("no :authority"))?;
    head.set_authority(authority).map_err(|_| HeadError::Malformed("an invalid :authority"))?;
    if parts.method != Method::CONNECT || parts.extensions.get::<h2::ext::Protocol>().is_some() {
        let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        if path.is_empty() || (path == "*" && parts.method != Method::OPTIONS) {
            return Err(HeadError::Malformed("an invalid :path"));
        }
        head.set_path_and_query(path).map_err(|_| HeadError::Malformed("an invalid :path"))?;
    }
    head.set_scheme(parts.uri.scheme_str().and_then(|s| Scheme::parse(s.as_bytes())));
    fill(&mut head, &parts.headers, limits)?;
    Ok(head)
}

/// A head of a response that came over HTTP/2.
///
/// # Errors
/// If HTTP/1 could not carry the same response.
pub(crate) fn response_from_h2(parts: &response::Parts, limits: Limits) -> Result<Head, HeadError> {
    let mut head = Head::new();
    head.set_version(Version::Http2);
    head.set_status(parts.status.as_u16()).map_err(|_| HeadError::Malformed("an invalid :status"))?;
    fill(&mut head, &parts.headers, limits)?;
    Ok(head)
}

/// Trailers that came over HTTP/2, without those that must not be trailers.
pub(crate) fn headers_from_h2(headers: &HeaderMap) -> Head {
    let mut head = Head::new();
    head.set_version(Version::Http2);
    for (name, value) in headers {
        if !KnownHeader::of(name.as_str().as_bytes()).is_forbidden_in_trailers() {
            head.append(name, Value::from(value));
        }
    }
    head
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h [u8]>, HeadError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first.map(HeaderValue::as_bytes)),
        _ => Err(HeadError::Malformed("more than one host header")),
    }
}

fn fill(head: &mut Head, headers: &HeaderMap, limits: Limits) -> Result<(), HeadError> {
    if headers.len() > limits.max_headers {
        return Err(HeadError::TooLarge);
    }
    let mut cookies = 0;
    for (name, value) in headers {
        match KnownHeader::of(name.as_str().as_bytes()) {
            known if is_of_http1(known) => {}
            KnownHeader::Cookie => cookies += 1,
            KnownHeader::Te if value.as_bytes() != b"trailers" => {}
            KnownHeader::ContentLength => {
                let length = parse_length(value.as_bytes()).ok_or(HeadError::Malformed("an invalid content-length"))?;
                if head.content_length().is_some_and(|other| other != length) {
                    return Err(HeadError::Malformed("more than one content-length"));
                }
                head.set_number(KnownHeader::ContentLength, length);
            }
            _ => head.append(name, Value::from(value)),
        }
    }
    // A cookie may come in crumbs, one for each pair, which HTTP/1 must get as one (RFC 9113 §8.2.3).
    if cookies > 0 {
        let crumbs: Vec<&[u8]> = headers.get_all(::http::header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        let joined = crumbs.join(&b"; "[..]);
        let value = Value::new(&joined).map_err(|_| HeadError::Malformed("an invalid cookie"))?;
        head.append(KnownHeader::Cookie, value);
    }
    Ok(())
}

/// A request for the `h2` crate. `:scheme` is the head's, or else `scheme`.
///
/// # Errors
/// If HTTP/2 cannot carry it: without an authority, or with characters in the path that the `http` crate refuses.
pub(crate) fn request_to_h2(head: &Head, scheme: Scheme) -> Result<Request<()>, &'static str> {
    let method = Method::from_bytes(head.method().as_bytes()).map_err(|_| "an invalid method")?;
    let authority = head.authority().ok_or("HTTP/2 needs an authority")?;
    let mut uri = ::http::uri::Parts::default();
    uri.authority = Some(Authority::try_from(authority).map_err(|_| "an authority that HTTP/2 cannot carry")?);
    if !head.is_connect() {
        let path = PathAndQuery::try_from(head.path_and_query()).map_err(|_| "a path that HTTP/2 cannot carry")?;
        uri.path_and_query = Some(path);
        uri.scheme = Some(match head.scheme().unwrap_or(scheme) {
            Scheme::Http => ::http::uri::Scheme::HTTP,
            Scheme::Https => ::http::uri::Scheme::HTTPS,
        });
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| "a target that HTTP/2 cannot carry")?;
    *request.headers_mut() = headers_to_h2(head);
    Ok(request)
}

/// A response for the `h2` crate.
///
/// # Errors
/// If the head has no status.
pub(crate) fn response_to_h2(head: &Head) -> Result<Response<()>, &'static str> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status()).map_err(|_| "a response without a status")?;
    *response.headers_mut() = headers_to_h2(head);
    Ok(response)
}

/// Headers or trailers for the `h2` crate, without those of an HTTP/1 hop.
pub(crate) fn headers_to_h2(head: &Head) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(head.len());
    for (name, value) in head.iter().filter(|(name, _)| !is_of_http1(name.known())) {
        // Both were checked by the same rules when they entered the head.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
}
