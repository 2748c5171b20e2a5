//! Authorization.

use super::common::{cidr, header_match, string_match};
use crate::any::{HttpRbac, NetworkRbac, OrderedRbac, PolicyEntry, any};
use crate::pb::{core, extensions::path::r#match::uri_template::v3 as uri_template, google, matcher, rbac};
use lateen_model::dataplane as m;

pub(super) fn http(value: &m::Rbac) -> google::Any {
    any(&HttpRbac { rules: Some(rules(value)), rules_stat_prefix: value.stat_prefix.clone() })
}

/// Envoy requires a prefix here; Istio's is `tcp.`. It refuses what asks for a part of a request, which a connection never
/// has: such a rule is written as one that never holds.
pub(super) fn network(value: &m::Rbac) -> google::Any {
    let value = &on_connections(value);
    let stat_prefix = if value.stat_prefix.is_empty() { "tcp.".to_owned() } else { value.stat_prefix.clone() };
    any(&NetworkRbac { rules: Some(rules(value)), stat_prefix })
}

fn on_connections(value: &m::Rbac) -> m::Rbac {
    let mut value = value.clone();
    for policy in &mut value.policies {
        policy.permissions.iter_mut().for_each(connection_permission);
        policy.principals.iter_mut().for_each(connection_principal);
    }
    value
}

fn connection_permission(value: &mut m::Permission) {
    match value {
        m::Permission::And(rules) | m::Permission::Or(rules) => rules.iter_mut().for_each(connection_permission),
        m::Permission::Not(rule) => connection_permission(rule),
        m::Permission::Header(_) | m::Permission::Path(_) | m::Permission::PathTemplate(_) => {
            *value = m::Permission::Not(Box::new(m::Permission::Any));
        }
        m::Permission::Any
        | m::Permission::DestinationIp(_)
        | m::Permission::DestinationPort(_)
        | m::Permission::RequestedServerName(_) => {}
    }
}

fn connection_principal(value: &mut m::Principal) {
    match value {
        m::Principal::And(ids) | m::Principal::Or(ids) => ids.iter_mut().for_each(connection_principal),
        m::Principal::Not(id) => connection_principal(id),
        m::Principal::Header(_) | m::Principal::Path(_) => *value = m::Principal::Not(Box::new(m::Principal::Any)),
        m::Principal::Any | m::Principal::Authenticated(_) | m::Principal::DirectRemoteIp(_) | m::Principal::RemoteIp(_) => {}
    }
}

fn rules(value: &m::Rbac) -> OrderedRbac {
    let action = match value.action {
        m::RbacAction::Allow => rbac::rbac::Action::Allow,
        m::RbacAction::Deny => rbac::rbac::Action::Deny,
        m::RbacAction::Log => rbac::rbac::Action::Log,
    };
    let policies = value.policies.iter().map(|p| PolicyEntry { key: p.name.clone(), value: Some(policy(p)) }).collect();
    OrderedRbac { action: action.into(), policies }
}

/// Envoy refuses empty lists, which in the model match nothing.
fn policy(value: &m::RbacPolicy) -> rbac::Policy {
    let mut permissions: Vec<_> = value.permissions.iter().map(permission).collect();
    if permissions.is_empty() {
        permissions.push(permission(&m::Permission::Not(Box::new(m::Permission::Any))));
    }
    let mut principals: Vec<_> = value.principals.iter().map(principal).collect();
    if principals.is_empty() {
        principals.push(principal(&m::Principal::Not(Box::new(m::Principal::Any))));
    }
    rbac::Policy { permissions, principals, ..Default::default() }
}

fn path(value: &m::StringMatch) -> matcher::PathMatcher {
    matcher::PathMatcher { rule: Some(matcher::path_matcher::Rule::Path(string_match(value))) }
}

/// Istio writes `{*}` and `{**}`, Envoy `*` and `**` (and ends with an exception that nobody catches if it is told otherwise).
fn envoy_template(istio: &str) -> String {
    istio.replace("{**}", "**").replace("{*}", "*")
}

fn permission(value: &m::Permission) -> rbac::Permission {
    use rbac::permission::{Rule, Set};
    let set = |rules: &[m::Permission]| Set { rules: rules.iter().map(permission).collect() };
    let rule = match value {
        m::Permission::Any => Rule::Any(true),
        m::Permission::And(rules) if rules.is_empty() => Rule::Any(true),
        m::Permission::Or(rules) if rules.is_empty() => Rule::NotRule(Box::new(permission(&m::Permission::Any))),
        m::Permission::And(rules) => Rule::AndRules(set(rules)),
        m::Permission::Or(rules) => Rule::OrRules(set(rules)),
        m::Permission::Not(rule) => Rule::NotRule(Box::new(permission(rule))),
        m::Permission::Header(header) => Rule::Header(header_match(header)),
        m::Permission::Path(text) => Rule::UrlPath(path(text)),
        m::Permission::PathTemplate(template) => Rule::UriTemplate(core::TypedExtensionConfig {
            name: "uri-template".to_owned(),
            typed_config: Some(any(&uri_template::UriTemplateMatchConfig { path_template: envoy_template(template) })),
        }),
        m::Permission::DestinationIp(net) => Rule::DestinationIp(cidr(net)),
        m::Permission::DestinationPort(port) => Rule::DestinationPort((*port).into()),
        m::Permission::RequestedServerName(text) => Rule::RequestedServerName(string_match(text)),
    };
    rbac::Permission { rule: Some(rule) }
}

fn principal(value: &m::Principal) -> rbac::Principal {
    use rbac::principal::{Authenticated, Identifier, Set};
    let set = |ids: &[m::Principal]| Set { ids: ids.iter().map(principal).collect() };
    let identifier = match value {
        m::Principal::Any => Identifier::Any(true),
        m::Principal::And(ids) if ids.is_empty() => Identifier::Any(true),
        m::Principal::Or(ids) if ids.is_empty() => Identifier::NotId(Box::new(principal(&m::Principal::Any))),
        m::Principal::And(ids) => Identifier::AndIds(set(ids)),
        m::Principal::Or(ids) => Identifier::OrIds(set(ids)),
        m::Principal::Not(id) => Identifier::NotId(Box::new(principal(id))),
        m::Principal::Authenticated(name) => {
            Identifier::Authenticated(Authenticated { principal_name: name.as_ref().map(string_match) })
        }
        m::Principal::DirectRemoteIp(net) => Identifier::DirectRemoteIp(cidr(net)),
        m::Principal::RemoteIp(net) => Identifier::RemoteIp(cidr(net)),
        m::Principal::Header(header) => Identifier::Header(header_match(header)),
        m::Principal::Path(text) => Identifier::UrlPath(path(text)),
    };
    rbac::Principal { identifier: Some(identifier) }
}
