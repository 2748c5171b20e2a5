//! What is promised of VirtualService, DestinationRule and Sidecar, on real meshes. A mesh serves many cases, of which each is
//! reported; each has services or paths of its own, so that their order means nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "routing/changes.rs"]
mod changes;
#[path = "routing/limits.rs"]
mod limits;
#[path = "routing/matches.rs"]
mod matches;
#[path = "routing/retries.rs"]
mod retries;
#[path = "routing/shop.rs"]
mod shop;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use shop::Shop;

type Case = (&'static str, fn(&Shop));

fn run(manifest: &str, cases: &[Case]) {
    let shop = Shop::start(manifest);
    let fails = |case: &fn(&Shop)| catch_unwind(AssertUnwindSafe(|| case(&shop))).is_err();
    let failed: Vec<&str> = cases.iter().filter(|(_, case)| fails(case)).map(|(name, _)| *name).collect();
    assert!(failed.is_empty(), "{} of {} cases failed, each as told above: {failed:#?}", failed.len(), cases.len());
}

#[test]
fn routes_match_and_change_what_they_say() {
    run("routes.yaml", &[matches::CASES, changes::CASES].concat());
}

#[test]
fn retries_happen_when_and_as_often_as_they_may() {
    run("retries.yaml", retries::CASES);
}

#[test]
fn pods_are_chosen_spared_and_thrown_out() {
    run("limits.yaml", limits::CASES);
}
