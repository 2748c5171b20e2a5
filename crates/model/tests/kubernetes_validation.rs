//! Kubernetes' validation rules, one line for each.

mod common;

use common::{check, findings, findings_of};

#[test]
fn metadata() {
    let namespace = |metadata: &str| findings_of(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {metadata}\n"));
    assert!(namespace("{name: a, labels: {app.kubernetes.io/name: b}, annotations: {Some/Key: any thing}}").is_empty());
    for (metadata, expected) in [
        ("{}", "metadata.name: is required"),
        ("{generateName: a-}", "metadata.generateName: cannot be used in files"),
        ("{name: A}", "metadata.name: \"A\" must be a DNS label"),
        ("{name: a, labels: {a/b/c: d}}", "metadata.labels[a/b/c]: the key \"b/c\""),
        ("{name: a, labels: {b: 'c d'}}", "metadata.labels.b: \"c d\" must be at most 63"),
        ("{name: a, annotations: {'b c': d}}", "metadata.annotations[b c]: the key \"b c\""),
        ("{name: a, creationTimestamp: yesterday}", "metadata.creationTimestamp: not a time"),
    ] {
        let found = namespace(metadata);
        assert!(found.iter().any(|text| text.starts_with(expected)), "{metadata}\n{found:?}");
    }
    let large = namespace(&format!("{{name: a, annotations: {{b: '{}'}}}}", "x".repeat(256 * 1024)));
    assert!(large[0].starts_with("metadata.annotations: have 262145 bytes"), "{large:?}");
}

#[test]
fn exported_objects_are_read() {
    let text = "
apiVersion: v1
kind: Service
metadata:
  name: a
  uid: 6d9f
  resourceVersion: '12'
  generation: 3
  creationTimestamp: '2024-05-01T12:00:00Z'
  managedFields: [{manager: kubectl, fieldsV1: {f:metadata: {}}}]
  ownerReferences: [{apiVersion: v1, kind: Pod, name: b, uid: x}]
  finalizers: [a/b]
spec:
  clusterIP: 10.0.0.1
  clusterIPs: [10.0.0.1]
  internalTrafficPolicy: Cluster
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  sessionAffinity: None
  ports: [{port: 80, protocol: TCP, targetPort: http, appProtocol: kubernetes.io/h2c}]
  type: ClusterIP
status:
  loadBalancer: {}
";
    assert!(findings_of(text).is_empty(), "{:?}", findings_of(text));
}

#[test]
fn service() {
    check(
        "v1",
        "Service",
        &[
            ("{ports: [{port: 80}]}", ""),
            ("{clusterIP: None}", ""),
            ("{}", "spec.ports: is required"),
            ("{ports: [{port: 0}]}", "spec.ports[0].port: is 0, must be a port"),
            ("{ports: [{port: 80}, {name: a, port: 81}]}", "spec.ports[0].name: is required when there are several"),
            ("{ports: [{name: a, port: 80}, {name: a, port: 81}]}", "spec.ports[1].name: the name \"a\" is used twice"),
            ("{ports: [{name: a, port: 80}, {name: b, port: 80}]}", "spec.ports[1].port: the port 80 is listed twice"),
            ("{ports: [{name: a, port: 80}, {name: b, port: 80, protocol: UDP}]}", ""),
            ("{ports: [{name: A, port: 80}]}", "spec.ports[0].name: \"A\" must be a DNS label"),
            ("{ports: [{port: 80, targetPort: 70000}]}", "spec.ports[0].targetPort: is 70000"),
            ("{ports: [{port: 80, targetPort: '80'}]}", "spec.ports[0].targetPort: \"80\" must be a port name"),
            (
                "{ports: [{port: 80, targetPort: true}]}",
                "spec.ports[0].targetPort: is the boolean true, must be a number or a string",
            ),
            (
                "{ports: [{port: 80, protocol: tcp}]}",
                "spec.ports[0].protocol: is \"tcp\", must be one of TCP, UDP or SCTP; did you mean TCP?",
            ),
            ("{ports: [{port: '80'}]}", "spec.ports[0].port: is the string \"80\", must be a whole number"),
            ("{ports: [{port: 80}], selector: {a: 'b c'}}", "spec.selector.a: \"b c\" must be"),
            ("{ports: [{port: 80}], clusterIP: x}", "spec.clusterIP: \"x\" must be an IP address"),
            ("{ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2]}", "spec.clusterIPs: must begin with"),
            (
                "{ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 10.0.0.2]}",
                "spec.clusterIPs: may hold one IPv4",
            ),
            (
                "{ports: [{port: 80}], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: SingleStack}",
                "spec.ipFamilyPolicy: SingleStack contradicts",
            ),
            ("{type: NodePort, ports: [{port: 80, nodePort: 30080}]}", "warning spec.type: is treated as ClusterIP"),
            ("{type: ExternalName}", "spec.externalName: is required"),
            ("{type: ExternalName, externalName: example.org}", ""),
            (
                "{type: ExternalName, externalName: example.org, clusterIP: None}",
                "spec.clusterIP: must not be set with ExternalName",
            ),
            ("{type: ExternalName, externalName: example.org, selector: {a: b}}", "warning spec.selector: has no effect"),
            (
                "{ports: [{port: 80}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}}",
                "warning spec.sessionAffinity: has no effect on clients with a sidecar",
            ),
            ("{ports: [{port: 80}], externalIPs: [10.0.0.1]}", "spec.externalIPs: is not supported"),
            ("{ports: [{port: 80}], trafficDistribution: PreferClose}", ""),
        ],
    );
}

#[test]
fn stateful_set() {
    let template = "template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, command: [x]}]}}";
    let with = |more: &str| format!("{{selector: {{matchLabels: {{app: a}}}}, serviceName: a, {more}{template}}}");
    let table = [
        (with(""), ""),
        (
            with(
                "replicas: 3, podManagementPolicy: Parallel, minReadySeconds: 5, ordinals: {start: 2}, revisionHistoryLimit: 3, ",
            ),
            "",
        ),
        (with("updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 2, maxUnavailable: 50%}}, "), ""),
        (format!("{{{template}}}"), "spec.selector: must not be empty"),
        (
            format!("{{selector: {{matchLabels: {{app: b}}}}, {template}}}"),
            "spec.template.metadata.labels: do not match spec.selector",
        ),
        (with("replicas: -1, "), "spec.replicas: must not be negative"),
        (with("ordinals: {start: -1}, "), "spec.ordinals.start: must not be negative"),
        (
            with("podManagementPolicy: Sorted, "),
            "spec.podManagementPolicy: is \"Sorted\", must be one of OrderedReady or Parallel",
        ),
        (with("updateStrategy: {type: OnDelete}, "), "spec.updateStrategy.type: OnDelete is not supported"),
        (
            with("updateStrategy: {type: OnDelete, rollingUpdate: {}}, "),
            "spec.updateStrategy.rollingUpdate: must not be set with OnDelete",
        ),
        (
            with("updateStrategy: {rollingUpdate: {partition: -1}}, "),
            "spec.updateStrategy.rollingUpdate.partition: must not be negative",
        ),
        (
            with("updateStrategy: {rollingUpdate: {maxUnavailable: 0}}, "),
            "spec.updateStrategy.rollingUpdate.maxUnavailable: is 0, must be a number above 0",
        ),
        (
            with("volumeClaimTemplates: [{metadata: {name: data}}], "),
            "spec.volumeClaimTemplates: are not supported by this version of Lateen",
        ),
        (with("").replace("serviceName: a", "serviceName: A"), "spec.serviceName: \"A\" must be a DNS label"),
    ];
    let table: Vec<(&str, &str)> = table.iter().map(|(spec, expected)| (spec.as_str(), *expected)).collect();
    check("apps/v1", "StatefulSet", &table);
    let long = format!("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: {}}}\nspec: {}\n", "x".repeat(53), with(""));
    assert!(findings_of(&long).iter().any(|text| text.starts_with("metadata.name: must have at most 52 bytes")));
}

#[test]
fn endpoints_that_somebody_gives() {
    let slice = |rest: &str| {
        findings_of(&format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a, namespace: b, labels: {{kubernetes.io/service-name: a}}}}\n{rest}"
        ))
    };
    for (rest, expected) in [
        (
            "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], conditions: {ready: true, serving: true, terminating: false}}]\nports: [{name: http, port: 80}]",
            "",
        ),
        (
            "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], hostname: one, nodeName: node-1, zone: z, hints: {forZones: [{name: z}]}, targetRef: {kind: Pod, name: p, namespace: b}}]\nports: [{port: 80}]",
            "",
        ),
        ("addressType: IPv6\nendpoints: [{addresses: ['fd00::1']}]\nports: []", ""),
        ("addressType: IPv4\nendpoints: [{addresses: []}]", "endpoints[0].addresses: must not be empty"),
        (
            "addressType: IPv4\nendpoints: [{addresses: ['fd00::1']}]",
            "endpoints[0].addresses[0]: fd00::1 must be an IPv4 address",
        ),
        ("addressType: IPv6\nendpoints: [{addresses: [x]}]", "endpoints[0].addresses[0]: \"x\" must be an IPv6 address"),
        (
            "addressType: IPv4\nendpoints: [{addresses: [127.0.0.1]}]",
            "endpoints[0].addresses[0]: 127.0.0.1 must not be an unspecified, loopback",
        ),
        ("addressType: FQDN\nendpoints: [{addresses: [a.b]}]", "addressType: FQDN is not supported"),
        (
            "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], hostname: A}]",
            "endpoints[0].hostname: \"A\" must be a DNS label",
        ),
        (
            "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p, namespace: c}}]",
            "endpoints[0].targetRef.namespace: must be the namespace",
        ),
        ("addressType: IPv4\nports: [{name: a}]", "ports[0]: a port without a number"),
        ("addressType: IPv4\nports: [{name: a, port: 0}]", "ports[0].port: is 0, must be a port"),
        ("addressType: IPv4\nports: [{name: a, port: 1}, {name: a, port: 2}]", "ports[1].name: the name \"a\" is used twice"),
    ] {
        let found = slice(rest);
        let fits = if expected.is_empty() { found.is_empty() } else { found.iter().any(|text| text.starts_with(expected)) };
        assert!(fits, "{rest}\n{found:?}");
    }
    let of_nobody = findings_of("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\naddressType: IPv4\n");
    assert!(of_nobody[0].starts_with("warning metadata"), "{of_nobody:?}");
    let endpoints =
        |rest: &str| findings_of(&format!("apiVersion: v1\nkind: Endpoints\nmetadata: {{name: a, namespace: b}}\n{rest}"));
    for (rest, expected) in [
        (
            "subsets: [{addresses: [{ip: 10.0.0.1}, {ip: 'fd00::1', hostname: h}], notReadyAddresses: [{ip: 10.0.0.2}], ports: [{name: a, port: 80}]}]",
            "",
        ),
        ("subsets: [{ports: [{port: 80}]}]", "subsets[0]: must have addresses"),
        ("subsets: [{addresses: [{ip: x}]}]", "subsets[0].addresses[0].ip: \"x\" must be an IP address"),
        ("subsets: [{addresses: [{ip: 169.254.0.1}]}]", "subsets[0].addresses[0].ip: 169.254.0.1 must not be"),
        ("subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{name: a}]}]", "subsets[0].ports[0]: a port without a number"),
    ] {
        let found = endpoints(rest);
        let fits = if expected.is_empty() { found.is_empty() } else { found.iter().any(|text| text.starts_with(expected)) };
        assert!(fits, "{rest}\n{found:?}");
    }
}

