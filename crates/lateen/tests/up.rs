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
    let (text, code) = mesh.sh("shop", "clinet", "true");
    assert!(code == 1 && text.contains("no pod `clinet` in namespace `shop`; did you mean `client`?"), "{text}");
    let (text, code) = mesh.sh("default", "client", "true");
    assert!(code == 1 && text.contains("there is one in shop: choose with -n"), "{text}");
    let (text, code) = mesh.sh("shop", "client/other", "true");
    assert!(code == 1 && text.contains("it has app"), "{text}");
    // Without `--` too; and a program that cannot be run is told once, with a shell's exit status.
    for (program, status, expected) in
        [("no-such-program", 127, "cannot run `no-such-program`: not found in PATH"), ("/etc/passwd", 126, "Permission denied")]
    {
        let missing = mesh.run(&["exec", "-n", "shop", "client", program, "-x"]);
        let text = String::from_utf8_lossy(&missing.stderr).into_owned();
        assert_eq!((text.matches(expected).count(), missing.status.code()), (1, Some(status)), "{text}");
    }

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

/// Types at a terminal at which a command runs; returns what it showed, and its exit status.
fn at_terminal(mesh: &Mesh, command: &[&str], typed: &[(&str, &str)]) -> (String, Option<i32>) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let theirs = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut exec = mesh.command(&["exec", "-n", "shop", "client", "--"]);
    let mut child = exec.args(command).stdin(theirs()).stdout(theirs()).stderr(theirs()).spawn().unwrap();
    drop((exec, pty.slave));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (done, watched) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = watched.recv_timeout(std::time::Duration::from_secs(60)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let mut screen = std::fs::File::from(pty.master);
    let mut keyboard = screen.try_clone().unwrap();
    let mut shown = String::new();
    let mut typed = typed.iter();
    let mut next = typed.next();
    let mut buffer = [0; 4096];
    // EIO ends it: nobody has the terminal open any more.
    while let Ok(len) = screen.read(&mut buffer) {
        shown.push_str(&String::from_utf8_lossy(&buffer[..len]));
        if let Some((_, keys)) = next.filter(|(awaited, _)| shown.contains(awaited)) {
            keyboard.write_all(keys.as_bytes()).unwrap();
            next = typed.next();
        }
    }
    drop(done);
    watchdog.join().unwrap();
    (shown, child.wait().unwrap().code())
}

#[test]
fn exec_at_a_terminal_gives_the_command_one_of_its_own() {
    let mut mesh = Mesh::start(SHOP);
    mesh.wait_ready(3);
    let (text, code) =
        at_terminal(&mesh, &["sh", "-c", "test -t 0 -a -t 1 && echo now: && tr a-z A-Z; exit 6"], &[("now:", "hello\n\x04")]);
    assert!(text.contains("hello\r\nHELLO\r\n"), "the terminal echoes, and Ctrl-D ends the input: {text:?}");
    assert_eq!(code, Some(6));
    // Ctrl-C interrupts what runs in the foreground, not the shell that started it. (It is typed when that runs: `ab` is shown
    // by the program only, not by the echo of what is typed.)
    let (text, code) = at_terminal(
        &mesh,
        &["sh", "-i"],
        &[("# ", "sh -c \"echo a''b; exec sleep 1000000\"\n"), ("ab\r\n", "\x03"), ("^C\r\n# ", "exit 4\n")],
    );
    assert_eq!(code, Some(4), "{text:?}");
    let script = "trap 'exit 9' INT; sh -c 'echo ready; exec sleep 1000000'";
    let (text, code) = at_terminal(&mesh, &["sh", "-c", script], &[("ready", "\x03")]);
    assert_eq!(code, Some(9), "{text:?}");
    let (text, code) = at_terminal(&mesh, &["no-such-program"], &[]);
    assert!(text.contains("cannot run `no-such-program`") && code == Some(127), "{text:?}");
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

#[test]
fn what_an_edit_does_is_told() {
    let mut mesh = Mesh::start(SHOP);
    let before = mesh.wait_ready(3);
    eventually("ready", || mesh.output().contains("mesh ready after").then_some(()));
    let said = |line: &str| eventually(line, || mesh.output().lines().any(|l| l.contains(line)).then_some(()));
    // Another file, the same objects: nothing happens to the pods.
    let dir = mesh.dir.path().join("manifests");
    std::fs::rename(dir.join("all.yaml"), dir.join("other.yaml")).unwrap();
    std::fs::write(dir.join("more.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: more}\n").unwrap();
    said("Namespace more created");
    std::fs::remove_file(dir.join("more.yaml")).unwrap();
    said("Namespace more deleted");
    let after = mesh.status().unwrap();
    assert_eq!(names(before["pods"].as_array().unwrap(), ""), names(after["pods"].as_array().unwrap(), ""));
    // One at the same place twice is told with both places.
    std::fs::write(dir.join("twice.yaml"), SHOP.split("---").nth(1).unwrap()).unwrap();
    said("twice.yaml:2:1: ConfigMap shop/settings is already defined at");
    std::fs::remove_file(dir.join("twice.yaml")).unwrap();
    said("all manifests are in force");
    // A service outside of the network that there is.
    std::fs::write(
        dir.join("other.yaml"),
        SHOP.replace("selector: {app: web}\n  ports", "clusterIP: 192.0.2.1\n  selector: {app: web}\n  ports"),
    )
    .unwrap();
    said("Service shop/web has no address: clusterIP 192.0.2.1 is not in the mesh's service networks");
    std::fs::remove_file(dir.join("other.yaml")).unwrap();
    said("Deployment shop/web deleted");
    said("pod shop/client gone");
    mesh.wait("no pods", |pods| pods.is_empty());
    assert_eq!(mesh.stop(), 0);
}

/// Two pods that may not be together with their successors.
const REPLACED: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  strategy: STRATEGY
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, version: v1}}
    spec: {containers: [{name: app, command: [sleep, "1000000"], readinessProbe: {exec: {command: ["true"]}}}]}
