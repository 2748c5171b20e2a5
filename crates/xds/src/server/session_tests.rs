//! Every row of the protocol's state machine.

use super::change::{Change, Names};
use super::session::{Limits, Protocol, Response, Session, Violation};
use super::watch::SyncState;
use crate::proto::{DeltaDiscoveryRequest, DiscoveryRequest, Status};
use crate::test_world::{Shared, client};
use crate::{Generation, ResourceType};
use ResourceType::{Cds, Eds, Lds, Rds};
use std::sync::Arc;

fn session(world: &Shared, protocol: Protocol) -> Session {
    Session::new(Arc::new(client(protocol)), Box::new(world.clone()), Limits { names_per_type: 4, name_length: 16 }, 7)
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn sotw(ty: ResourceType, nonce: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: ty.type_url().to_owned(),
        response_nonce: nonce.to_owned(),
        resource_names: strings(names),
        ..Default::default()
    }
}

fn delta(ty: ResourceType, nonce: &str, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ty.type_url().to_owned(),
        response_nonce: nonce.to_owned(),
        resource_names_subscribe: strings(subscribe),
        resource_names_unsubscribe: strings(unsubscribe),
        ..Default::default()
    }
}

fn with_error(mut request: DeltaDiscoveryRequest, reason: &str) -> DeltaDiscoveryRequest {
    request.error_detail = Some(Status { code: 3, message: reason.to_owned(), details: Vec::new() });
    request
}

/// Names of the resources and of what is removed.
fn summary(response: &Response) -> (ResourceType, Vec<&str>, Vec<&str>) {
    (response.ty, response.resources.iter().map(|r| &**r.name()).collect(), response.removed.iter().map(|n| &**n).collect())
}

/// The next response, which there must be.
fn next(session: &mut Session) -> Response {
    session.next_response().expect("a response")
}

fn state(session: &Session, ty: ResourceType) -> SyncState {
    session.status().find(|(t, _)| *t == ty).expect("a watch").1.state
}

#[test]
fn sotw_init_ack_and_nothing_more() {
    let world = Shared::with(&[(Cds, "a"), (Cds, "b")]);
    let mut s = session(&world, Protocol::Sotw);
    s.on_request(&sotw(Cds, "", &[])).unwrap();
    assert_eq!(state(&s, Cds), SyncState::NotSent);
    let response = next(&mut s);
    assert_eq!(summary(&response), (Cds, vec!["a", "b"], vec![]));
    assert_eq!(state(&s, Cds), SyncState::Stale);
    assert_eq!(s.acked_generation(), Generation(0));
    s.on_request(&sotw(Cds, &response.nonce, &[])).unwrap();
    assert_eq!(s.next_response(), None);
    assert_eq!(state(&s, Cds), SyncState::Synced);
    assert_eq!(s.acked_generation(), Generation(1));
}

#[test]
fn sotw_first_request_with_a_nonce_of_another_stream_is_an_init() {
    let world = Shared::with(&[(Cds, "a")]);
    let mut s = session(&world, Protocol::Sotw);
    s.on_request(&sotw(Cds, "of-another-stream", &[])).unwrap();
    assert_eq!(summary(&next(&mut s)), (Cds, vec!["a"], vec![]));
}

#[test]
fn sotw_empty_nonce_again_is_a_reconnect() {
    let world = Shared::with(&[(Eds, "a")]);
    let mut s = session(&world, Protocol::Sotw);
    s.on_request(&sotw(Eds, "", &["a"])).unwrap();
    next(&mut s);
    s.on_request(&sotw(Eds, "", &["a"])).unwrap();
    assert_eq!(summary(&next(&mut s)), (Eds, vec!["a"], vec![]));
}

#[test]
fn sotw_stale_nonce_is_ignored() {
    let world = Shared::with(&[(Eds, "a"), (Eds, "b")]);
    let mut s = session(&world, Protocol::Sotw);
    s.on_request(&sotw(Eds, "", &["a"])).unwrap();
    next(&mut s);
    s.on_request(&sotw(Eds, "stale", &["a", "b"])).unwrap();
    assert_eq!(s.next_response(), None);
    assert_eq!(s.expired_nonces(), 1);
    assert_eq!(state(&s, Eds), SyncState::Stale);
}

