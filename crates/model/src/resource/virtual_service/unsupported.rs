//! Fields of a VirtualService that Istio implements and this version does not yet.

use super::{FaultInjection, HttpMatchRequest, HttpRoute, VirtualService};
use crate::resource::{FieldIssue, Issues};

impl VirtualService {
    /// Fields that are set and not implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| {
            issues.each("http", &self.spec.http, route);
        });
        issues.into_errors()
    }
}

fn route(issues: &mut Issues, route: &HttpRoute) {
    issues.optional("fault", route.fault.as_ref(), fault);
    issues.each("match", &route.matches, condition);
    issues.optional("redirect", route.redirect.as_ref(), |issues, redirect| {
        // Istio takes any 3xx and makes a route of it that does nothing.
        if let Some(code) = redirect.redirect_code.filter(|code| !matches!(code, 0 | 301 | 302 | 303 | 307 | 308)) {
            issues.error_at("redirectCode", format!("{code} is not supported: 301, 302, 303, 307 and 308 are"));
        }
    });
    issues.optional("directResponse", route.direct_response.as_ref(), |issues, response| {
        if response.status == 600 {
            issues.error_at("status", "600 is not supported: 200 to 599 are");
        }
    });
}

/// Istio takes both kinds and does nothing.
fn fault(issues: &mut Issues, fault: &FaultInjection) {
    issues.optional("delay", fault.delay.as_ref(), |issues, delay| {
        issues.unsupported_if(delay.exponential_delay.is_some(), "exponentialDelay");
    });
    issues.optional("abort", fault.abort.as_ref(), |issues, abort| {
        issues.unsupported_if(abort.http2_error.is_some(), "http2Error");
        if abort.http_status == Some(600) {
            issues.error_at("httpStatus", "600 is not supported: 200 to 599 are");
        }
    });
}

fn condition(issues: &mut Issues, condition: &HttpMatchRequest) {
    issues.unsupported_if(!condition.stat_prefix.is_empty(), "statPrefix");
    for (key, map) in [("headers", &condition.headers), ("withoutHeaders", &condition.without_headers)] {
        for name in map.keys().filter(|name| name.starts_with("@request.auth.")) {
            issues.field(key, |issues| issues.unsupported_if(true, name));
        }
    }
}
