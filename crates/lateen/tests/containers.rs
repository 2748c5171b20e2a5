//! What Kubernetes says of containers, on one machine: how they are made, probed, started again and stopped.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as the tests do")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use common::{Mesh, eventually};
use serde_json::Value;

fn pod<'a>(pods: &'a [Value], name: &str) -> Option<&'a Value> {
    pods.iter().find(|p| p["name"].as_str().is_some_and(|n| n == name || n.starts_with(&format!("{name}-"))))
}

fn phase<'a>(pods: &'a [Value], name: &str) -> &'a str {
    pod(pods, name).and_then(|p| p["phase"].as_str()).unwrap_or_default()
}

/// The log of a container, or of all pods whose names begin so.
fn log(mesh: &Mesh, namespace: &str, pod: &str, container: &str) -> String {
    let mut logs: Vec<_> = fs::read_dir(mesh.state_dir().join("logs")).unwrap().map(|e| e.unwrap().path()).collect();
    logs.sort();
    let wanted = |name: &str| name.starts_with(&format!("{namespace}_{pod}")) && name.ends_with(&format!("_{container}.log"));
    let ours = logs.iter().filter(|p| wanted(p.file_name().unwrap().to_str().unwrap()));
    ours.map(|p| fs::read_to_string(p).unwrap()).collect()
}

const MADE: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {colour: green, size: "7", site.conf: "listen 80\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: shop}
data: {key: c2VzYW1l}
---
apiVersion: v1
kind: Service
metadata: {name: cluster, namespace: shop}
spec: {clusterIP: None, selector: {app: full}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: full, namespace: shop, labels: {app: full}}
spec:
  hostname: first
  subdomain: cluster
  hostAliases: [{ip: 192.0.2.7, hostnames: [far.example]}]
  volumes:
  - {name: work, emptyDir: {}}
  - {name: settings, configMap: {name: settings, defaultMode: 0440}}
  - {name: some, configMap: {name: settings, items: [{key: colour, path: deep/colour, mode: 0400}]}}
  - {name: absent, secret: {secretName: nobody, optional: true}}
  - {name: keys, secret: {secretName: keys}}
  initContainers:
  - {name: one, command: [sh, -c, "echo one >> /work/order"], volumeMounts: [{name: work, mountPath: /work}]}
  - {name: two, command: [sh, -c, "sleep 0.2; echo two >> /work/order"], volumeMounts: [{name: work, mountPath: /work}]}
  containers:
  - name: app
    command: ["sh", "-c"]
    args: ["echo $0 $1 >> /work/order; exec lateen echo --port $(PORT)", "$(GREETING)", "$$(PORT)"]
    env: [{name: PORT, value: "8080"}, {name: GREETING, value: "hello-$(APP_colour)"}]
    envFrom: [{prefix: APP_, configMapRef: {name: settings}}, {secretRef: {name: keys}}, {configMapRef: {name: nobody, optional: true}}]
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /healthz, port: http, httpHeaders: [{name: x-probe, value: "yes"}]}}
    lifecycle: {postStart: {exec: {command: [sh, -c, "echo started > /work/hook"]}}}
    volumeMounts:
    - {name: work, mountPath: /work}
    - {name: settings, mountPath: /opt/site.conf, subPath: site.conf}
    - {name: settings, mountPath: /opt/settings}
    - {name: some, mountPath: /opt/some}
    - {name: absent, mountPath: /opt/absent}
    - {name: keys, mountPath: /opt/keys}
  - name: helper
    command: [sleep, "1000000"]
    workingDir: /inner
    volumeMounts:
    - {name: work, mountPath: /inner, subPath: inner}
    - {name: work, mountPath: /watched, readOnly: true}
"#;