#[test]
fn sotw_ack_with_more_names_answers_only_those() {
    let world = Shared::with(&[(Eds, "a"), (Eds, "b")]);
    let mut s = session(&world, Protocol::Sotw);
    s.on_request(&sotw(Eds, "", &["a"])).unwrap();
    let first = next(&mut s);
    world.asked();
    s.on_request(&sotw(Eds, &first.nonce, &["a", "b"])).unwrap();
    let second = next(&mut s);
    assert_eq!(summary(&second), (Eds, vec!["b"], vec![]));
    assert_eq!(world.asked(), [(Eds, Some(strings(&["b"])))]);
    s.on_request(&sotw(Eds, &second.nonce, &["b"])).unwrap();
    assert_eq!(s.next_response(), None, "a pure removal has no response");
    s.on_change(&world.change(&[(Eds, "a", Some(2))]));
    assert_eq!(s.next_response(), None, "what is not watched any more is not sent");
}

#[test]
fn sotw_no_names_ends_the_watch() {
    let world = Shared::with(&[(Rds, "80")]);
    let mut s = session(&world, Protocol::Sotw);
    s.on_request(&sotw(Rds, "", &["80"])).unwrap();
    let response = next(&mut s);
    s.on_request(&sotw(Rds, &response.nonce, &[])).unwrap();
    assert_eq!(s.next_response(), None);
    assert_eq!(s.status().count(), 0);

    s.on_request(&sotw(Rds, "", &["80"])).unwrap();
    s.on_request(&sotw(Rds, "", &[])).unwrap();
    assert_eq!(s.next_response(), None, "also before the first response");
    assert_eq!(s.status().count(), 0);
}

#[test]
fn sotw_nack_is_noted_and_not_answered() {
    let world = Shared::with(&[(Cds, "a")]);
    let mut s = session(&world, Protocol::Sotw);
    s.on_request(&sotw(Cds, "", &[])).unwrap();
    let response = next(&mut s);
    let mut nack = sotw(Cds, &response.nonce, &[]);
    nack.error_detail = Some(Status { code: 3, message: "bad".to_owned(), details: Vec::new() });
    s.on_request(&nack).unwrap();
    assert_eq!(s.next_response(), None);
    assert_eq!(state(&s, Cds), SyncState::Nack("bad".to_owned()));
    assert_eq!(s.acked_generation(), Generation(0));
    s.on_change(&world.change(&[(Cds, "a", Some(2))]));
    let better = next(&mut s);
    assert_eq!(summary(&better), (Cds, vec!["a"], vec![]));
    s.on_request(&sotw(Cds, &better.nonce, &[])).unwrap();
    assert_eq!(state(&s, Cds), SyncState::Synced);
    assert_eq!(s.acked_generation(), Generation(2));
}

#[test]
fn sotw_clusters_are_sent_whole_and_endpoints_alone() {
    let world = Shared::with(&[(Cds, "a"), (Cds, "b"), (Eds, "a"), (Eds, "b")]);
    let mut s = session(&world, Protocol::Sotw);
    s.on_request(&sotw(Cds, "", &[])).unwrap();
    let clusters = next(&mut s);
    s.on_request(&sotw(Cds, &clusters.nonce, &[])).unwrap();
    s.on_request(&sotw(Eds, "", &["a", "b"])).unwrap();
    let endpoints = next(&mut s);
    s.on_request(&sotw(Eds, &endpoints.nonce, &["a", "b"])).unwrap();
    s.on_change(&world.change(&[(Eds, "b", Some(2))]));
    let changed = next(&mut s);
    assert_eq!(summary(&changed), (Eds, vec!["b"], vec![]));
    s.on_request(&sotw(Eds, &changed.nonce, &["a", "b"])).unwrap();
    s.on_change(&world.change(&[(Cds, "a", None)]));
    assert_eq!(summary(&next(&mut s)), (Cds, vec!["b"], vec![]), "what is missing is gone");
}

