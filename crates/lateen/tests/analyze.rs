//! `lateen analyze`: what it says, as text and as JSON, and how it ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const SERVICE: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}\n";
const ROUTE: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r, namespace: shop}\nspec: {hosts: [web], http: [{route: [{destination: {host: HOST}}]}]}\n";

fn analyze(dir: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lateen")).arg("analyze").args(options).arg(dir).output().unwrap()
}

fn text(out: &Output) -> String {
    String::from_utf8(out.stdout.clone()).unwrap()
}

/// Documents of two files in a directory within the one that is named are read together.
fn files(host: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("more")).unwrap();
    fs::write(dir.path().join("web.yaml"), SERVICE).unwrap();
    fs::write(dir.path().join("more/route.yaml"), ROUTE.replace("HOST", host)).unwrap();
    dir
}

#[test]
fn what_is_in_order() {
    let out = analyze(files("web").path(), &[]);
    assert!(out.status.success());
    assert_eq!(text(&out), "2 documents in 2 files: 0 errors, 0 warnings\n");
    assert_eq!(text(&analyze(files("web").path(), &["-o", "json"])), "[]\n");
}

#[test]
fn what_is_strange() {
    let dir = files("nobody");
    let out = analyze(dir.path(), &[]);
    assert!(out.status.success(), "a warning is no failure");
    assert!(text(&out).starts_with("warning: ") && text(&out).contains("more/route.yaml:"), "{}", text(&out));
    let out = analyze(dir.path(), &["--failure-threshold", "warning", "-o", "json"]);
    assert_eq!(out.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&out.stdout).unwrap();
    let found = found.as_array().unwrap();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0]["level"], "warning");
    assert_eq!(found[0]["resource"], "VirtualService shop/r");
    assert!(found[0]["file"].as_str().unwrap().ends_with("more/route.yaml"), "{found:#?}");
    assert!(found[0]["message"].as_str().unwrap().contains("nobody"), "{found:#?}");
}

#[test]
fn what_is_wrong() {
    let dir = files("web");
    fs::write(dir.path().join("wrong.yaml"), SERVICE.replace("port: 80", "port: 80000").replace("name: web", "name: w")).unwrap();
    let out = analyze(dir.path(), &["-o", "json"]);
    assert_eq!(out.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(found[0]["level"], "error");
    assert_eq!(found[0]["line"], 4);
    assert_eq!(found[0]["path"], "spec.ports[0].port");
    let out = analyze(&dir.path().join("nothing"), &[]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("nothing"), "{out:?}");
}