#[test]
fn deployment() {
    let template = "template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, command: [x]}]}}";
    let table = [
        (format!("{{selector: {{matchLabels: {{app: a}}}}, {template}}}"), ""),
        (format!("{{selector: {{matchExpressions: [{{key: app, operator: In, values: [a, b]}}]}}, {template}}}"), ""),
        (format!("{{{template}}}"), "spec.selector: must not be empty"),
        (format!("{{selector: {{matchLabels: {{app: b}}}}, {template}}}"), "spec.template.metadata.labels: do not match spec.selector"),
        (format!("{{selector: {{matchExpressions: [{{key: app, operator: DoesNotExist}}]}}, {template}}}"), "spec.template.metadata.labels: do not match"),
        (format!("{{selector: {{matchExpressions: [{{key: app, operator: In}}]}}, {template}}}"), "spec.selector.matchExpressions[0].values: must not be empty"),
        (format!("{{selector: {{matchExpressions: [{{key: app}}]}}, {template}}}"), "spec.selector.matchExpressions[0]: the field \"operator\" is required"),
        (format!("{{replicas: -1, selector: {{matchLabels: {{app: a}}}}, {template}}}"), "spec.replicas: must not be negative"),
        (
            format!("{{minReadySeconds: 600, selector: {{matchLabels: {{app: a}}}}, {template}}}"),
            "spec.progressDeadlineSeconds: must be greater than minReadySeconds",
        ),
        (
            format!("{{strategy: {{type: Recreate, rollingUpdate: {{}}}}, selector: {{matchLabels: {{app: a}}}}, {template}}}"),
            "spec.strategy.rollingUpdate: must not be set with Recreate",
        ),
        (
            format!("{{strategy: {{rollingUpdate: {{maxSurge: 0, maxUnavailable: 0%}}}}, selector: {{matchLabels: {{app: a}}}}, {template}}}"),
            "spec.strategy.rollingUpdate.maxUnavailable: must not be 0",
        ),
        (
            format!("{{strategy: {{rollingUpdate: {{maxSurge: lots}}}}, selector: {{matchLabels: {{app: a}}}}, {template}}}"),
            "spec.strategy.rollingUpdate.maxSurge: is lots, must be a number or a percentage",
        ),
        (
            "{selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {restartPolicy: Never, containers: [{name: c, command: [x]}]}}}".to_owned(),
            "spec.template.spec.restartPolicy: must be Always",
        ),
        (
            "{selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: x}]}}}".to_owned(),
            "spec.template.spec.containers[0].command: is required: containers run as processes",
        ),
    ];
    let table: Vec<(&str, &str)> = table.iter().map(|(spec, expected)| (spec.as_str(), *expected)).collect();
    check("apps/v1", "Deployment", &table);
}