#[test]
fn endpoints_follow_a_changed_cluster_in_both_forms() {
    for protocol in [Protocol::Sotw, Protocol::Delta] {
        let world = Shared::with(&[(Cds, "a"), (Cds, "b"), (Eds, "a"), (Eds, "b")]);
        let mut s = session(&world, protocol);
        let request = |s: &mut Session, ty, nonce: &str, names: &[&str]| match protocol {
            Protocol::Sotw => s.on_request(&sotw(ty, nonce, names)).unwrap(),
            Protocol::Delta => s.on_delta_request(&delta(ty, nonce, if nonce.is_empty() { names } else { &[] }, &[])).unwrap(),
        };
        request(&mut s, Cds, "", &[]);
        let clusters = next(&mut s);
        request(&mut s, Cds, &clusters.nonce, &[]);
        request(&mut s, Eds, "", &["a", "b"]);
        let endpoints = next(&mut s);
        request(&mut s, Eds, &endpoints.nonce, &["a", "b"]);
        s.on_change(&world.change(&[(Cds, "a", Some(2))]));
        assert_eq!(next(&mut s).ty, Cds);
        assert_eq!(summary(&next(&mut s)), (Eds, vec!["a"], vec![]), "{protocol:?}: unchanged endpoints of a changed cluster");
        assert_eq!(s.next_response(), None);
    }
}

#[test]
fn sotw_names_replace_a_wildcard() {
    let world = Shared::with(&[(Lds, "a"), (Lds, "b")]);
    let mut s = session(&world, Protocol::Sotw);
    s.on_request(&sotw(Lds, "", &["a"])).unwrap();
    let first = next(&mut s);
    assert_eq!(summary(&first), (Lds, vec!["a"], vec![]));
    s.on_request(&sotw(Lds, &first.nonce, &["a", "b"])).unwrap();
    let second = next(&mut s);
    assert_eq!(summary(&second), (Lds, vec!["a", "b"], vec![]), "listeners are sent whole");
    s.on_request(&sotw(Lds, &second.nonce, &["*"])).unwrap();
    assert_eq!(s.next_response(), None, "it has all of them");
}

#[test]
fn delta_init_of_nothing_is_answered() {
    let world = Shared::with(&[]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Lds, "", &[], &[])).unwrap();
    assert_eq!(summary(&next(&mut s)), (Lds, vec![], vec![]), "Envoy waits for it");
}

#[test]
fn delta_sends_what_changed_and_what_is_gone() {
    let world = Shared::with(&[(Cds, "a"), (Cds, "b")]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Cds, "", &["*"], &[])).unwrap();
    let all = next(&mut s);
    assert_eq!(summary(&all), (Cds, vec!["a", "b"], vec![]));
    s.on_delta_request(&delta(Cds, &all.nonce, &[], &[])).unwrap();
    world.asked();
    s.on_change(&world.change(&[(Cds, "a", None), (Cds, "c", Some(1))]));
    let changed = next(&mut s);
    assert_eq!(summary(&changed), (Cds, vec!["c"], vec!["a"]));
    assert_eq!(world.asked(), [(Cds, Some(strings(&["a", "c"])))], "only what may differ is made");
}

#[test]
fn delta_change_without_effect_is_not_sent_and_counts_as_acked() {
    let world = Shared::with(&[(Cds, "a")]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Cds, "", &[], &[])).unwrap();
    let all = next(&mut s);
    s.on_delta_request(&delta(Cds, &all.nonce, &[], &[])).unwrap();
    s.on_change(&world.change(&[(Cds, "a", Some(1))]));
    assert_eq!(s.next_response(), None);
    assert_eq!(s.acked_generation(), Generation(2));
    s.on_change(&world.change(&[(Eds, "not watched", Some(1))]));
    assert!(!s.has_work());
    assert_eq!(s.acked_generation(), Generation(3));
}

#[test]
fn delta_one_response_at_a_time_and_changes_coalesce() {
    let world = Shared::with(&[(Eds, "a"), (Eds, "b")]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Eds, "", &["a", "b"], &[])).unwrap();
    let first = next(&mut s);
    s.on_change(&world.change(&[(Eds, "a", Some(2))]));
    s.on_change(&world.change(&[(Eds, "a", Some(3))]));
    s.on_change(&world.change(&[(Eds, "b", Some(1))]));
    assert_eq!(s.next_response(), None, "the first is not acknowledged yet");
    s.on_delta_request(&delta(Eds, &first.nonce, &[], &[])).unwrap();
    let second = next(&mut s);
    assert_eq!(summary(&second), (Eds, vec!["a"], vec![]), "once, and without what stayed the same");
    assert_eq!(second.generation, Generation(4));
    assert_eq!(s.acked_generation(), Generation(1));
    s.on_delta_request(&delta(Eds, &second.nonce, &[], &[])).unwrap();
    assert_eq!(s.acked_generation(), Generation(4));
}