#[test]
fn a_container_is_made_as_its_manifest_says() {
    let mut mesh = Mesh::start(MADE);
    mesh.wait_ready(1);
    let app = |script: &str| mesh.sh("shop", "full/app", script);
    let helper = |script: &str| mesh.sh("shop", "full/helper", script);
    eventually("the hook has run", || (app("cat /work/hook").0 == "started").then_some(()));
    for (script, expected) in [
        // Init containers one after the other, then the container; `$(NAME)` in arguments, and `$$` for a dollar.
        ("tr '\\n' ' ' < /work/order", "one two hello-green $(PORT)"),
        ("echo $APP_colour $APP_size $key", "green 7 sesame"),
        ("cat /opt/site.conf", "listen 80"),
        ("ls /opt/settings | tr '\\n' ' '", "colour site.conf size"),
        ("stat -c %a /opt/settings/size /opt/some/deep/colour | tr '\\n' ' '", "440 400"),
        ("ls /opt/some; cat /opt/some/deep/colour", "deep\ngreen"),
        ("ls -A /opt/absent", ""),
        ("cat /opt/keys/key", "sesame"),
        ("hostname", "first"),
        ("getent hosts far.example | tr -s ' '", "192.0.2.7 far.example"),
    ] {
        assert_eq!(app(script), (expected.to_owned(), 0), "{script}");
    }
    // The pod's containers share its network and its volumes, and nothing else.
    let (text, code) = helper("pwd; touch made; ls /watched | tr '\\n' ' '; touch /watched/x 2>&1 | grep -o Read-only");
    assert_eq!((text.as_str(), code), ("/inner\nhook inner order Read-only", 0));
    assert_eq!(app("ls /work/inner"), ("made".to_owned(), 0));
    assert_ne!(helper("ls /opt/settings").1, 0);
    let (text, code) = helper("lateen echo get http://127.0.0.1:8080/ --fail");
    assert!(code == 0 && text.contains("\"full\""), "{text}");
    // The name that it chose, under the service of its subdomain.
    let (text, code) = helper("lateen echo get http://first.cluster:8080/ --fail");
    assert!(code == 0 && text.contains("\"full\""), "{text}");
    // A file mounted by `subPath` stays as it was made, as in Kubernetes; a directory follows.
    mesh.write(&MADE.replace("listen 80", "listen 81"));
    eventually("the new settings", || (app("cat /opt/settings/site.conf").0 == "listen 81").then_some(()));
    assert_eq!(mesh.stop(), 0);
}

