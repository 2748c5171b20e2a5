//! A server that is asked for what a client does not hold: all that an answer brings comes before it, in one round trip.

use crate::ResourceType::{self, Cds, Eds, Lds, Lookup, Rds};
use crate::proto::DeltaDiscoveryRequest;
use crate::server::{Generated, Generator, Limits, Protocol, Response, Session, Watch};
use crate::test_world::client;
use crate::{Generation, Resource};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Each question `q` brings the cluster `q`, its endpoints, the listener `q` and its routes.
#[derive(Default)]
struct Asked(BTreeSet<Arc<str>>);

impl Generator for Asked {
    fn generate(&mut self, ty: ResourceType, watch: Watch<'_>) -> Generated {
        let known = |name: &Arc<str>| &**name != "nothing";
        let names: Vec<Arc<str>> = match watch {
            Watch::Wildcard => self.0.iter().filter(|n| known(n)).cloned().collect(),
            Watch::Names(names) => names.iter().filter(|n| known(n)).cloned().collect(),
        };
        let body = format!("{ty}");
        let resources = names.into_iter().map(|n| Arc::new(Resource::new(n, body.clone().into()))).collect();
        Generated { generation: Generation(1), resources }
    }

    fn ask(&mut self, questions: &BTreeSet<Arc<str>>) -> bool {
        let changed = self.0 != *questions;
        self.0.clone_from(questions);
        changed
    }

    fn implied(&mut self, _: ResourceType) -> Vec<Arc<str>> {
        self.0.iter().filter(|n| &***n != "nothing").cloned().collect()
    }
}

fn request(ty: ResourceType, nonce: &str, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let strings = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    DeltaDiscoveryRequest {
        type_url: ty.type_url().to_owned(),
        response_nonce: nonce.to_owned(),
        resource_names_subscribe: strings(subscribe),
        resource_names_unsubscribe: strings(unsubscribe),
        ..Default::default()
    }
}

struct Bench(Session);

impl Bench {
    fn new() -> Self {
        Self(Session::new(Arc::new(client(Protocol::Delta)), Box::<Asked>::default(), Limits::default(), 7))
    }

    fn ask(&mut self, ty: ResourceType, subscribe: &[&str], unsubscribe: &[&str]) {
        self.0.on_delta_request(&request(ty, "", subscribe, unsubscribe)).unwrap();
    }

    /// All that is to be said now.
    fn said(&mut self) -> Vec<Response> {
        std::iter::from_fn(|| self.0.next_response()).collect()
    }

    fn ack(&mut self, response: &Response) {
        self.0.on_delta_request(&request(response.ty, &response.nonce, &[], &[])).unwrap();
    }

    /// The same, acknowledged, as type, names and what is removed.
    fn settled(&mut self) -> Vec<String> {
        let said = self.said();
        said.iter().for_each(|response| self.ack(response));
        said.iter().map(describe).collect()
    }
}

fn describe(response: &Response) -> String {
    let names: Vec<&str> = response.resources.iter().map(|r| &**r.name()).collect();
    let removed: String = response.removed.iter().map(|name| format!(" -{name}")).collect();
    format!("{} {}{removed}", response.ty, names.join(" "))
}

#[test]
fn an_answer_comes_after_all_that_it_brings() {
    let mut bench = Bench::new();
    bench.ask(Cds, &[], &[]);
    bench.ask(Lds, &[], &[]);
    assert_eq!(bench.settled(), ["CDS ", "LDS "], "there is nothing yet");
    bench.ask(Lookup, &["a"], &[]);
    assert_eq!(bench.settled(), ["CDS a", "EDS a", "LDS a", "RDS a", "LOOKUP a"]);
    // What the client asks for by itself is there already.
    bench.ask(Eds, &["a"], &[]);
    bench.ask(Rds, &["a"], &[]);
    assert_eq!(bench.settled(), Vec::<String>::new());
    bench.ask(Lookup, &["b"], &[]);
    assert_eq!(bench.settled(), ["CDS b", "EDS b", "LDS b", "RDS b", "LOOKUP b"]);
    bench.ask(Lookup, &["nothing"], &[]);
    assert_eq!(bench.settled(), ["LOOKUP  -nothing"]);
    // Forgotten.
    bench.ask(Lookup, &[], &["a"]);
    assert_eq!(bench.settled(), ["CDS  -a", "LDS  -a"]);
}

#[test]
fn an_answer_waits_for_what_the_client_has_not_confirmed() {
    let mut bench = Bench::new();
    bench.ask(Cds, &[], &[]);
    bench.ask(Lds, &[], &[]);
    let first = bench.said();
    bench.ask(Lookup, &["a"], &[]);
    // Of each type one response is under way at a time.
    assert_eq!(bench.said(), []);
    first.iter().for_each(|response| bench.ack(response));
    assert_eq!(bench.settled(), ["CDS a", "EDS a", "LDS a", "RDS a", "LOOKUP a"]);
}

#[test]
fn after_a_reconnect_nothing_that_questions_hold_is_taken_away() {
    let mut bench = Bench::new();
    // In the order of the client: questions first, then the subscriptions with what it has.
    bench.ask(Lookup, &["a"], &[]);
    assert_eq!(bench.said(), [], "no answer before what it brings");
    let mut clusters = request(Cds, "", &[], &[]);
    let version = Resource::new("a", "CDS".into()).version().to_string();
    clusters.initial_resource_versions = [("a".to_owned(), version)].into();
    bench.0.on_delta_request(&clusters).unwrap();
    bench.ask(Lds, &[], &[]);
    assert_eq!(bench.settled(), ["LDS a", "RDS a", "LOOKUP a"]);
}