/// A table whose left sides are fields of the only container of a pod.
fn check_container(table: &[(&str, &str)]) {
    for (fields, expected) in table {
        let spec = format!("{{volumes: [{{name: v, emptyDir: {{}}}}], containers: [{{name: c, command: [x], {fields}}}]}}");
        check("v1", "Pod", &[(&spec, expected)]);
    }
}

#[test]
fn containers() {
    check_container(&[
        (
            "args: [a], workingDir: /, image: x, imagePullPolicy: Always, resources: {limits: {cpu: 1}}, securityContext: {}, stdin: true, tty: true",
            "",
        ),
        (
            "securityContext: {runAsUser: 1}",
            "warning spec.containers[0].securityContext: has no effect on one machine: containers run as the user who started",
        ),
        ("ports: [{name: http, containerPort: 80}, {containerPort: 81, protocol: UDP}]", ""),
        ("ports: [{containerPort: 0}]", "spec.containers[0].ports[0].containerPort: is 0"),
        ("ports: [{name: UPPER, containerPort: 1}]", "spec.containers[0].ports[0].name: \"UPPER\" must be a port name"),
        (
            "ports: [{name: a, containerPort: 1}, {name: a, containerPort: 2}]",
            "spec.containers[0].ports[1].name: the name \"a\" is used twice",
        ),
        ("ports: [{containerPort: 1, hostPort: 2}]", "spec.containers[0].ports[0].hostPort: is not supported"),
        ("env: [{name: A, value: b}, {name: C, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]", ""),
        ("env: [{name: C, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app.kubernetes.io/name']\"}}}]", ""),
        ("env: [{name: A, value: 1}]", "spec.containers[0].env[0].value: is the number 1, must be a string"),
        ("env: [{name: 'A=B'}]", "spec.containers[0].env[0].name: \"A=B\" must be printable ASCII"),
        (
            "env: [{name: A, value: b, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]",
            "spec.containers[0].env[0].valueFrom: must not be set together",
        ),
        ("env: [{name: A, valueFrom: {}}]", "spec.containers[0].env[0].valueFrom: must set exactly one"),
        (
            "env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.hostname}}}]",
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: \"spec.hostname\" must be one of",
        ),
        (
            "env: [{name: A, valueFrom: {secretKeyRef: {name: s}}}]",
            "spec.containers[0].env[0].valueFrom.secretKeyRef.key: is required",
        ),
        (
            "env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}]",
            "spec.containers[0].env[0].valueFrom.resourceFieldRef: is not supported",
        ),
        ("envFrom: [{prefix: P_, configMapRef: {name: a}}, {secretRef: {name: b, optional: true}}]", ""),
        ("envFrom: [{}]", "spec.containers[0].envFrom[0]: must set exactly one"),
        ("volumeMounts: [{name: v, mountPath: /v, subPath: a/b, readOnly: true}]", ""),
        ("volumeMounts: [{name: w, mountPath: /v}]", "spec.containers[0].volumeMounts[0].name: there is no volume \"w\""),
        (
            "volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /v}]",
            "spec.containers[0].volumeMounts[1].mountPath: is used by an earlier",
        ),
        (
            "volumeMounts: [{name: v, mountPath: /v, subPath: ../a}]",
            "spec.containers[0].volumeMounts[0].subPath: \"../a\" must be a relative path",
        ),
        (
            "ports: [{name: http, containerPort: 80}], readinessProbe: {httpGet: {path: /, port: http, httpHeaders: [{name: a, value: b}]}, periodSeconds: 1}",
            "",
        ),
        (
            "livenessProbe: {exec: {command: [a]}}, startupProbe: {tcpSocket: {port: 1}}, readinessProbe: {grpc: {port: 1, service: a}}",
            "",
        ),
        ("readinessProbe: {}", "spec.containers[0].readinessProbe: must set exactly one"),
        (
            "livenessProbe: {httpGet: {port: 1, scheme: HTTPS}}",
            "spec.containers[0].livenessProbe.httpGet.scheme: HTTPS is not supported",
        ),
        (
            "readinessProbe: {httpGet: {port: web}}",
            "spec.containers[0].readinessProbe.httpGet.port: the container has no port named \"web\"",
        ),
        ("readinessProbe: {httpGet: {path: /}}", "spec.containers[0].readinessProbe.httpGet.port: is required"),
        ("readinessProbe: {exec: {}}", "spec.containers[0].readinessProbe.exec.command: is required"),
        (
            "readinessProbe: {grpc: {port: 1}, periodSeconds: -1}",
            "spec.containers[0].readinessProbe.periodSeconds: is -1, must be at least 1",
        ),
        ("livenessProbe: {grpc: {port: 1}, successThreshold: 2}", "spec.containers[0].livenessProbe.successThreshold: must be 1"),
        ("lifecycle: {preStop: {sleep: {seconds: 1}}, postStart: {exec: {command: [a]}}}", ""),
        ("lifecycle: {stopSignal: SIGUSR1}", ""),
        ("lifecycle: {stopSignal: TERM}", "spec.containers[0].lifecycle.stopSignal: \"TERM\" must be one of SIGABRT, "),
        (
            "lifecycle: {postStart: {httpGet: {port: 1, scheme: HTTPS}}}",
            "spec.containers[0].lifecycle.postStart.httpGet.scheme: HTTPS is not supported",
        ),
        ("lifecycle: {preStop: {}}", "spec.containers[0].lifecycle.preStop: must set exactly one"),
        ("lifecycle: {preStop: {tcpSocket: {port: 1}}}", "spec.containers[0].lifecycle.preStop.tcpSocket: is not supported"),
        ("restartPolicy: Always", "spec.containers[0].restartPolicy: is not supported"),
    ]);
}