#[test]
fn delta_types_do_not_wait_for_each_other_and_keep_their_order() {
    let world = Shared::with(&[(Cds, "a"), (Eds, "a"), (Lds, "l"), (Rds, "r")]);
    let mut s = session(&world, Protocol::Delta);
    for (ty, names) in [(Rds, &["r"][..]), (Lds, &[]), (Eds, &["a"]), (Cds, &[])] {
        s.on_delta_request(&delta(ty, "", names, &[])).unwrap();
    }
    let order: Vec<_> = std::iter::from_fn(|| s.next_response()).map(|r| r.ty).collect();
    assert_eq!(order, [Cds, Eds, Lds, Rds]);
}

#[test]
fn what_the_client_asks_for_comes_before_what_the_world_pushes() {
    let world = Shared::with(&[(Cds, "a"), (Rds, "r")]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Cds, "", &[], &[])).unwrap();
    let all = next(&mut s);
    s.on_delta_request(&delta(Cds, &all.nonce, &[], &[])).unwrap();
    s.on_change(&world.change(&[(Cds, "a", Some(2))]));
    s.on_delta_request(&delta(Rds, "", &["r"], &[])).unwrap();
    assert_eq!(next(&mut s).ty, Rds);
    assert_eq!(next(&mut s).ty, Cds);
}

#[test]
fn delta_reconnect_resends_nothing_that_is_known() {
    let world = Shared::with(&[(Cds, "a"), (Cds, "b"), (Eds, "a")]);
    let mut request = delta(Cds, "", &[], &[]);
    for (name, version) in [("a", world.version(Cds, "a")), ("b", "of Istio".to_owned()), ("gone", "x".to_owned())] {
        request.initial_resource_versions.insert(name.to_owned(), version);
    }
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&request).unwrap();
    assert_eq!(summary(&next(&mut s)), (Cds, vec!["b"], vec!["gone"]));

    let mut s = session(&world, Protocol::Delta);
    request.initial_resource_versions =
        [("a", "a"), ("b", "b")].map(|(name, of)| (name.to_owned(), world.version(Cds, of))).into();
    s.on_delta_request(&request).unwrap();
    assert_eq!(s.next_response(), None);
    assert_eq!(state(&s, Cds), SyncState::Synced);
    assert_eq!(s.acked_generation(), Generation(1));

    // The names of known resources are subscribed even where the list does not repeat them.
    let mut request = delta(Eds, "", &[], &[]);
    request.initial_resource_versions.insert("a".to_owned(), world.version(Eds, "a"));
    s.on_delta_request(&request).unwrap();
    assert_eq!(s.next_response(), None);
    s.on_change(&world.change(&[(Eds, "a", Some(9))]));
    assert_eq!(summary(&next(&mut s)), (Eds, vec!["a"], vec![]));
}

#[test]
fn delta_spontaneous_subscription_answers_only_new_names() {
    let world = Shared::with(&[(Eds, "a"), (Eds, "b")]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Eds, "", &["a"], &[])).unwrap();
    let first = next(&mut s);
    s.on_delta_request(&delta(Eds, "", &["b"], &[])).unwrap();
    assert_eq!(s.next_response(), None, "the first is not acknowledged yet");
    world.asked();
    s.on_delta_request(&delta(Eds, &first.nonce, &[], &[])).unwrap();
    assert_eq!(summary(&next(&mut s)), (Eds, vec!["b"], vec![]));
    assert_eq!(world.asked(), [(Eds, Some(strings(&["b"])))]);
}

#[test]
fn delta_subscribing_again_sends_again() {
    let world = Shared::with(&[(Eds, "a")]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Eds, "", &["a"], &[])).unwrap();
    let first = next(&mut s);
    s.on_delta_request(&delta(Eds, &first.nonce, &[], &[])).unwrap();
    s.on_delta_request(&delta(Eds, "", &[], &["a"])).unwrap();
    assert_eq!(s.next_response(), None, "an end of a subscription has no response");
    s.on_delta_request(&delta(Eds, "", &["a"], &[])).unwrap();
    assert_eq!(summary(&next(&mut s)), (Eds, vec!["a"], vec![]));
}

