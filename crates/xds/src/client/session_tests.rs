//! What the client says, and when.

use super::session::{Request, Session, Update};
use crate::proto::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Node, Resource};
use crate::server::Protocol;
use crate::{ResourceType, Version};
use ResourceType::{Cds, Eds, Nds, Rds};
use bytes::Bytes;
use prost::Message;

fn session(protocol: Protocol) -> Session {
    let mut session = Session::new(protocol, Node { id: "me".to_owned(), ..Node::default() });
    session.on_connect();
    session
}

fn delta(session: &mut Session) -> Option<DeltaDiscoveryRequest> {
    match session.next_request()? {
        Request::Delta(request) => Some(*request),
        Request::Sotw(request) => panic!("{request:?}"),
    }
}

fn sotw(session: &mut Session) -> Option<DiscoveryRequest> {
    match session.next_request()? {
        Request::Sotw(request) => Some(*request),
        Request::Delta(request) => panic!("{request:?}"),
    }
}

fn delta_response(ty: ResourceType, nonce: &str, resources: &[(&str, &str)], removed: &[&str]) -> DeltaDiscoveryResponse {
    let resource = |(name, version): &(&str, &str)| Resource {
        name: (*name).to_owned(),
        version: (*version).to_owned(),
        resource: Some(Any::default()),
        aliases: Vec::new(),
    };
    DeltaDiscoveryResponse {
        system_version_info: "world".to_owned(),
        resources: resources.iter().map(resource).collect(),
        type_url: ty.type_url().to_owned(),
        nonce: nonce.to_owned(),
        removed_resources: removed.iter().map(|n| (*n).to_owned()).collect(),
        control_plane: None,
    }
}

/// Resources whose messages have their name in field 1, as Envoy's have.
fn sotw_response(ty: ResourceType, nonce: &str, names: &[&str]) -> DiscoveryResponse {
    #[derive(Clone, PartialEq, Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    let any = |name: &&str| Any {
        type_url: ty.type_url().to_owned(),
        value: Named { name: (*name).to_owned() }.encode_to_vec().into(),
    };
    DiscoveryResponse {
        version_info: format!("v-{nonce}"),
        resources: names.iter().map(any).collect(),
        type_url: ty.type_url().to_owned(),
        nonce: nonce.to_owned(),
        control_plane: None,
    }
}

fn names(update: &Update) -> (Vec<&str>, Vec<&str>) {
    (update.added.iter().map(|a| a.name.as_str()).collect(), update.removed.iter().map(String::as_str).collect())
}

#[test]
fn delta_first_requests() {
    let mut s = session(Protocol::Delta);
    assert_eq!(s.next_request(), None, "it subscribes to nothing");
    s.subscribe(Eds, ["b", "a"]);
    s.subscribe_all(Cds);
    let cds = delta(&mut s).unwrap();
    assert_eq!(cds.type_url, Cds.type_url());
    assert!(cds.resource_names_subscribe.is_empty());
    assert_eq!(cds.node.unwrap().id, "me");
    let eds = delta(&mut s).unwrap();
    assert_eq!(eds.resource_names_subscribe, ["a", "b"]);
    assert_eq!(eds.node, None, "the node is sent once");
    assert_eq!(s.next_request(), None);
}

