//! The gRPC shell, client and server, over loopback.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use lateen_model::identity::SpiffeId;
use lateen_xds::ResourceType::{Cds, Eds};
use lateen_xds::client::{self, Handle, Update, Updates};
use lateen_xds::proto::{DeltaDiscoveryRequest, DiscoveryRequest};
use lateen_xds::server::{Peer, Protocol, SyncState};
use lateen_xds::{Generation, Node, NodeType};
use std::time::Duration;
use support::{Identities, Resources, Server, within};
use tonic::Code;

fn node() -> Node {
    let mut node = Node::new(NodeType::Sidecar, "10.0.0.1".parse().unwrap(), "pod", "ns", "ns.svc.cluster.local");
    node.metadata.insert("SERVICE_ACCOUNT".to_owned(), "account".into());
    node
}

fn connect(server: &Server, protocol: Protocol) -> (Handle, Updates) {
    let options = client::Options { protocol, back_off: Duration::from_millis(5), ..client::Options::default() };
    let (handle, updates, run) = client::run(&node(), server.endpoint(), options);
    tokio::spawn(run);
    (handle, updates)
}

async fn next(updates: &mut Updates) -> Update {
    within(updates.recv()).await.expect("the client runs")
}

fn names(update: &Update) -> Vec<&str> {
    update.added.iter().map(|a| a.name.as_str()).collect()
}