#[test]
fn delta_subscriptions_hold_with_stale_nonces_and_nacks() {
    let world = Shared::with(&[(Eds, "a"), (Eds, "b"), (Eds, "c")]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Eds, "", &["a"], &[])).unwrap();
    let first = next(&mut s);
    s.on_delta_request(&delta(Eds, "stale", &["b"], &[])).unwrap();
    assert_eq!(s.expired_nonces(), 1);
    assert_eq!(s.next_response(), None, "the stale nonce has acknowledged nothing");
    s.on_delta_request(&with_error(delta(Eds, &first.nonce, &["c"], &[]), "bad")).unwrap();
    assert_eq!(summary(&next(&mut s)), (Eds, vec!["b", "c"], vec![]));
}

#[test]
fn delta_nack_stands_until_the_very_resource_is_accepted_or_gone() {
    let world = Shared::with(&[(Cds, "a"), (Cds, "b")]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Cds, "", &[], &[])).unwrap();
    let all = next(&mut s);
    s.on_delta_request(&delta(Cds, &all.nonce, &[], &[])).unwrap();
    s.on_change(&world.change(&[(Cds, "a", Some(2))]));
    let bad = next(&mut s);
    s.on_delta_request(&with_error(delta(Cds, &bad.nonce, &[], &[]), "a is bad")).unwrap();
    assert_eq!(state(&s, Cds), SyncState::Nack("a is bad".to_owned()));
    assert_eq!(s.next_response(), None);

    s.on_change(&world.change(&[(Cds, "b", Some(2))]));
    let other = next(&mut s);
    assert_eq!(summary(&other), (Cds, vec!["b"], vec![]), "what was refused is not sent again until it changes");
    s.on_delta_request(&delta(Cds, &other.nonce, &[], &[])).unwrap();
    assert_eq!(state(&s, Cds), SyncState::Nack("a is bad".to_owned()), "the client still lacks a");
    assert_eq!(s.acked_generation(), Generation(1));

    s.on_change(&world.change(&[(Cds, "a", Some(1))]));
    let back = next(&mut s);
    assert_eq!(summary(&back), (Cds, vec!["a"], vec![]), "a return to the version before is a change, too");
    s.on_delta_request(&delta(Cds, &back.nonce, &[], &[])).unwrap();
    assert_eq!(state(&s, Cds), SyncState::Synced);
    assert_eq!(s.acked_generation(), Generation(4));
}

#[test]
fn delta_removal_of_a_refused_resource_clears_the_nack() {
    let world = Shared::with(&[(Cds, "a"), (Cds, "b")]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Cds, "", &[], &[])).unwrap();
    let all = next(&mut s);
    s.on_delta_request(&with_error(delta(Cds, &all.nonce, &[], &[]), "bad")).unwrap();
    s.on_change(&world.change(&[(Cds, "a", None), (Cds, "b", None)]));
    let gone = next(&mut s);
    assert_eq!(summary(&gone), (Cds, vec![], vec!["a", "b"]));
    s.on_delta_request(&delta(Cds, &gone.nonce, &[], &[])).unwrap();
    assert_eq!(state(&s, Cds), SyncState::Synced);
}

#[test]
fn the_end_of_a_subscription_clears_the_nack() {
    for protocol in [Protocol::Sotw, Protocol::Delta] {
        let world = Shared::with(&[(Eds, "a"), (Eds, "b")]);
        let mut s = session(&world, protocol);
        let error = Some(Status { code: 3, message: "a is bad".to_owned(), details: Vec::new() });
        match protocol {
            Protocol::Sotw => {
                s.on_request(&sotw(Eds, "", &["a", "b"])).unwrap();
                let nonce = next(&mut s).nonce;
                s.on_request(&DiscoveryRequest { error_detail: error, ..sotw(Eds, &nonce, &["a", "b"]) }).unwrap();
                s.on_request(&sotw(Eds, &nonce, &["b"])).unwrap();
            }
            Protocol::Delta => {
                s.on_delta_request(&delta(Eds, "", &["a", "b"], &[])).unwrap();
                let nonce = next(&mut s).nonce;
                s.on_delta_request(&DeltaDiscoveryRequest { error_detail: error, ..delta(Eds, &nonce, &[], &[]) }).unwrap();
                s.on_delta_request(&delta(Eds, "", &[], &["a"])).unwrap();
            }
        }
        assert_eq!(s.next_response(), None);
        assert_eq!(state(&s, Eds), SyncState::Synced, "{protocol:?}");
        assert_eq!(s.acked_generation(), Generation(1), "{protocol:?}");
    }
}

