//! Fields of a VirtualService that Istio implements and this version does not yet.

use super::VirtualService;
use crate::resource::{FieldIssue, Issues};

impl VirtualService {
    /// Fields that are set and not implemented.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        let mut issues = Issues::default();
        issues.field("spec", |issues| {
            issues.unsupported_if(!self.spec.tls.is_empty(), "tls");
            issues.unsupported_if(!self.spec.tcp.is_empty(), "tcp");
            issues.each("http", &self.spec.http, |issues, route| {
                issues.unsupported_if(route.delegate.is_some(), "delegate");
                issues.unsupported_if(route.fault.is_some(), "fault");
                issues.unsupported_if(route.mirror.is_some(), "mirror");
                issues.unsupported_if(!route.mirrors.is_empty(), "mirrors");
                issues.unsupported_if(route.cors_policy.is_some(), "corsPolicy");
                issues.each("match", &route.matches, |issues, condition| {
                    issues.unsupported_if(!condition.stat_prefix.is_empty(), "statPrefix");
                    for (key, map) in [("headers", &condition.headers), ("withoutHeaders", &condition.without_headers)] {
                        for name in map.keys().filter(|name| name.starts_with("@request.auth.")) {
                            issues.field(key, |issues| issues.unsupported_if(true, name));
                        }
                    }
                });
            });
        });
        issues.into_errors()
    }
}