const REFUSED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: fine, namespace: shop}
spec: {containers: [{name: app, command: [sleep, "1000000"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: refused, namespace: shop}
spec:
  containers:
  - name: app
    command: [sleep, "1000000"]
    FIELD
"#;

#[test]
fn what_is_not_supported_is_refused_by_name_and_the_rest_runs() {
    let mut mesh = Mesh::start(REFUSED.split("---").next().unwrap());
    mesh.wait_ready(1);
    for (field, expected) in [
        ("livenessProbe: {httpGet: {port: 1, scheme: HTTPS}}", "livenessProbe.httpGet.scheme: HTTPS is not supported"),
        ("lifecycle: {stopSignal: SIGRTMIN}", "lifecycle.stopSignal: \"SIGRTMIN\" must be one of SIGABRT"),
        ("volumeMounts: [{name: gone, mountPath: /x}]", "volumeMounts[0].name: there is no volume \"gone\""),
        ("env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}]", "resourceFieldRef: is not supported"),
        ("restartPolicy: Always", "restartPolicy: is not supported"),
        ("ports: [{containerPort: 80, hostPort: 80}]", "hostPort: is not supported"),
    ] {
        mesh.write(&REFUSED.replace("FIELD", field));
        eventually(expected, || mesh.output().contains(expected).then_some(()));
    }
    assert_eq!(mesh.status().unwrap()["pods"].as_array().unwrap().len(), 1);
    mesh.write(&REFUSED.replace("FIELD", "securityContext: {runAsUser: 1000}"));
    mesh.wait_ready(2);
    assert!(mesh.output().contains("securityContext: has no effect on one machine"), "{}", mesh.output());
}

const ENDING: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: done, namespace: default}
spec:
  restartPolicy: OnFailure
  volumes: [{name: w, emptyDir: {}}]
  containers:
  - name: app
    command: [sh, -c, "test -e /w/again && exit 0; touch /w/again; exit 4"]
    volumeMounts: [{name: w, mountPath: /w}]
---
apiVersion: v1
kind: Pod
metadata: {name: failed, namespace: default}
spec:
  restartPolicy: Never
  containers: [{name: app, command: ["false"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: crashing, namespace: default}
spec:
  containers: [{name: app, command: [sh, -c, "echo run; exit 3"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: uninitialized, namespace: default}
spec:
  restartPolicy: Never
  initContainers: [{name: prepare, command: [sh, -c, "echo cannot; exit 9"]}]
  containers: [{name: app, command: [sleep, "1000000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: preparing, namespace: default}
spec:
  initContainers: [{name: prepare, command: [sleep, "1000000"]}]
  containers: [{name: app, command: [sleep, "1000000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: nowhere, namespace: default}
spec:
  volumes: [{name: v, secret: {secretName: nobody}}]
  containers: [{name: app, command: [sleep, "1000000"]}]
"#;

#[test]
fn an_ended_container_is_started_again_as_its_policy_says_and_ever_more_slowly() {
    let mut mesh = Mesh::start(ENDING);
    let expected = [
        ("done", "Completed"),
        ("failed", "Error"),
        ("crashing", "CrashLoopBackOff"),
        ("uninitialized", "Init:Error"),
        ("preparing", "Init:0/1"),
        ("nowhere", "ContainerCreating"),
    ];
    let status = mesh.wait("every pod in its state", |pods| expected.iter().all(|(name, is)| phase(pods, name) == *is));
    let pods = status["pods"].as_array().unwrap();
    let restarts = |pods: &[Value], name: &str| pod(pods, name).unwrap()["restarts"].as_u64().unwrap();
    assert_eq!([restarts(pods, "done"), restarts(pods, "failed")], [1, 0]);
    assert!(pods.iter().all(|p| p["ready"] == false), "{pods:#?}");
    let message = |name: &str| pod(pods, name).unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message("nowhere").contains("Secret nobody is not there"), "{}", message("nowhere"));
    assert!(message("uninitialized").contains("container prepare ended with status 9"), "{}", message("uninitialized"));
    let table = String::from_utf8(mesh.run(&["status"]).stdout).unwrap();
    assert!(table.contains("Init:0/1") && table.contains("default/nowhere: cannot start: volume v"), "{table}");
    // At once, then after 1, 2 and 4 s: the fourth restart is not before 7 s are over, and each has run the command.
    let start = Instant::now();
    let before = restarts(pods, "crashing");
    assert!(before <= 2, "{before} restarts within moments");
    mesh.wait("four restarts", |pods| restarts(pods, "crashing") >= 4);
    assert!(start.elapsed() >= Duration::from_secs(4), "{:?}", start.elapsed());
    let runs = log(&mesh, "default", "crashing", "app").matches("run\n").count();
    assert!((4..=6).contains(&runs), "{runs}");
    // What they wait for comes.
    mesh.write(&ENDING.replace("secretName: nobody", "secretName: somebody").replace(
        "\napiVersion: v1\nkind: Pod\nmetadata: {name: done",
        "\napiVersion: v1\nkind: Secret\nmetadata: {name: somebody, namespace: default}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: done",
    ));
    mesh.wait("the pod that has waited", |pods| phase(pods, "nowhere") == "Running");
    assert_eq!(mesh.stop(), 0);
}

const SLOW: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: slow, namespace: default}
spec:
  volumes: [{name: w, emptyDir: {}}]
  containers:
  - name: app
    command: [sh, -c, "echo run; trap '' TERM; while :; do sleep 0.1; done"]
    volumeMounts: [{name: w, mountPath: /w}]
    startupProbe: {exec: {command: [test, -e, /w/started]}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {exec: {command: [test, "!", -e, /w/busy]}, periodSeconds: 1, failureThreshold: 1}
    livenessProbe: {exec: {command: [test, -e, /w/started]}, periodSeconds: 1, failureThreshold: 2, terminationGracePeriodSeconds: 1}
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo stopping >> /w/log"]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: delayed, namespace: default}
spec:
  containers:
  - name: app
    command: [sleep, "1000000"]
    readinessProbe: {exec: {command: ["true"]}, initialDelaySeconds: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: hopeless, namespace: default}
spec:
  containers:
  - name: app
    command: [sleep, "1000000"]
    startupProbe: {tcpSocket: {port: 9}, periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1}
"#;

#[test]
fn probes_wait_for_each_other_and_say_why_they_fail() {
    let begin = Instant::now();
    let mut mesh = Mesh::start(SLOW);
    let ready = |pods: &[Value], name: &str| pod(pods, name).is_some_and(|p| p["ready"] == true);
    mesh.wait("ready after its initial delay", |pods| ready(pods, "delayed"));
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    // Neither readiness nor liveness is asked before the startup probe has succeeded: the latter would have failed by now.
    mesh.wait("the startup probe of another gives up", |pods| {
        pod(pods, "hopeless").is_some_and(|p| p["restarts"].as_u64() >= Some(1))
    });
    let status = mesh.status().unwrap();
    let slow = pod(status["pods"].as_array().unwrap(), "slow").unwrap();
    assert_eq!((&slow["ready"], &slow["restarts"]), (&Value::from(false), &Value::from(0)), "{slow:#}");
    assert!(
        mesh.output().contains("pod default/hopeless: container app: the startup probe failed (10.244."),
        "{}",
        mesh.output()
    );
    mesh.sh("default", "slow", "touch /w/started");
    mesh.wait("ready", |pods| ready(pods, "slow"));
    mesh.sh("default", "slow", "touch /w/busy");
    mesh.wait("not ready", |pods| !ready(pods, "slow"));
    let why = "the readiness probe failed (`test ! -e /w/busy` ended with status 1): it gets no traffic";
    eventually("the reason is told", || mesh.output().contains(why).then_some(()));
    mesh.sh("default", "slow", "rm /w/busy");
    mesh.wait("ready again", |pods| ready(pods, "slow"));
    // Liveness fails: hook, signal (which this one ignores), and the kill after the probe's own grace period, not the pod's.
    let sick = Instant::now();
    mesh.sh("default", "slow", "rm /w/started");
    mesh.wait("restarted", |pods| pod(pods, "slow").is_some_and(|p| p["restarts"].as_u64() >= Some(1)));
    assert!(sick.elapsed() < Duration::from_secs(15), "{:?}", sick.elapsed());
    eventually("it runs again", || (mesh.sh("default", "slow", "cat /w/log").0 == "stopping").then_some(()));
    assert_eq!(log(&mesh, "default", "slow", "app"), "run\nrun\n");
}

/// Says what happens to it, in its log. Its last hook asks the service of which it is one of two pods.
const STOPPED: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 20
      containers:
      - name: app
        command: [sh, -c, "trap 'echo usr1; exit' USR1; lateen echo --port 8080 & while :; do sleep 0.1; done"]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}}
        lifecycle:
          stopSignal: SIGUSR1
          preStop: {exec: {command: [sh, -c, "echo prestop >> /proc/1/fd/1; lateen echo get http://web/ -n 30 --fail --new-connections -o json >> /proc/1/fd/1"]}}
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn, namespace: shop}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, command: [sh, -c, "trap '' TERM; while :; do sleep 0.1; done"]}]
"#;

#[test]
fn a_stopped_pod_leaves_the_endpoints_then_runs_its_hook_then_ends() {
    let mut mesh = Mesh::start(STOPPED);
    mesh.wait_ready(3);
    // One of two goes. Its container answers still; nobody asks it any more.
    mesh.write(&STOPPED.replace("replicas: 2", "replicas: 1"));
    let mut seen = BTreeSet::new();
    let gone = mesh.wait("one pod of two", |pods| {
        seen.extend(pods.iter().filter_map(|p| p["phase"].as_str().map(str::to_owned)));
        pods.len() == 2
    });
    let left = pod(gone["pods"].as_array().unwrap(), "web").unwrap()["name"].as_str().unwrap().to_owned();
    assert!(seen.contains("Terminating"), "{seen:?}");
    let text = log(&mesh, "shop", "web", "app");
    let after_hook = text.split_once("prestop\n").unwrap_or_else(|| panic!("no hook: {text}")).1;
    let (report, rest) = after_hook.split_once("\nusr1").unwrap_or_else(|| panic!("no signal after the hook: {text}"));
    let report: Value = serde_json::from_str(&report[report.find('{').unwrap()..]).unwrap_or_else(|e| panic!("{e}: {text}"));
    // All thirty by the other: by itself once in 2^30 times if it were an endpoint still.
    assert_eq!(report["pods"][&left], 30, "{report:#} {rest}");
    // One that ignores the signal is killed when its grace period is over.
    let start = Instant::now();
    mesh.write(STOPPED.split("---\n").next().unwrap());
    mesh.wait("the stubborn one", |pods| pod(pods, "stubborn").is_none());
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

const LEAVING: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {containers: [{name: app, command: [sleep, \"1000\"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {sidecar.istio.io/inject: \"true\"}}
spec:
  containers:
  - name: app
    command: [lateen, echo, --port, \"8080\"]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}}
";

#[test]
fn a_pod_that_leaves_serves_whom_it_has_let_in() {
    // Opens a connection, and asks only when it is told to.
    const SLOW_CLIENT: &str = "exec 3<>/dev/tcp/$0/8080; echo open; read go; \
        printf 'GET / HTTP/1.1\\r\\nhost: web\\r\\nconnection: close\\r\\n\\r\\n' >&3; cat <&3";
    let mut mesh = Mesh::start(LEAVING);
    let status = mesh.wait_ready(2);
    let ip = pod(status["pods"].as_array().unwrap(), "web").unwrap()["ip"].as_str().unwrap();
    let mut client = mesh.command(&["exec", "-n", "shop", "client", "--", "bash", "-c", SLOW_CLIENT, ip]);
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "open\n");

    mesh.write(LEAVING.split("---\n").next().unwrap());
    mesh.wait("the end of the pod to begin", |pods| pod(pods, "web").is_none_or(|_| phase(pods, "web") == "Terminating"));
    // Longer than what a pod waits without anyone who may still ask.
    #[expect(clippy::disallowed_methods, reason = "there is no worker to block")]
    thread::sleep(Duration::from_secs(2));
    writeln!(client.stdin.take().unwrap(), "go").unwrap();
    let mut answer = String::new();
    said.read_to_string(&mut answer).unwrap();
    client.wait().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    mesh.wait("the end of the pod", |pods| pod(pods, "web").is_none());
}
