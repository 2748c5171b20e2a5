//! Restarts, scaling, weights and routes change under a constant load, and backends fail under one: on Lateen, and on a real
//! Envoy beside it. What Envoy comes to is printed, not judged.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "continuity/shop.rs"]
mod shop;
mod support;

use std::thread;

use serde_json::{Value, json};
use shop::{Engine, NO_POLICY, Shop, Wish};
use support::count;

/// Requests of which each is answered with an error, for the measure of a storm.
const REQUESTS: u32 = 3_000;

const ENGINES: [Engine; 2] = [Engine::Lateen, Engine::Envoy];

/// Runs the same on both engines at once.
fn on_both<T: Send>(run: impl Fn(Engine) -> T + Sync) -> [T; 2] {
    let run = &run;
    thread::scope(|threads| ENGINES.map(|engine| threads.spawn(move || run(engine))).map(|thread| thread.join().unwrap()))
}

/// A change of the manifests.
type Change = (&'static str, fn(&mut Wish));

const CHANGES: &[Change] = &[
    ("every pod is replaced", |w| w.round += 1),
    ("two more pods", |w| w.replicas = 4),
    ("three pods fewer", |w| w.replicas = 1),
    ("as many as before", |w| w.replicas = 2),
    ("all weight on one version", |w| w.weight = 0),
    ("all weight on the other", |w| w.weight = 100),
    ("half each", |w| w.weight = 50),
    ("other names of subsets", |w| w.subsets = ["stable", "canary"].map(str::to_owned)),
    ("another match, timeout and rewrite", |w| {
        w.header = "x-other";
        w.timeout = "3s";
        w.uri = "/elsewhere";
    }),
    ("all at once", |w| {
        w.round += 1;
        w.replicas = 3;
        w.weight = 20;
        w.subsets = ["old", "new"].map(str::to_owned);
    }),
];

/// Kinds of clients: connections that are kept, HTTP/2, and a connection for each request; open loops.
const LOADS: [&[&str]; 3] =
    [&["-c", "32", "--rate", "60"], &["-c", "32", "--rate", "60", "--http2"], &["-c", "32", "--rate", "30", "--new-connections"]];

/// What came of a change: requests, and those of them that were not answered 200.
struct Outcome {
    requests: u64,
    failed: u64,
    reports: Vec<Value>,
    /// If one failed: entries of access logs, so far, of such.
    failures: Vec<String>,
}

fn changes(engine: Engine) -> Vec<Outcome> {
    let mut wish = Wish::first();
    let mut shop = Shop::start(engine, &wish);
    let outcome = |(what, change): &Change| {
        let loads = LOADS.map(|load| shop.load(load));
        change(&mut wish);
        shop.apply(&wish);
        // What was under way meanwhile, and what comes later, are answered too.
        let _ = shop.requests(&["-n", "20", "--rate", "40"]);
        let reports: Vec<Value> = loads.into_iter().map(support::Load::end).collect();
        let sum = |pointer: &str| reports.iter().map(|r| count(r, pointer)).sum::<u64>();
        let requests = sum("/requests");
        assert!(requests >= 20, "{engine:?}: {what}: too few requests: {reports:?}");
        let failed = requests - sum("/statuses/200");
        let failures = if failed > 0 { shop.failures() } else { Vec::new() };
        Outcome { requests, failed, reports, failures }
    };
    CHANGES.iter().map(outcome).collect()
}

#[test]
fn no_request_fails_while_pods_and_routes_change() {
    let [lateen, envoy] = on_both(changes);
    println!("{:40} {:>16} {:>16}", "failed requests", "Lateen", "Envoy");
    for ((what, _), (ours, theirs)) in CHANGES.iter().zip(lateen.iter().zip(&envoy)) {
        let [ours, theirs] = [ours, theirs].map(|o| format!("{} of {}", o.failed, o.requests));
        println!("{what:40} {ours:>16} {theirs:>16}");
    }
    for ((what, _), ours) in CHANGES.iter().zip(&lateen) {
        assert_eq!(ours.failed, 0, "{what}: {:#?}\naccess logs:\n{}", ours.reports, ours.failures.join("\n"));
    }
}

/// How many requests reach the applications for each that is sent when every one fails after a while, with each of these
/// retries and policies.
fn tries(engine: Engine, settings: &[(&'static str, &'static str)]) -> Vec<f64> {
    // A budget is of a cluster, and each subset is one.
    let mut wish = Wish { weight: 100, ..Wish::first() };
    let mut shop = Shop::start(engine, &wish);
    let mut tries = |(retries, policy)| {
        wish.retries = retries;
        wish.policy = policy;
        shop.apply(&wish);
        shop.order(&json!({"fail": 503, "delay": "50ms"}));
        let before = shop.seen();
        let report = shop.requests(&["-n", &REQUESTS.to_string(), "-c", "96"]);
        // A storm may be too much for the time that a request has.
        assert_eq!(count(&report, "/statuses/503") + count(&report, "/statuses/504"), u64::from(REQUESTS), "{report:#}");
        let seen = shop.seen() - before;
        shop.reset();
        f64::from(u32::try_from(seen).unwrap()) / f64::from(REQUESTS)
    };
    settings.iter().map(|setting| tries(*setting)).collect()
}

#[test]
fn a_retry_storm_cannot_happen() {
    const RETRIES: &str = "{attempts: 5, retryOn: 5xx, backoff: 5ms}";
    // The default looks at the requests of the last seconds: it comes first, so that there were none.
    let settings = [
        (RETRIES, NO_POLICY),
        ("{attempts: 0}", NO_POLICY),
        (RETRIES, "{retryBudget: {percent: 50}}"),
        (RETRIES, "{retryBudget: {percent: 100, minRetryConcurrency: 1000}}"),
    ];
    let [lateen, envoy] = on_both(|engine| tries(engine, &settings));
    println!("requests that reach failing backends, for each that is sent");
    for (what, (ours, theirs)) in
        ["with five", "without retries", "budget 50 %", "no budget"].iter().zip(lateen.iter().zip(&envoy))
    {
        println!("{what:40} Lateen {ours:.2}, Envoy {theirs:.2}");
    }
    let [five, none, half, all] = lateen[..] else { unreachable!("as many as settings") };
    assert!((none - 1.0).abs() < f64::EPSILON, "tried again without being told: {none}");
    // The quota is a fifth of the requests of the last ten seconds, or 100 where that is more: a run that lasts
    // longer may spend the first 100 and then a fifth of everything. What the mesh itself asks meanwhile counts, too.
    let most = 1.2 + 150.0 / f64::from(REQUESTS);
    assert!((1.02..=most).contains(&five), "more load than the quota of 20 % allows: {five}");
    // A budget is a share of all requests in flight, the retries among them.
    assert!(half > five && (half - 1.0) / half <= 0.5, "the budget of 50 % is not kept: {half}");
    assert!(all > 4.0, "a budget without effect limits retries: {all}");
}
