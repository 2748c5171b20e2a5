//! Authorization.

use super::common::{header_match, name, net, string_match};
use lateen_model::dataplane::{Permission, Principal, Rbac, RbacAction, RbacPolicy};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::{Just, Strategy, any, prop_oneof};

/// What a connection has, and with `http` what only a request has.
fn permission(http: bool) -> impl Strategy<Value = Permission> {
    let connection = prop_oneof![
        Just(Permission::Any),
        net().prop_map(Permission::DestinationIp),
        any::<u16>().prop_map(Permission::DestinationPort),
        string_match().prop_map(Permission::RequestedServerName),
    ];
    let request = prop_oneof![
        header_match().prop_map(Permission::Header),
        string_match().prop_map(Permission::Path),
        "(/([a-z]{1,3}|\\{\\*\\})){1,3}(/\\{\\*\\*\\})?".prop_map(Permission::PathTemplate),
    ];
    let leaf = prop_oneof![1 => connection, u32::from(http) => request];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Permission::And),
            vec(inner.clone(), 1..3).prop_map(Permission::Or),
            inner.prop_map(|p| Permission::Not(Box::new(p))),
        ]
    })
}

fn principal(http: bool) -> impl Strategy<Value = Principal> {
    let connection = prop_oneof![
        Just(Principal::Any),
        of(string_match()).prop_map(Principal::Authenticated),
        net().prop_map(Principal::DirectRemoteIp),
        net().prop_map(Principal::RemoteIp),
    ];
    let request = prop_oneof![header_match().prop_map(Principal::Header), string_match().prop_map(Principal::Path)];
    let leaf = prop_oneof![1 => connection, u32::from(http) => request];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Principal::And),
            vec(inner.clone(), 1..3).prop_map(Principal::Or),
            inner.prop_map(|p| Principal::Not(Box::new(p))),
        ]
    })
}

fn filter(http: bool) -> impl Strategy<Value = Rbac> {
    let action = prop_oneof![Just(RbacAction::Allow), Just(RbacAction::Deny), Just(RbacAction::Log)];
    let name_of = "ns\\[[a-z]\\]-policy\\[[a-z]\\]-rule\\[[0-9]\\]";
    let policies = btree_map(name_of, (vec(permission(http), 1..3), vec(principal(http), 1..3)), 0..3);
    (action, policies, name()).prop_map(|(action, policies, stat_prefix)| Rbac {
        action,
        policies: policies
            .into_iter()
            .map(|(name, (permissions, principals))| RbacPolicy { name, permissions, principals })
            .collect(),
        stat_prefix,
    })
}

/// Any authorization filter on HTTP.
pub fn http_rbac() -> impl Strategy<Value = Rbac> {
    filter(true)
}

/// Any authorization filter on TCP, which asks for nothing that only a request has.
pub fn network_rbac() -> impl Strategy<Value = Rbac> {
    filter(false)
}
