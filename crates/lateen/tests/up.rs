//! `lateen up`, `status`, `exec`, `down` and `capture`: the real binary, real namespaces, pods without sidecars.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as the tests do")]

mod common;

use std::io::{Read, Write};
use std::process::Stdio;

use common::{Mesh, alive, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Two namespaces, a service with two pods, and a client.
const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {colour: green, motto.txt: "sail against the wind\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: password, namespace: shop}
stringData: {word: sesame}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: web-headless, namespace: shop}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, version: v1}}
    spec:
      containers:
      - name: app
        command: ["lateen", "echo"]
        args: ["--port", "$(PORT)"]
        env: [{name: PORT, value: "8080"}]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: http}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {role: client}, annotations: {note: hello}}
spec:
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: password, secret: {secretName: password, items: [{key: word, path: deep/word}]}}
  - {name: work, emptyDir: {}}
  containers:
  - name: app
    command: ["sleep", "1000000"]
    workingDir: /work
    env:
    - {name: ME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: ROLE, valueFrom: {fieldRef: {fieldPath: "metadata.labels['role']"}}}
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: WORD, valueFrom: {secretKeyRef: {name: password, key: word}}}
    - {name: GREETING, value: "$(ME) is $(COLOUR), $(NOBODY)"}
    volumeMounts:
    - {name: settings, mountPath: /etc/settings}
    - {name: password, mountPath: /secrets}
    - {name: work, mountPath: /work}
"#;

fn pod<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["pods"].as_array().unwrap().iter().find(|p| p["name"].as_str().unwrap().starts_with(name)).unwrap()
}

fn names(pods: &[Value], prefix: &str) -> Vec<String> {
    pods.iter().filter_map(|p| p["name"].as_str()).filter(|n| n.starts_with(prefix)).map(str::to_owned).collect()
}

#[test]
fn pods_have_their_variables_files_names_and_nothing_of_the_others() {
    let mut mesh = Mesh::start(SHOP);
    let status = mesh.wait_ready(3);
    let client = pod(&status, "client");
    let ip = client["ip"].as_str().unwrap();
    assert_eq!(client["service_account"], "default");
    assert!(client["proxy_pid"].is_null());
    let sh = |script: &str| mesh.sh("shop", "client", script);
    for (script, expected) in [
        ("echo $ME $ADDRESS $ROLE $COLOUR $WORD", format!("client {ip} client green sesame")),
        ("echo $GREETING", "client is green, $(NOBODY)".to_owned()),
        (
            "echo $POD_NAME $POD_NAMESPACE $POD_IP $SERVICE_ACCOUNT $LATEEN_POD_LABELS",
            format!("client shop {ip} default role=client"),
        ),
        ("hostname", "client".to_owned()),
        ("pwd", "/work".to_owned()),
        ("cat /etc/settings/motto.txt", "sail against the wind".to_owned()),
        ("cat /secrets/deep/word", "sesame".to_owned()),
        ("cat /etc/podinfo/labels /etc/podinfo/annotations", "role=\"client\"note=\"hello\"".to_owned()),
        ("touch made && ls", "made".to_owned()),
        ("cat /proc/1/cmdline | tr '\\0' ' '", "lateen __init".to_owned()),
    ] {
        assert_eq!(sh(script), (expected, 0), "{script}");
    }
    assert_ne!(sh("echo x > /etc/settings/motto.txt").1, 0, "a ConfigMap's files are read-only");
    let state = mesh.state_dir();
    let all = state.parent().unwrap().display();
    assert_eq!(sh(&format!("ls -A {all}")), (String::new(), 0), "the state of this and of other meshes is hidden");
    // Neither can an application set the mark by which sidecars are known, nor change the rules.
    let (capabilities, _) = sh("grep CapEff /proc/self/status");
    let bits = u64::from_str_radix(capabilities.split_whitespace().last().unwrap(), 16).unwrap();
    assert_eq!(bits & (1 << 12 | 1 << 13 | 1 << 21), 0, "{capabilities}: NET_ADMIN, NET_RAW or SYS_ADMIN");
    assert_ne!(sh("lateen capture remove").1, 0);
    assert_eq!(mesh.stop(), 0);
}