"#;

#[test]
fn pods_are_replaced_as_the_strategy_says() {
    for (strategy, most, least, together) in [
        ("{rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}", 2, 1, true),
        ("{rollingUpdate: {maxSurge: 2, maxUnavailable: 0}}", 4, 2, true),
        ("{type: Recreate}", 2, 0, false),
    ] {
        let manifest = REPLACED.replace("STRATEGY", strategy);
        let mut mesh = Mesh::start(&manifest);
        mesh.wait_ready(2);
        mesh.write(&manifest.replace("version: v1", "version: v2"));
        mesh.wait("two new pods", |pods| {
            let living: Vec<&Value> = pods.iter().filter(|p| p["terminating"] == false).collect();
            let of = |version: &str| pods.iter().filter(|p| p["labels"]["version"] == version).count();
            let ready = living.iter().filter(|p| p["ready"] == true).count();
            assert!(living.len() <= most && ready >= least, "{strategy}: {pods:#?}");
            assert!(together || of("v1") == 0 || of("v2") == 0, "{strategy}: old and new together: {pods:#?}");
            of("v1") == 0 && of("v2") == 2 && ready == 2
        });
    }
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
    assert!(mesh.output().contains("the mesh's supervisor was ended by signal 9"), "{}", mesh.output());
    assert!(!mesh.state_dir().exists(), "the launcher has cleaned up");
    mesh.start_again();
    mesh.wait_ready(3);
    assert_eq!(mesh.stop(), 0);
}

/// A user that is not root.
const NOBODY: u32 = 65_534;

#[test]
fn what_a_killed_mesh_left_is_swept_by_the_start_of_any_other() {
    // As a user whose meshes are this test's alone: root's are swept by the start of every other test.
    let user = nix::unistd::Uid::effective().is_root().then_some(NOBODY);
    let mut killed = Mesh::start_as(SHOP, user);
    killed.wait_ready(3);
    let pids = killed.processes();
    killed.kill(killed.pid(), &pids);
    assert!(killed.state_dir().exists(), "nobody was left to clean up");
    let mut other = Mesh::start_beside(&killed, SHOP);
    other.wait_ready(3);
    assert!(!killed.state_dir().exists(), "{} is left", killed.state_dir().display());
    assert_eq!(other.stop(), 0);
}

#[test]
fn ctrl_c_ends_it_at_every_moment_of_its_start() {
    // From before the first process is made to after the last is ready.
    for moment in (0..24).map(|n| std::time::Duration::from_millis(n * n)) {
        let mut mesh = Mesh::start(SHOP);
        let begin = std::time::Instant::now();
        eventually("the moment", || (begin.elapsed() >= moment).then_some(()));
        // In the very first moments a signal ends the program before it has begun anything.
        let code = mesh.stop();
        assert!(code == 0 || code == -1 && mesh.output().is_empty(), "{moment:?}: {code}: {}", mesh.output());
        assert!(begin.elapsed() < moment + std::time::Duration::from_secs(8), "{moment:?}: {:?}", begin.elapsed());
        assert!(!mesh.output().contains("did not end in time"), "{moment:?}: {}", mesh.output());
    }
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

/// Root without powers in a user namespace that allows no further ones is as far as an ordinary user comes where they are
/// forbidden.
#[test]
fn where_user_namespaces_are_forbidden_it_says_which_setting_to_change() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("all.yaml"), SHOP).unwrap();
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -all --inh-caps -all --ambient-caps -all \"$@\"";
    let out = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", script, "sh"])
        .arg(common::lateen())
        .args(["up", "--name", &format!("forbidden{}", std::process::id())])
        .arg(dir.path())
        .env("XDG_RUNTIME_DIR", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("`sudo sysctl user.max_user_namespaces=10000` allows some"), "{text}");
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
        (vec!["exec", "--name", "nobody-home", "client", "true"], "no mesh named `nobody-home` is running"),
        (vec!["config", "routes", "--name", "nobody-home", "client"], "no mesh named `nobody-home` is running"),
        (vec!["demo", "--name", "Not/A/Name"], "lower-case letters"),
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
    assert!(text.contains("(refused)"), "nothing was in force before: {text}");
    std::fs::write(empty.path().join("bad.yaml"), "# nothing\n").unwrap();
    let (text, code) = run(&["up", "--name", &format!("bad{}", std::process::id()), path]);
    assert!(code == Some(1) && text.contains("the manifests are empty: nothing to run"), "{text}");
}
