//! Authorization. What is not understood here is refused: a policy that is half read lets the wrong ones in.

use super::common::{cidr, header_match, path_match, port, short, string_match};
use super::cx::{Cx, Result, fields};
use crate::pb::{
    extensions::filters::http::rbac::v3 as http_rbac, extensions::filters::network::rbac::v3 as network_rbac,
    extensions::path::r#match::uri_template::v3 as uri_template, rbac,
};
use lateen_model::dataplane as m;
use prost::Name;

/// `None` is a filter that only has shadow rules.
pub(super) fn http(cx: &mut Cx, value: http_rbac::Rbac) -> Result<Option<m::Rbac>> {
    fields!(cx, value => http_rbac::Rbac {
        use: [rules, rules_stat_prefix, shadow_rules, shadow_matcher],
        refuse: [matcher],
        ignore: [shadow_rules_stat_prefix, track_per_rule_stats],
    });
    shadow(cx, shadow_rules.is_some(), shadow_matcher.is_some());
    cx.optional("rules", rules, |cx, rules| self::rules(cx, rules, rules_stat_prefix))
}

/// `None` is a filter that only has shadow rules.
pub(super) fn network(cx: &mut Cx, value: network_rbac::Rbac) -> Result<Option<m::Rbac>> {
    fields!(cx, value => network_rbac::Rbac {
        use: [rules, stat_prefix, shadow_rules, shadow_matcher],
        refuse: [matcher, enforcement_type, delay_deny],
        ignore: [shadow_rules_stat_prefix],
    });
    shadow(cx, shadow_rules.is_some(), shadow_matcher.is_some());
    cx.optional("rules", rules, |cx, rules| self::rules(cx, rules, stat_prefix))
}

fn shadow(cx: &mut Cx, rules: bool, matcher: bool) {
    if rules {
        cx.note_at("shadow_rules", "dry runs are not evaluated");
    }
    if matcher {
        cx.note_at("shadow_matcher", "dry runs are not evaluated");
    }
}

fn rules(cx: &mut Cx, value: rbac::Rbac, stat_prefix: String) -> Result<m::Rbac> {
    fields!(cx, value => rbac::Rbac { use: [action, policies], refuse: [], ignore: [audit_logging_options] });
    let action = match rbac::rbac::Action::try_from(action) {
        Ok(rbac::rbac::Action::Allow) => m::RbacAction::Allow,
        Ok(rbac::rbac::Action::Deny) => m::RbacAction::Deny,
        Ok(rbac::rbac::Action::Log) => m::RbacAction::Log,
        Err(_) => return cx.fail_at("action", "ALLOW, DENY and LOG are supported"),
    };
    // Envoy evaluates policies in order of name.
    let mut sorted: Vec<_> = policies.into_iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let policies = cx.at("policies", |cx| {
        sorted.into_iter().map(|(name, value)| cx.key(&name.clone(), |cx| policy(cx, name, value))).collect()
    })?;
    Ok(m::Rbac { action, policies, stat_prefix })
}

fn policy(cx: &mut Cx, name: String, value: rbac::Policy) -> Result<m::RbacPolicy> {
    fields!(cx, value => rbac::Policy {
        use: [permissions, principals],
        refuse: [condition, checked_condition, cel_config],
        ignore: [],
    });
    if permissions.is_empty() || principals.is_empty() {
        return cx.fail("permissions and principals must not be empty");
    }
    Ok(m::RbacPolicy {
        name,
        permissions: cx.each("permissions", permissions, permission)?,
        principals: cx.each("principals", principals, principal)?,
    })
}