#[test]
fn pods() {
    let containers = "containers: [{name: c, command: [x]}]";
    let table = [
        ("{}".to_owned(), "spec.containers: is required"),
        (
            "{containers: [{name: c, command: [x]}, {name: c, command: [x]}]}".to_owned(),
            "spec.containers[1].name: the name \"c\" is used twice",
        ),
        (
            format!("{{initContainers: [{{name: c, command: [x]}}], {containers}}}"),
            "spec.containers[0].name: the name \"c\" is used twice",
        ),
        (
            format!("{{initContainers: [{{name: i, command: [x], readinessProbe: {{grpc: {{port: 1}}}}}}], {containers}}}"),
            "spec.initContainers[0].readinessProbe: is not allowed",
        ),
        (
            format!("{{serviceAccountName: a, serviceAccount: b, {containers}}}"),
            "spec.serviceAccount: must equal serviceAccountName",
        ),
        (format!("{{hostNetwork: true, {containers}}}"), "spec.hostNetwork: is not supported"),
        (format!("{{hostNetwork: false, nodeSelector: {{a: b}}, tolerations: [{{}}], affinity: {{}}, {containers}}}"), ""),
        (
            format!("{{securityContext: {{runAsNonRoot: true}}, {containers}}}"),
            "warning spec.securityContext: has no effect on one machine",
        ),
        (format!("{{dnsPolicy: None, {containers}}}"), "spec.dnsPolicy: is not supported"),
        (
            format!("{{hostAliases: [{{ip: x, hostnames: [a]}}], {containers}}}"),
            "spec.hostAliases[0].ip: \"x\" must be an IP address",
        ),
        (
            format!("{{terminationGracePeriodSeconds: -1, {containers}}}"),
            "spec.terminationGracePeriodSeconds: must not be negative",
        ),
        (
            format!(
                "{{volumes: [{{name: v, configMap: {{name: a, defaultMode: 0400, items: [{{key: a, path: b/c, mode: 0600}}]}}}}], {containers}}}"
            ),
            "",
        ),
        (format!("{{volumes: [{{name: v}}], {containers}}}"), "spec.volumes[0]: must have a source"),
        (
            format!("{{volumes: [{{name: v, emptyDir: {{}}, secret: {{secretName: s}}}}], {containers}}}"),
            "spec.volumes[0]: must have one source only",
        ),
        (
            format!("{{volumes: [{{name: v, emptyDir: {{}}}}, {{name: v, emptyDir: {{}}}}], {containers}}}"),
            "spec.volumes[1].name: the name \"v\" is used twice",
        ),
        (format!("{{volumes: [{{name: v, secret: {{}}}}], {containers}}}"), "spec.volumes[0].secret.secretName: is required"),
        (
            format!("{{volumes: [{{name: v, configMap: {{name: a, defaultMode: 1000}}}}], {containers}}}"),
            "spec.volumes[0].configMap.defaultMode: is 1000 (01750 in octal)",
        ),
        (
            format!("{{volumes: [{{name: v, configMap: {{name: a, items: [{{key: a, path: /b}}]}}}}], {containers}}}"),
            "spec.volumes[0].configMap.items[0].path: \"/b\" must be a relative",
        ),
        (
            format!("{{volumes: [{{name: v, emptyDir: {{medium: Disk}}}}], {containers}}}"),
            "spec.volumes[0].emptyDir.medium: is \"Disk\"",
        ),
        (
            format!("{{volumes: [{{name: v, hostPath: {{path: /}}}}], {containers}}}"),
            "spec.volumes[0].hostPath: is not supported",
        ),
        (
            format!("{{volumes: [{{name: v, projected: {{sources: []}}}}], {containers}}}"),
            "spec.volumes[0].projected: is not supported",
        ),
    ];
    let table: Vec<(&str, &str)> = table.iter().map(|(spec, expected)| (spec.as_str(), *expected)).collect();
    check("v1", "Pod", &table);
}

#[test]
fn config_maps_and_secrets() {
    let config_map = |body: &str| findings("v1", "ConfigMap", body);
    assert!(config_map("data: {a: b}\nbinaryData: {c: YQ==}\nimmutable: true").is_empty());
    assert_eq!(config_map("data: {a: b}\nbinaryData: {a: YQ==}"), ["binaryData.a: is in data too"]);
    assert!(config_map("data: {a/b: c}")[0].starts_with("data[a/b]: must be at most 253"));
    assert!(config_map("data: {a: 1}")[0].starts_with("data.a: is the number 1, must be a string"));
    assert!(config_map("binaryData: {a: '!'}")[0].starts_with("binaryData.a: not base64"));
    let secret = |body: &str| findings("v1", "Secret", body);
    assert!(secret("type: Opaque\ndata: {a: YQ==}\nstringData: {b: c}").is_empty());
    assert_eq!(
        secret("type: kubernetes.io/tls\ndata: {tls.crt: YQ==}"),
        ["data[tls.key]: is required in a Secret of type kubernetes.io/tls"]
    );
    assert!(secret("stringData: {'a b': c}")[0].starts_with("stringData[a b]: must be"));
}