/// Waits until every client has accepted a generation.
async fn settled(server: &Server, generation: u64) {
    within(async {
        while server.connections.acked_generation() != Some(Generation(generation)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_update_reaches_the_client_and_its_answer_the_server() {
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let resources = Resources::new();
        resources.put(Cds, "a", b"\x0a\x01a");
        let server = Server::start(&resources, Identities::None).await;
        let (handle, mut updates) = connect(&server, protocol);
        handle.subscribe_all(Cds);
        let first = next(&mut updates).await;
        assert_eq!(names(&first), ["a"]);
        assert_eq!(&first.added[0].body[..], b"\x0a\x01a");
        handle.ack(first.id);
        settled(&server, 1).await;
        let connection = server.connections.list().pop().unwrap();
        assert_eq!(connection.client().node.name, "pod");
        assert_eq!(connection.client().protocol, protocol);
        let (ty, status) = connection.status().types.remove(0);
        assert_eq!((ty, status.state), (Cds, SyncState::Synced));

        server.change(&resources, Cds, "b", b"\x0a\x01b");
        let second = next(&mut updates).await;
        assert!(names(&second).contains(&"b"));
        handle.nack(second.id, "b is bad");
        within(async {
            while server.connections.list()[0].status().types[0].1.state != SyncState::Nack("b is bad".to_owned()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(server.connections.acked_generation(), Some(Generation(1)));
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_is_made_again_and_nothing_is_sent_twice() {
    let resources = Resources::new();
    resources.put(Cds, "a", b"1");
    let server = Server::start(&resources, Identities::None).await;
    let (handle, mut updates) = connect(&server, Protocol::Delta);
    handle.subscribe_all(Cds);
    let first = next(&mut updates).await;
    handle.ack(first.id);
    settled(&server, 1).await;
    let mut state = handle.state();
    state.borrow_and_update();
    server.connections.list()[0].close("try the other one");
    within(state.wait_for(|state| state.connected && state.connections == 2)).await.unwrap();
    assert!(state.borrow().last_error.as_deref().is_some_and(|error| error.contains("try the other one")), "{state:?}");
    // What comes next is the change, not what the client has.
    server.change(&resources, Cds, "b", b"2");
    assert_eq!(names(&next(&mut updates).await), ["b"]);
}

#[tokio::test]
async fn a_client_outlives_its_server() {
    let resources = Resources::new();
    resources.put(Cds, "a", b"1");
    let mut server = Server::start(&resources, Identities::None).await;
    let (handle, mut updates) = connect(&server, Protocol::Delta);
    handle.subscribe_all(Cds);
    handle.ack(next(&mut updates).await.id);
    let mut state = handle.state();
    server.stop().await;
    within(state.wait_for(|state| !state.connected)).await.unwrap();
    resources.put(Cds, "a", b"2");
    server.start_again().await;
    let update = next(&mut updates).await;
    assert_eq!(&update.added[0].body[..], b"2");
    assert!(state.borrow().connected);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let resources = Resources::new();
    // More than what the buffers of a connection hold.
    for i in 0..64 {
        resources.put(Cds, &format!("c{i}"), &vec![0; 256 << 10]);
    }
    let server = Server::start(&resources, Identities::None).await;
    let channel = server.channel().await;
    let mut slow = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let request = DeltaDiscoveryRequest {
        node: Some(node().to_proto()),
        type_url: Cds.type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(request).await.unwrap();
    let unread = slow.delta_aggregated_resources(tokio_stream::wrappers::ReceiverStream::new(receiver)).await.unwrap();
    let (handle, mut updates) = connect(&server, Protocol::Delta);
    handle.subscribe(Eds, ["e"]);
    server.change(&resources, Eds, "e", b"1");
    let update = next(&mut updates).await;
    assert_eq!(names(&update), ["e"]);
    handle.ack(update.id);
    drop(unread);
}

/// The status of a stream that begins with this request.
async fn refusal(server: &Server, request: DiscoveryRequest) -> tonic::Status {
    let mut client = AggregatedDiscoveryServiceClient::new(server.channel().await);
    let answer =
        within(async { client.stream_aggregated_resources(tokio_stream::once(request)).await?.into_inner().message().await });
    answer.await.expect_err("a refusal")
}

#[tokio::test]
async fn streams_that_are_refused() {
    let request = |node: Option<Node>| DiscoveryRequest {
        node: node.map(|n| n.to_proto()),
        type_url: Cds.type_url().to_owned(),
        ..DiscoveryRequest::default()
    };
    let peer = |uri: &str| Identities::Proven(Peer { identities: vec![SpiffeId::parse(uri).unwrap()], address: None });
    let resources = Resources::new();

    let open = Server::start(&resources, Identities::None).await;
    assert_eq!(refusal(&open, request(None)).await.code(), Code::InvalidArgument);
    assert_eq!(refusal(&open, request(None)).await.message(), "missing node information");
    let mut nameless = node();
    nameless.id = "sidecar~10.0.0.1~pod~domain".to_owned();
    assert_eq!(refusal(&open, request(Some(nameless))).await.code(), Code::InvalidArgument);
    let big = DiscoveryRequest { resource_names: vec!["x".repeat(5 << 20)], ..request(Some(node())) };
    assert_eq!(refusal(&open, big).await.code(), Code::OutOfRange);
    let star =
        DiscoveryRequest { type_url: Eds.type_url().to_owned(), resource_names: vec!["*".to_owned()], ..request(Some(node())) };
    assert_eq!(refusal(&open, star).await.code(), Code::InvalidArgument);
    resources.set_ready(false);
    assert_eq!(refusal(&open, request(Some(node()))).await.code(), Code::Unavailable);
    resources.set_ready(true);

    let unproven = Server::start(&resources, Identities::Unproven).await;
    assert_eq!(refusal(&unproven, request(Some(node()))).await.code(), Code::Unauthenticated);
    for other in ["spiffe://td/ns/other/sa/account", "spiffe://td/ns/ns/sa/other"] {
        let server = Server::start(&resources, peer(other)).await;
        let status = refusal(&server, request(Some(node()))).await;
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains(other), "{status}");
    }

    let proven = Server::start(&resources, peer("spiffe://td/ns/ns/sa/account")).await;
    let (handle, mut updates) = connect(&proven, Protocol::Sotw);
    handle.subscribe_all(Cds);
    next(&mut updates).await;
    let identity = proven.connections.list()[0].client().identity.clone().unwrap();
    assert_eq!(identity.as_uri(), "spiffe://td/ns/ns/sa/account");
}

#[tokio::test]
async fn a_connection_is_listed_as_long_as_it_is_open() {
    let resources = Resources::new();
    let server = Server::start(&resources, Identities::None).await;
    let (handle, updates) = connect(&server, Protocol::Delta);
    handle.subscribe_all(Cds);
    within(async {
        while server.connections.list().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop((handle, updates));
    within(async {
        while !server.connections.list().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(server.connections.acked_generation(), None);
}