fn permission(cx: &mut Cx, value: rbac::Permission) -> Result<m::Permission> {
    use rbac::permission::{Rule, Set};
    let set = |cx: &mut Cx, field, Set { rules }| {
        if rules.is_empty() {
            cx.fail_at(field, "must not be empty")
        } else {
            cx.at(field, |cx| cx.each("rules", rules, permission))
        }
    };
    let Some(rule) = value.rule else { return cx.fail("a rule is required") };
    match rule {
        Rule::Any(true) => Ok(m::Permission::Any),
        Rule::Any(false) => cx.fail_at("any", "must be true"),
        Rule::AndRules(rules) => Ok(m::Permission::And(set(cx, "and_rules", rules)?)),
        Rule::OrRules(rules) => Ok(m::Permission::Or(set(cx, "or_rules", rules)?)),
        Rule::NotRule(rule) => Ok(m::Permission::Not(Box::new(cx.at("not_rule", |cx| permission(cx, *rule))?))),
        Rule::Header(value) => Ok(m::Permission::Header(cx.at("header", |cx| header_match(cx, value))?)),
        Rule::UrlPath(value) => Ok(m::Permission::Path(cx.at("url_path", |cx| path_match(cx, value))?)),
        Rule::UriTemplate(value) => cx.at("uri_template", |cx| {
            let config = value.typed_config.unwrap_or_default();
            if config.type_url != uri_template::UriTemplateMatchConfig::type_url() {
                return cx.fail_at("typed_config", format!("{:?} is not supported", short(&config.type_url)));
            }
            let template: uri_template::UriTemplateMatchConfig = cx.message(&config.value)?;
            Ok(m::Permission::PathTemplate(path_template(cx, &template.path_template)?))
        }),
        Rule::DestinationIp(value) => Ok(m::Permission::DestinationIp(cx.at("destination_ip", |cx| cidr(cx, value))?)),
        Rule::DestinationPort(value) => Ok(m::Permission::DestinationPort(cx.at("destination_port", |cx| port(cx, value))?)),
        Rule::RequestedServerName(value) => {
            Ok(m::Permission::RequestedServerName(cx.at("requested_server_name", |cx| string_match(cx, value))?))
        }
        Rule::DestinationPortRange(_) => cx.fail_at("destination_port_range", "is not supported"),
        Rule::Metadata(_) => cx.fail_at("metadata", "is not supported"),
        Rule::SourcedMetadata(_) => cx.fail_at("sourced_metadata", "is not supported"),
        Rule::Matcher(_) => cx.fail_at("matcher", "is not supported"),
    }
}

/// A template in Istio's form, with `{*}` for one segment and `{**}` for any number of them, which only ends a template.
fn path_template(cx: &Cx, envoy: &str) -> Result<String> {
    let segments: Vec<&str> = envoy.split('/').collect();
    let mut istio = Vec::with_capacity(segments.len());
    for (i, segment) in segments.iter().enumerate() {
        istio.push(match *segment {
            "*" => "{*}",
            "**" if i + 1 == segments.len() => "{**}",
            literal if !literal.contains(['*', '{', '}']) => literal,
            _ => {
                let supported = "segments, * for one of them and ** for the rest are supported";
                return cx.fail_at("path_template", format!("{:?}: {supported}", short(envoy)));
            }
        });
    }
    Ok(istio.join("/"))
}

fn principal(cx: &mut Cx, value: rbac::Principal) -> Result<m::Principal> {
    use rbac::principal::{Identifier, Set};
    let set = |cx: &mut Cx, field, Set { ids }| {
        if ids.is_empty() { cx.fail_at(field, "must not be empty") } else { cx.at(field, |cx| cx.each("ids", ids, principal)) }
    };
    let Some(identifier) = value.identifier else { return cx.fail("an identifier is required") };
    match identifier {
        Identifier::Any(true) => Ok(m::Principal::Any),
        Identifier::Any(false) => cx.fail_at("any", "must be true"),
        Identifier::AndIds(ids) => Ok(m::Principal::And(set(cx, "and_ids", ids)?)),
        Identifier::OrIds(ids) => Ok(m::Principal::Or(set(cx, "or_ids", ids)?)),
        Identifier::NotId(id) => Ok(m::Principal::Not(Box::new(cx.at("not_id", |cx| principal(cx, *id))?))),
        Identifier::Authenticated(value) => {
            let name = cx.at("authenticated", |cx| cx.optional("principal_name", value.principal_name, string_match))?;
            Ok(m::Principal::Authenticated(name))
        }
        Identifier::DirectRemoteIp(value) => Ok(m::Principal::DirectRemoteIp(cx.at("direct_remote_ip", |cx| cidr(cx, value))?)),
        Identifier::RemoteIp(value) => Ok(m::Principal::RemoteIp(cx.at("remote_ip", |cx| cidr(cx, value))?)),
        Identifier::Header(value) => Ok(m::Principal::Header(cx.at("header", |cx| header_match(cx, value))?)),
        Identifier::UrlPath(value) => Ok(m::Principal::Path(cx.at("url_path", |cx| path_match(cx, value))?)),
        Identifier::SourceIp(_) => cx.fail_at("source_ip", "is not supported; direct_remote_ip and remote_ip are"),
        Identifier::Metadata(_) => cx.fail_at("metadata", "is not supported"),
        Identifier::SourcedMetadata(_) => cx.fail_at("sourced_metadata", "is not supported"),
        Identifier::FilterState(_) => cx.fail_at("filter_state", "is not supported; authenticated is"),
        Identifier::Custom(_) => cx.fail_at("custom", "is not supported"),
    }
}
