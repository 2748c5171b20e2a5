//! AuthorizationPolicies as rules of Envoy's RBAC engine.

mod attribute;

use super::mesh;
use super::proxy::Proxy;
use crate::world::{Entry, World};
use lateen_model::dataplane::{Permission, Principal, Rbac, RbacAction, RbacPolicy};
use lateen_model::resource::{Action, AuthorizationPolicy, Rule};
use std::sync::Arc;

/// What the rules guard: on a TCP connection nothing of HTTP is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Requests.
    Http,
    /// Connections.
    Tcp,
}

/// What the conversion of one policy needs to know.
struct Context<'a> {
    /// The policy's namespace.
    namespace: &'a str,
    /// The trust domain and its aliases.
    trust_domains: Vec<&'a str>,
    /// What a match does.
    action: Action,
    /// What is guarded.
    layer: Layer,
}

/// The policies of a workload: those of the root namespace and of its own, with a selector that matches or with none.
/// Policies that are attached to gateways and services by `targetRefs` do not concern sidecars.
pub fn policies<'a>(world: &'a World, proxy: &Proxy) -> Vec<&'a Arc<Entry<AuthorizationPolicy>>> {
    let root = world.root_namespace();
    let mut places = vec![root];
    if *proxy.namespace != *root {
        places.push(&proxy.namespace);
    }
    let lists = places.into_iter().filter_map(|place| world.namespace(place).map(|ns| &ns.authorization_policies));
    let applies = |e: &&'a Arc<Entry<AuthorizationPolicy>>| {
        let spec = &e.resource.spec;
        let attached = spec.target_ref.is_some() || !spec.target_refs.is_empty();
        !attached && spec.selector.as_ref().is_none_or(|s| s.matches(&proxy.labels))
    };
    lists.flat_map(|list| list.iter()).filter(applies).collect()
}

/// The filters of a workload, in the order in which they decide: audit, deny, allow.
pub fn filters(world: &World, proxy: &Proxy, layer: Layer) -> Vec<Rbac> {
    let policies = policies(world, proxy);
    let filter = |action: Action, rbac_action: RbacAction| {
        let of_action: Vec<_> = policies.iter().filter(|p| effective_action(p) == action).collect();
        if of_action.is_empty() {
            return None;
        }
        let rules = of_action.iter().flat_map(|p| convert(world, p, action, layer));
        let mut policies: Vec<RbacPolicy> = rules.collect();
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        // Envoy takes the policies as a map.
        policies.dedup_by(|a, b| a.name == b.name);
        let stat_prefix = if layer == Layer::Tcp { "tcp.".to_owned() } else { String::new() };
        Some(Rbac { action: rbac_action, policies, stat_prefix })
    };
    let order = [(Action::Audit, RbacAction::Log), (Action::Deny, RbacAction::Deny), (Action::Allow, RbacAction::Allow)];
    order.into_iter().filter_map(|(action, rbac)| filter(action, rbac)).collect()
}

/// A CUSTOM policy asks an outside service, which is not supported: what it guards is closed.
fn effective_action(entry: &Entry<AuthorizationPolicy>) -> Action {
    match entry.resource.spec.action {
        Action::Custom => Action::Deny,
        action => action,
    }
}

fn convert(world: &World, entry: &Entry<AuthorizationPolicy>, action: Action, layer: Layer) -> Vec<RbacPolicy> {
    let context =
        Context { namespace: entry.namespace(), trust_domains: mesh::trust_domains(world.mesh()).collect(), action, layer };
    let rules = entry.resource.spec.rules.iter().enumerate();
    let named = |(index, rule): (usize, &Rule)| {
        let name = format!("ns[{}]-policy[{}]-rule[{index}]", entry.namespace(), entry.name());
        context.rule(rule).map(|(permissions, principals)| RbacPolicy { name, permissions, principals })
    };
    rules.filter_map(named).collect()
}

impl Context<'_> {
    /// `None`: the rule can never match here and is left out.
    ///
    /// An attribute that does not exist at the layer (a method on a TCP port) or that cannot be understood is treated so
    /// that less is let in: an ALLOW rule with it is dropped, from any other rule only the attribute is, which makes the
    /// rule match more.
    fn rule(&self, rule: &Rule) -> Option<(Vec<Permission>, Vec<Principal>)> {
        let (mut when_what, mut when_who) = (Vec::new(), Vec::new());
        for condition in &rule.when {
            match attribute::condition(self, condition) {
                Ok(attribute::Part::What(p)) => when_what.extend(p),
                Ok(attribute::Part::Who(p)) => when_who.extend(p),
                Err(attribute::Unusable) => self.unusable()?,
            }
        }
        let mut principals = Vec::new();
        for source in rule.from.iter().flatten().filter_map(|f| f.source.as_ref()) {
            let mut all = self.usable(attribute::source(self, source))?;
            all.extend(when_who.iter().cloned());
            principals.push(principal_and(all));
        }
        if principals.is_empty() {
            principals.push(principal_and(when_who));
        }
        let mut permissions = Vec::new();
        for operation in rule.to.iter().flatten().filter_map(|t| t.operation.as_ref()) {
            let mut all = self.usable(attribute::operation(self, operation))?;
            all.extend(when_what.iter().cloned());
            permissions.push(permission_and(all));
        }
        if permissions.is_empty() {
            permissions.push(permission_and(when_what));
        }
        Some((permissions, principals))
    }

    fn unusable(&self) -> Option<()> {
        (self.action != Action::Allow).then_some(())
    }

    /// The attributes that can be used; `None` if one cannot and the rule has to go.
    fn usable<T>(&self, parts: Vec<Result<T, attribute::Unusable>>) -> Option<Vec<T>> {
        let mut out = Vec::new();
        for part in parts {
            match part {
                Ok(part) => out.push(part),
                Err(attribute::Unusable) => self.unusable()?,
            }
        }
        Some(out)
    }
}

fn principal_and(mut all: Vec<Principal>) -> Principal {
    match all.len() {
        0 => Principal::Any,
        1 => all.remove(0),
        _ => Principal::And(all),
    }
}

fn permission_and(mut all: Vec<Permission>) -> Permission {
    match all.len() {
        0 => Permission::Any,
        1 => all.remove(0),
        _ => Permission::And(all),
    }
}

#[cfg(test)]
mod tests;
