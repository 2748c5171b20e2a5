//! Cross-origin rules (the Fetch standard, section "CORS protocol"), as Envoy's filter applies them.

use crate::RequestView;
use lateen_model::dataplane::Cors;

/// What is to be done with a request under cross-origin rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It goes on; its response says nothing of origins (it comes from no origin, or from one that is not allowed, which the
    /// browser then keeps from reading it).
    Forward,
    /// It goes on; its response gets [`response_headers`] for this origin.
    Allow(&'a str),
    /// It asks whether a request would be allowed: answered 200 with [`preflight_headers`] for this origin.
    AnswerPreflight(&'a str),
    /// It asks so from an origin that is not allowed: answered 200 with [`preflight_headers`] for no origin, which is no permission.
    RefusePreflight,
}

/// Judges a request.
pub fn judge<'r, R: RequestView>(rules: &Cors, request: &'r R) -> Verdict<'r> {
    let Some(origin) = request.header_text("origin").filter(|origin| !origin.is_empty()) else { return Verdict::Forward };
    let preflight = request.method() == "OPTIONS" && request.header("access-control-request-method").any(|v| !v.is_empty());
    // A pattern that a star matches is for everybody.
    let allowed = rules.origins.iter().any(|pattern| pattern.matches("*") || pattern.matches(origin));
    match (allowed, preflight) {
        (true, true) => Verdict::AnswerPreflight(origin),
        (true, false) => Verdict::Allow(origin),
        (false, true) if !rules.forward_unmatched_preflights => Verdict::RefusePreflight,
        (false, _) => Verdict::Forward,
    }
}

/// Headers of the answer to a preflight; the answer is a response too, and gets [`response_headers`] beside. Where everything is
/// allowed, what is asked for is.
pub fn preflight_headers<'a, R: RequestView>(
    rules: &'a Cors,
    origin: Option<&'a str>,
    request: &'a R,
) -> impl Iterator<Item = (&'static str, &'a str)> {
    let asked = |allowed: &'a str, header: &str| match allowed {
        "*" => request.header_text(header).unwrap_or_default(),
        list => list,
    };
    permission(rules, origin.unwrap_or_default()).chain(said([
        ("access-control-allow-methods", asked(&rules.allow_methods, "access-control-request-method")),
        ("access-control-allow-headers", asked(&rules.allow_headers, "access-control-request-headers")),
        ("access-control-max-age", rules.max_age.as_str()),
    ]))
}

/// Headers of a response.
pub fn response_headers<'a>(rules: &'a Cors, origin: &'a str) -> impl Iterator<Item = (&'static str, &'a str)> {
    permission(rules, origin).chain(said([("access-control-expose-headers", rules.expose_headers.as_str())]))
}

fn permission<'a>(rules: &Cors, origin: &'a str) -> impl Iterator<Item = (&'static str, &'a str)> {
    let credentials = if rules.allow_credentials { "true" } else { "" };
    said([("access-control-allow-origin", origin), ("access-control-allow-credentials", credentials)])
}

/// Those that have a value.
fn said<'a, const N: usize>(headers: [(&'static str, &'a str); N]) -> impl Iterator<Item = (&'static str, &'a str)> {
    headers.into_iter().filter(|(_, value)| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::Request;
    use lateen_model::dataplane::StringMatch;

    fn rules() -> Cors {
        Cors {
            origins: vec![StringMatch::exact("https://a.example"), StringMatch::prefix("https://b.")],
            allow_methods: "GET,POST".into(),
            expose_headers: "x-e".into(),
            max_age: "60".into(),
            allow_credentials: true,
            forward_unmatched_preflights: true,
            ..Cors::default()
        }
    }

    fn verdict(rules: &Cors, method: &str, headers: &[(&str, &str)]) -> String {
        let request = Request { method: method.into(), ..Request::get("a", "/") };
        let request = headers.iter().fold(request, |r, (name, value)| r.with(name, value));
        format!("{:?}", judge(rules, &request))
    }

    #[test]
    fn who_is_allowed_what() {
        let asks = ("access-control-request-method", "POST");
        let from = |origin| ("origin", origin);
        let anybody = Cors { origins: vec![StringMatch::exact("*")], ..rules() };
        let strict = Cors { forward_unmatched_preflights: false, ..rules() };
        for (rules, method, headers, expected) in [
            (&rules(), "GET", vec![], "Forward"),
            (&rules(), "GET", vec![from("")], "Forward"),
            (&rules(), "GET", vec![from("https://a.example")], "Allow(\"https://a.example\")"),
            (&rules(), "GET", vec![from("https://b.c")], "Allow(\"https://b.c\")"),
            (&rules(), "GET", vec![from("https://A.example")], "Forward"),
            (&rules(), "OPTIONS", vec![from("https://a.example")], "Allow(\"https://a.example\")"),
            (&rules(), "OPTIONS", vec![from("https://a.example"), asks], "AnswerPreflight(\"https://a.example\")"),
            (&rules(), "POST", vec![from("https://a.example"), asks], "Allow(\"https://a.example\")"),
            (&rules(), "OPTIONS", vec![from("https://evil"), asks], "Forward"),
            (&strict, "OPTIONS", vec![from("https://evil"), asks], "RefusePreflight"),
            (&strict, "GET", vec![from("https://evil"), asks], "Forward"),
            (&strict, "OPTIONS", vec![asks], "Forward"),
            (&anybody, "GET", vec![from("https://any")], "Allow(\"https://any\")"),
        ] {
            assert_eq!(verdict(rules, method, &headers), expected, "{method} {headers:?}");
        }
    }

    #[test]
    fn only_what_is_said_is_sent() {
        let shown = |rules: &Cors, origin| {
            let request = Request::get("a", "/")
                .with("access-control-request-method", "PATCH")
                .with("access-control-request-headers", "x-a, x-b");
            preflight_headers(rules, origin, &request).map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
        };
        let preflight = shown(&rules(), Some("o"));
        let expected = ["allow-origin: o", "allow-credentials: true", "allow-methods: GET,POST", "max-age: 60"]
            .map(|h| format!("access-control-{h}"));
        assert_eq!(preflight, expected);
        assert_eq!(shown(&rules(), None), expected[1..], "no origin, no permission");
        let anything = Cors { allow_methods: "*".into(), allow_headers: "*".into(), ..Cors::default() };
        let expected =
            ["allow-origin: o", "allow-methods: PATCH", "allow-headers: x-a, x-b"].map(|h| format!("access-control-{h}"));
        assert_eq!(shown(&anything, Some("o")), expected);
        let plain = Cors { allow_credentials: false, ..rules() };
        let response: Vec<_> = response_headers(&plain, "o").map(|(name, _)| name).collect();
        assert_eq!(response, ["access-control-allow-origin", "access-control-expose-headers"]);
    }
}
