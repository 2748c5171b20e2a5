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
    /// It asks so from an origin that is not allowed: answered 200 without permission.
    RefusePreflight,
}

/// Judges a request.
pub fn judge<'r, R: RequestView>(rules: &Cors, request: &'r R) -> Verdict<'r> {
    let Some(origin) = request.header_text("origin").filter(|origin| !origin.is_empty()) else { return Verdict::Forward };
    let preflight = request.method() == "OPTIONS" && request.header("access-control-request-method").any(|v| !v.is_empty());
    let allowed = rules.origins.iter().any(|pattern| pattern.matches(origin));
    match (allowed, preflight) {
        (true, true) => Verdict::AnswerPreflight(origin),
        (true, false) => Verdict::Allow(origin),
        (false, true) if !rules.forward_unmatched_preflights => Verdict::RefusePreflight,
        (false, _) => Verdict::Forward,
    }
}

/// Headers of the answer to a preflight; the answer is a response too, and gets [`response_headers`] beside.
pub fn preflight_headers<'a>(rules: &'a Cors, origin: &'a str) -> impl Iterator<Item = (&'static str, &'a str)> {
    permission(rules, origin).chain(said([
        ("access-control-allow-methods", rules.allow_methods.as_str()),
        ("access-control-allow-headers", rules.allow_headers.as_str()),
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
        ] {
            assert_eq!(verdict(rules, method, &headers), expected, "{method} {headers:?}");
        }
    }

    #[test]
    fn only_what_is_said_is_sent() {
        let preflight: Vec<_> = preflight_headers(&rules(), "o").map(|(name, value)| format!("{name}: {value}")).collect();
        let expected = ["allow-origin: o", "allow-credentials: true", "allow-methods: GET,POST", "max-age: 60"]
            .map(|h| format!("access-control-{h}"));
        assert_eq!(preflight, expected);
        let plain = Cors { allow_credentials: false, ..rules() };
        let response: Vec<_> = response_headers(&plain, "o").map(|(name, _)| name).collect();
        assert_eq!(response, ["access-control-allow-origin", "access-control-expose-headers"]);
    }
}