#[test]
fn delta_answers_and_versions_after_a_reconnect() {
    let mut s = session(Protocol::Delta);
    s.subscribe_all(Cds);
    delta(&mut s);
    let update = s.on_delta_response(delta_response(Cds, "1", &[("a", "v1"), ("b", "v1")], &[])).unwrap();
    assert_eq!(names(&update), (vec!["a", "b"], vec![]));
    assert_eq!(s.next_request(), None, "an update is answered when the application has answered");
    s.ack(&update.id);
    s.ack(&update.id);
    let ack = delta(&mut s).unwrap();
    assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("1", None));
    assert_eq!(s.next_request(), None, "once");

    let update = s.on_delta_response(delta_response(Cds, "2", &[("a", "v2"), ("c", "v1")], &["b"])).unwrap();
    s.nack(&update.id, "bad");
    let nack = delta(&mut s).unwrap();
    assert_eq!((nack.response_nonce.as_str(), nack.error_detail.unwrap().message.as_str()), ("2", "bad"));

    s.on_disconnect();
    assert_eq!(s.next_request(), None);
    s.on_connect();
    let first = delta(&mut s).unwrap();
    let versions = [("a", "v1"), ("b", "v1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(first.initial_resource_versions, versions.into());
    assert_eq!(first.node.unwrap().id, "me", "each connection begins with the node");
    assert_eq!(first.response_nonce, "");
}

#[test]
fn delta_part_of_an_update_is_refused() {
    let mut s = session(Protocol::Delta);
    s.subscribe_all(Cds);
    delta(&mut s);
    let update = s.on_delta_response(delta_response(Cds, "1", &[("a", "1"), ("b", "1")], &[])).unwrap();
    s.nack_partly(&update.id, &["b".to_owned()], "b is bad");
    assert_eq!(s.accepted(Cds).keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(delta(&mut s).unwrap().error_detail.unwrap().message, "b is bad");
}

#[test]
fn delta_an_answer_that_comes_after_a_reconnect_is_kept_but_not_sent() {
    let mut s = session(Protocol::Delta);
    s.subscribe_all(Cds);
    delta(&mut s);
    let update = s.on_delta_response(delta_response(Cds, "1", &[("a", "v1")], &[])).unwrap();
    s.on_disconnect();
    s.on_connect();
    let first = delta(&mut s).unwrap();
    let unanswered = [("a".to_owned(), String::new())];
    assert_eq!(first.initial_resource_versions, unanswered.into(), "it may be accepted yet: the server says what holds");
    s.ack(&update.id);
    assert_eq!(s.accepted(Cds).len(), 1);
    assert_eq!(s.next_request(), None, "the nonce belongs to the other connection");
}

#[test]
fn delta_subscriptions_change_in_requests_of_their_own() {
    let mut s = session(Protocol::Delta);
    s.subscribe(Eds, ["a"]);
    delta(&mut s);
    let update = s.on_delta_response(delta_response(Eds, "1", &[("a", "1"), ("other", "1")], &[])).unwrap();
    assert_eq!(names(&update), (vec!["a"], vec![]), "what is not subscribed is not delivered");
    s.subscribe(Eds, ["b", "c"]);
    s.unsubscribe(Eds, ["a", "c", "never"]);
    s.ack(&update.id);
    let ack = delta(&mut s).unwrap();
    assert_eq!((ack.response_nonce.as_str(), ack.resource_names_subscribe.len()), ("1", 0));
    let end = delta(&mut s).unwrap();
    assert_eq!((end.response_nonce.as_str(), end.resource_names_subscribe.len()), ("", 0));
    assert_eq!(end.resource_names_unsubscribe, ["a"], "c came and went unseen");
    let begin = delta(&mut s).unwrap();
    assert_eq!((begin.resource_names_subscribe, begin.resource_names_unsubscribe.len()), (vec!["b".to_owned()], 0));
    assert_eq!(s.next_request(), None);
    assert!(s.accepted(Eds).is_empty(), "what is not subscribed is not had");
}

#[test]
fn sotw_acks_nacks_and_removals() {
    let mut s = session(Protocol::Sotw);
    s.subscribe_all(Cds);
    let first = sotw(&mut s).unwrap();
    assert_eq!((first.version_info.as_str(), first.response_nonce.as_str()), ("", ""));
    let update = s.on_response(sotw_response(Cds, "1", &["a", "b"])).unwrap();
    assert_eq!(names(&update), (vec!["a", "b"], vec![]));
    assert_eq!(update.added[0].version, Version::of(&update.added[0].body).to_string());
    s.ack(&update.id);
    let ack = sotw(&mut s).unwrap();
    assert_eq!((ack.version_info.as_str(), ack.response_nonce.as_str()), ("v-1", "1"));

    let update = s.on_response(sotw_response(Cds, "2", &["b", "c"])).unwrap();
    assert_eq!(names(&update), (vec!["b", "c"], vec!["a"]), "what is missing is gone");
    s.nack(&update.id, "bad");
    let nack = sotw(&mut s).unwrap();
    assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("v-1", "2"), "the version stays");
    assert_eq!(nack.error_detail.unwrap().message, "bad");

    s.on_disconnect();
    s.on_connect();
    let again = sotw(&mut s).unwrap();
    assert_eq!((again.version_info.as_str(), again.response_nonce.as_str()), ("v-1", ""));
}

#[test]
fn sotw_names_wait_for_the_answer() {
    let mut s = session(Protocol::Sotw);
    s.subscribe(Rds, ["80"]);
    sotw(&mut s);
    let update = s.on_response(sotw_response(Rds, "1", &["80"])).unwrap();
    s.subscribe(Rds, ["90"]);
    assert_eq!(s.next_request(), None, "a request with this nonce would accept the update");
    s.ack(&update.id);
    let ack = sotw(&mut s).unwrap();
    assert_eq!(ack.resource_names, ["80", "90"]);
    assert_eq!(s.next_request(), None);

    let update = s.on_response(sotw_response(Rds, "2", &["90"])).unwrap();
    s.subscribe(Rds, ["100"]);
    s.nack(&update.id, "bad");
    assert!(sotw(&mut s).unwrap().error_detail.is_some());
    let names = sotw(&mut s).unwrap();
    assert_eq!((names.error_detail, names.resource_names), (None, vec!["100".to_owned(), "80".to_owned(), "90".to_owned()]));
    assert_eq!(names.response_nonce, "2");

    s.unsubscribe(Rds, ["80", "90", "100"]);
    let end = sotw(&mut s).unwrap();
    assert_eq!((end.resource_names.len(), end.response_nonce.as_str()), (0, "2"));
    assert_eq!(s.on_response(sotw_response(Rds, "3", &["90"])), None);
    let end = sotw(&mut s).unwrap();
    assert_eq!((end.resource_names.len(), end.response_nonce.as_str()), (0, "3"), "it has crossed the end, which has expired");
    s.subscribe(Rds, ["80"]);
    assert_eq!(sotw(&mut s).unwrap().response_nonce, "", "a new subscription begins anew");
}

#[test]
fn a_subscription_that_ends_and_begins_again_is_told_as_both() {
    let mut s = session(Protocol::Delta);
    s.subscribe(Eds, ["a", "b"]);
    delta(&mut s);
    s.unsubscribe(Eds, ["a"]);
    let update = s.on_delta_response(delta_response(Eds, "1", &[("a", "1"), ("b", "1")], &[])).unwrap();
    assert_eq!(names(&update).0, ["b"], "a has come, and is lost");
    s.subscribe(Eds, ["a"]);
    assert_eq!(delta(&mut s).unwrap().resource_names_unsubscribe, ["a"]);
    assert_eq!(delta(&mut s).unwrap().resource_names_subscribe, ["a"]);
    assert_eq!(s.next_request(), None);

    let mut s = session(Protocol::Sotw);
    s.subscribe(Eds, ["a", "b"]);
    sotw(&mut s);
    let update = s.on_response(sotw_response(Eds, "1", &["b"])).unwrap();
    s.unsubscribe(Eds, ["a"]);
    s.subscribe(Eds, ["a"]);
    let again = sotw(&mut s).unwrap();
    assert_eq!((again.response_nonce.as_str(), again.resource_names), ("", vec!["a".to_owned(), "b".to_owned()]), "all anew");
    s.ack(&update.id);
    assert_eq!(sotw(&mut s).unwrap().response_nonce, "1");
    assert_eq!(s.next_request(), None);
}

#[test]
fn sotw_a_response_of_several_types_of_wrapping() {
    let mut s = session(Protocol::Sotw);
    s.subscribe_all(Cds);
    s.subscribe_all(Nds);
    sotw(&mut s);
    sotw(&mut s);
    let inner = Any { type_url: Cds.type_url().to_owned(), value: Bytes::from_static(b"\x0a\x01x") };
    let wrapped = Resource { name: "wrapped".to_owned(), resource: Some(inner.clone()), ..Resource::default() };
    let mut response = sotw_response(Cds, "1", &["plain"]);
    response.resources.push(Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned(),
        value: wrapped.encode_to_vec().into(),
    });
    let update = s.on_response(response).unwrap();
    assert_eq!(names(&update).0, ["plain", "wrapped"]);
    assert_eq!(update.added[1].body, inner.value);
    let update = s.on_response(sotw_response(Nds, "1", &["host"])).unwrap();
    assert_eq!(names(&update).0, [""], "the table of names has no name");
}

#[test]
fn what_is_not_subscribed_is_not_delivered() {
    let mut s = session(Protocol::Delta);
    assert_eq!(s.on_delta_response(delta_response(Cds, "1", &[("a", "1")], &[])), None);
    let unknown = DeltaDiscoveryResponse { type_url: "type.googleapis.com/x.Y".to_owned(), ..Default::default() };
    assert_eq!(s.on_delta_response(unknown), None);
}