#[test]
fn delta_names_beside_a_wildcard() {
    let world = Shared::with(&[(Cds, "a"), (Cds, "b")]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Cds, "", &["*", "a"], &[])).unwrap();
    let all = next(&mut s);
    assert_eq!(summary(&all), (Cds, vec!["a", "b"], vec![]));
    s.on_delta_request(&delta(Cds, &all.nonce, &[], &["a"])).unwrap();
    let again = next(&mut s);
    assert_eq!(summary(&again), (Cds, vec!["a"], vec![]), "the wildcard covers it, and the client has dropped it");
    s.on_delta_request(&delta(Cds, &again.nonce, &["b"], &["*"])).unwrap();
    let b = next(&mut s);
    assert_eq!(summary(&b), (Cds, vec!["b"], vec![]));
    s.on_delta_request(&delta(Cds, &b.nonce, &[], &[])).unwrap();
    s.on_change(&world.change(&[(Cds, "a", Some(2)), (Cds, "b", Some(2))]));
    assert_eq!(summary(&next(&mut s)), (Cds, vec!["b"], vec![]), "without the wildcard, only names count");
}

#[test]
fn delta_subscription_to_nothing() {
    let world = Shared::with(&[(Cds, "a")]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Cds, "", &["*"], &["*"])).unwrap();
    assert_eq!(s.next_response(), None);
    s.on_change(&world.change(&[(Cds, "a", Some(2))]));
    assert_eq!(s.next_response(), None);
}

#[test]
fn delta_names_that_do_not_exist() {
    let world = Shared::with(&[]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Cds, "", &["a"], &[])).unwrap();
    let told = next(&mut s);
    assert_eq!(summary(&told), (Cds, vec![], vec!["a"]), "a cluster that was asked for and is not there");
    s.on_delta_request(&delta(Cds, &told.nonce, &[], &[])).unwrap();
    s.on_change(&Change::new(Generation(2)).with(Cds, &Names::All));
    assert_eq!(s.next_response(), None, "it is told once");
    s.on_delta_request(&delta(Eds, "", &["a"], &[])).unwrap();
    assert_eq!(s.next_response(), None, "endpoints go with their cluster");
    s.on_change(&world.change(&[(Eds, "a", Some(1))]));
    assert_eq!(summary(&next(&mut s)), (Eds, vec!["a"], vec![]));
}

#[test]
fn requests_that_end_the_stream() {
    let world = Shared::with(&[]);
    let long = "x".repeat(17);
    for (ty, names, expected) in [
        (Eds, vec!["*"], Violation::Wildcard(Eds)),
        (Eds, vec!["a", "b", "c", "d", "e"], Violation::TooManyNames(Eds, 4)),
        (Cds, vec![long.as_str()], Violation::NameTooLong(Cds, 16)),
    ] {
        let mut s = session(&world, Protocol::Delta);
        assert_eq!(s.on_delta_request(&delta(ty, "", &names, &[])), Err(expected.clone()));
        assert_eq!(session(&world, Protocol::Sotw).on_request(&sotw(ty, "", &names)), Err(expected));
    }
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&delta(Eds, "", &["a", "b", "c"], &[])).unwrap();
    assert_eq!(s.on_delta_request(&delta(Eds, "", &["d", "e"], &[])), Err(Violation::TooManyNames(Eds, 4)));
}

#[test]
fn a_type_that_is_not_known_is_not_answered() {
    let world = Shared::with(&[]);
    let mut s = session(&world, Protocol::Delta);
    s.on_delta_request(&DeltaDiscoveryRequest { type_url: "type.googleapis.com/x.Y".to_owned(), ..Default::default() }).unwrap();
    assert!(!s.has_work());
    assert_eq!(s.status().count(), 0);
}