#[test]
fn services_resolve_under_all_their_names_and_reach_every_pod() {
    let mut mesh = Mesh::start(SHOP);
    mesh.wait_ready(3);
    for name in ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local"] {
        let (text, code) = mesh.sh("shop", "client", &format!("lateen echo get http://{name}/ --fail"));
        assert!(code == 0 && text.contains("web-"), "{name}: {text}");
    }
    let (text, code) =
        mesh.sh("shop", "client", "lateen echo get http://web/ --fail --new-connections -n 64 -o json --tally /body/pod");
    assert_eq!(code, 0, "{text}");
    let pods = mesh.status().unwrap();
    for name in names(pods["pods"].as_array().unwrap(), "web-") {
        // Left out of 64 fair draws between two: once in 2^63 times.
        assert!(text.contains(&name), "{name} got nothing: {text}");
    }
    let (text, code) = mesh.sh("shop", "client", "lateen echo get http://web-headless:8080/ --fail");
    assert_eq!(code, 0, "{text}");
    let (text, code) = mesh.sh("shop", "client", "lateen echo get http://nothing.shop/ --fail");
    assert_ne!(code, 0, "{text}");
}

#[test]
fn exec_passes_input_output_signals_and_the_exit_status() {
    let mut mesh = Mesh::start(SHOP);
    mesh.wait_ready(3);
    assert_eq!(mesh.sh("shop", "client", "exit 7").1, 7);
    assert_eq!(mesh.sh("shop", "client", "kill -KILL $$").1, 137);
    for pod in ["deploy/web", "web", "cli", "client/app"] {
        assert_eq!(mesh.sh("shop", pod, "true"), (String::new(), 0), "{pod}");
    }
    let (text, code) = mesh.sh("shop", "web-", "true");
    assert!(code == 1 && text.contains("not unambiguous"), "{text}");
    let (text, code) = mesh.sh("shop", "nobody", "true");
    assert!(code == 1 && text.contains("no pod `nobody` in namespace shop") && text.contains("client"), "{text}");
    let (text, code) = mesh.sh("shop", "client/other", "true");
    assert!(code == 1 && text.contains("it has app"), "{text}");
    let missing = mesh.run(&["exec", "-n", "shop", "client", "--", "no-such-program"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cannot run `no-such-program`: not found in PATH"));

    let mut cat = mesh
        .command(&["exec", "-n", "shop", "client", "--", "sh", "-c", "cat; echo done >&2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let big = "x".repeat(1 << 20);
    let mut input = cat.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(big.as_bytes()).unwrap());
    let out = cat.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!((out.stdout.len(), out.stderr.as_slice()), (1 << 20, b"done\n".as_slice()));

    let script = "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = mesh
        .command(&["exec", "-n", "shop", "client", "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("got it\n", Some(5)));
}

#[test]
fn an_edit_scales_and_replaces_without_a_failed_request_and_a_bad_one_changes_nothing() {
    let mut mesh = Mesh::start(SHOP);
    mesh.wait_ready(3);
    mesh.write(&SHOP.replace("replicas: 2", "replicas: 4"));
    let before = mesh.wait_ready(5);
    let old = names(before["pods"].as_array().unwrap(), "web-");

    let load = mesh
        .command(&["exec", "-n", "shop", "client", "--", "lateen", "echo", "get", "http://web/", "--fail", "--new-connections"])
        .args(["-c", "4", "--rate", "200", "--duration", "60s", "-o", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    mesh.write(&SHOP.replace("replicas: 2", "replicas: 3").replace("version: v1", "version: v2"));
    mesh.wait("the new version alone", |pods| {
        let web: Vec<&Value> = pods.iter().filter(|p| p["name"].as_str().unwrap().starts_with("web-")).collect();
        web.len() == 3 && web.iter().all(|p| p["ready"] == true && p["labels"]["version"] == "v2")
    });
    mesh.write(&SHOP.replace("replicas: 2", "replicas: 1").replace("version: v1", "version: v2"));
    let after = mesh.wait_ready(2);
    assert!(names(after["pods"].as_array().unwrap(), "web-").iter().all(|n| !old.contains(n)));
    kill(Pid::from_raw(i32::try_from(load.id()).unwrap()), Signal::SIGINT).unwrap();
    let out = load.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "requests failed: {text}");

    // A field that does not exist: that document alone is refused, with its place.
    let bad = SHOP.replace("replicas: 2", "replicaz: 9").replace("colour: green", "colour: blue");
    mesh.write(&bad);
    let expected = format!("all.yaml:{}", 1 + bad[..bad.find("replicaz").unwrap()].matches('\n').count());
    eventually("the refusal is printed", || {
        (mesh.output().contains(&expected) && mesh.output().contains("replicaz")).then_some(())
    });
    // The other documents of the same edit are in force: the file in the pod follows its ConfigMap.
    eventually("the new colour", || (mesh.sh("shop", "client", "cat /etc/settings/colour").0 == "blue").then_some(()));
    assert_eq!(names(mesh.status().unwrap()["pods"].as_array().unwrap(), "web-").len(), 1);
    mesh.write(&SHOP.replace("replicas: 2", "replicas: 0"));
    mesh.wait_ready(1);
}

const PROBED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: sick, namespace: default}
spec:
  volumes: [{name: w, emptyDir: {}}]
  containers:
  - name: app
    command: ["sh", "-c", "rm -f /w/dead; echo started >> /w/log; exec sleep 1000000"]
    volumeMounts: [{name: w, mountPath: /w}]
    readinessProbe: {exec: {command: [test, -e, /w/ready]}, periodSeconds: 1, failureThreshold: 1}
    livenessProbe: {exec: {command: ["sh", "-c", "! test -e /w/dead"]}, periodSeconds: 1, failureThreshold: 1}
    lifecycle:
      preStop: {exec: {command: ["sh", "-c", "echo stopping >> /w/log"]}}
---
apiVersion: v1
kind: Pod
metadata: {name: network, namespace: default}
spec:
  containers:
  - name: app
    command: ["lateen", "echo", "--port", "8080", "--grpc", "9090"]
    startupProbe: {tcpSocket: {port: 8080}}
    readinessProbe: {grpc: {port: 9090}}
"#;

#[test]
fn probes_decide_readiness_and_restarts_and_a_killed_process_comes_back() {
    let mut mesh = Mesh::start(PROBED);
    let ready = |pods: &[Value], name: &str| pods.iter().any(|p| p["name"] == name && p["ready"] == true);
    mesh.wait("only the pod whose probes succeed is ready", |pods| ready(pods, "network") && !ready(pods, "sick"));
    // Not ready takes no traffic but runs: exec works.
    eventually("the container runs", || (mesh.sh("default", "sick", "touch /w/ready").1 == 0).then_some(()));
    mesh.wait("ready", |pods| ready(pods, "sick"));
    mesh.sh("default", "sick", "rm /w/ready");
    mesh.wait("not ready any more", |pods| !ready(pods, "sick"));
    mesh.sh("default", "sick", "touch /w/ready /w/dead");
    mesh.wait("restarted by its liveness probe", |pods| {
        pods.iter().any(|p| p["name"] == "sick" && p["restarts"].as_u64() >= Some(1))
    });
    // What made it sick went with the restart: it is well again.
    let status = mesh.wait_ready(2);
    let victim = i32::try_from(pod(&status, "network")["app_pids"][0].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    mesh.wait("another process", |pods| {
        pods.iter().any(|p| p["name"] == "network" && p["ready"] == true && p["app_pids"][0].as_i64() != Some(victim.into()))
    });
    assert!(!alive(victim));
}

#[test]
fn nothing_is_left_after_sigkill_and_the_name_can_be_used_again() {
    let mut mesh = Mesh::start(SHOP);
    mesh.wait_ready(3);
    let pids = mesh.processes();
    assert!(pids.len() >= 8, "launcher, supervisor, control plane, and two for each container: {pids:?}");
    let launcher = mesh.pid();
    mesh.kill(launcher, &pids);
    assert!(mesh.run(&["status"]).status.code() == Some(1));
    mesh.start_again();
    mesh.wait_ready(3);
    let pids = mesh.processes();
    let supervisor = Pid::from_raw(pids[1]);
    mesh.kill(supervisor, &pids);
    mesh.start_again();
    mesh.wait_ready(3);
    assert_eq!(mesh.stop(), 0);
}

#[test]
fn two_meshes_run_side_by_side_and_down_ends_one() {
    let mut one = Mesh::start(SHOP);
    let mut two = Mesh::start(SHOP);
    one.wait_ready(3);
    two.wait_ready(3);
    let again = one.command(&["up"]).arg(one.dir.path().join("manifests")).output().unwrap();
    let text = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && text.contains(&format!("pid {}", one.pid())), "{text}");
    assert!(one.run(&["down"]).status.success());
    assert!(!one.state_dir().exists());
    let gone = one.run(&["status"]);
    let text = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(!gone.status.success() && text.contains("no mesh named") && text.contains(&two.name), "{text}");
    assert_eq!(two.wait_ready(3)["pods"].as_array().unwrap().len(), 3);
}

#[test]
fn without_root_it_is_the_same() {
    if !nix::unistd::Uid::effective().is_root() {
        // Then every other test is this test.
        return;
    }
    const NOBODY: u32 = 65_534;
    let mut mesh = Mesh::start_as(SHOP, Some(NOBODY));
    let status = mesh.wait_ready(3);
    let pid = pod(&status, "client")["app_pids"][0].as_i64().unwrap();
    let owner = std::fs::metadata(format!("/proc/{pid}")).map(|m| std::os::unix::fs::MetadataExt::uid(&m)).unwrap();
    assert_eq!(owner, NOBODY);
    let (text, code) = mesh.sh("shop", "client", "lateen echo get http://web/ --fail");
    assert!(code == 0 && text.contains("web-"), "{text}");
    assert_eq!(mesh.sh("shop", "client", "cat /etc/settings/motto.txt"), ("sail against the wind".to_owned(), 0));
    assert_eq!(mesh.stop(), 0);
}

#[test]
fn mistakes_are_told_with_what_would_be_right() {
    let run = |args: &[&str]| {
        let out = std::process::Command::new(common::lateen()).args(args).output().unwrap();
        (String::from_utf8_lossy(&out.stderr).into_owned(), out.status.code())
    };
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().to_str().unwrap();
    for (args, expected) in [
        (vec!["up", "/does/not/exist"], "/does/not/exist: No such file or directory"),
        (vec!["up", path], "no manifest (*.yaml, *.yml, *.json)"),
        (vec!["up", "--name", "Not/A/Name", path], "lower-case letters"),
        (vec!["down", "--name", "nobody-home"], "no mesh named `nobody-home` is running"),
        (vec!["capture", "apply", "-m", "TPROXY"], "TPROXY is not supported"),
        (vec!["capture", "apply", "-x", "*"], "`*` is not allowed here"),
    ] {
        let (text, code) = run(&args);
        assert!(code != Some(0) && text.contains(expected), "{args:?}: {text}");
    }
    std::fs::write(empty.path().join("bad.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containerz: []}\n")
        .unwrap();
    let (text, code) = run(&["up", "--name", &format!("bad{}", std::process::id()), path]);
    assert!(
        code == Some(1) && text.contains("bad.yaml:4") && text.contains("containerz") && text.contains("nothing to run"),
        "{text}"
    );
}
