//! Authorization.

use super::common::{header_match, name, net, string_match};
use lateen_model::dataplane::{Permission, Principal, Rbac, RbacAction, RbacPolicy};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::{Just, Strategy, any, prop_oneof};

fn permission() -> impl Strategy<Value = Permission> {
    let leaf = prop_oneof![
        Just(Permission::Any),
        header_match().prop_map(Permission::Header),
        string_match().prop_map(Permission::Path),
        "/[a-z{}*/]{0,10}".prop_map(Permission::PathTemplate),
        net().prop_map(Permission::DestinationIp),
        any::<u16>().prop_map(Permission::DestinationPort),
        string_match().prop_map(Permission::RequestedServerName),
    ];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Permission::And),
            vec(inner.clone(), 1..3).prop_map(Permission::Or),
            inner.prop_map(|p| Permission::Not(Box::new(p))),
        ]
    })
}

fn principal() -> impl Strategy<Value = Principal> {
    let leaf = prop_oneof![
        Just(Principal::Any),
        of(string_match()).prop_map(Principal::Authenticated),
        net().prop_map(Principal::DirectRemoteIp),
        net().prop_map(Principal::RemoteIp),
        header_match().prop_map(Principal::Header),
        string_match().prop_map(Principal::Path),
    ];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Principal::And),
            vec(inner.clone(), 1..3).prop_map(Principal::Or),
            inner.prop_map(|p| Principal::Not(Box::new(p))),
        ]
    })
}

/// Any authorization filter, on HTTP or on TCP.
pub fn rbac() -> impl Strategy<Value = Rbac> {
    let action = prop_oneof![Just(RbacAction::Allow), Just(RbacAction::Deny), Just(RbacAction::Log)];
    let policies =
        btree_map("ns\\[[a-z]\\]-policy\\[[a-z]\\]-rule\\[[0-9]\\]", (vec(permission(), 1..3), vec(principal(), 1..3)), 0..3);
    (action, policies, name()).prop_map(|(action, policies, stat_prefix)| Rbac {
        action,
        policies: policies
            .into_iter()
            .map(|(name, (permissions, principals))| RbacPolicy { name, permissions, principals })
            .collect(),
        stat_prefix,
    })
}
