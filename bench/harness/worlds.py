"""The meshes in which is measured: `lateen up` on manifests that are made here.

A world is one mesh for each engine that is a sidecar, of the same manifests. Lateen's also holds the pods of HAProxy and nginx, and
those without a proxy. Each target is a namespace with a pod `client` and a pod `server`.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

from . import peers, system
from .system import Failure, run

# Each with a mesh of its own; `accelerated` is Lateen with `lateen up --accelerate`.
ENGINES = ["lateen", "accelerated", "envoy"]
STATIC = ["haproxy", "nginx"]
NAMES = ["direct", *ENGINES, *STATIC]
PROTOCOLS = {"http1": 80, "http2": 81, "grpc": 82, "tcp": 83}
# The pods whose proxies carry a shape's traffic.
ROLES = {"pair": ["client", "server"], "hop": ["client"], "gateway": ["gateway"]}
PORT_NAMES = {"http1": "http", "http2": "http2", "grpc": "grpc", "tcp": "tcp"}

OBSERVED = """
accessLogFile: /dev/stdout
enableTracing: true
defaultConfig: {tracing: {sampling: 100}}
extensionProviders:
- name: collector
  opentelemetry: {service: collector.istio-system.svc.cluster.local, port: 4317}
defaultProviders: {tracing: [collector]}
"""


def resource(kind, version, namespace, name, spec=None, labels=None, **more):
    meta = {"name": name, **({"namespace": namespace} if namespace else {}), **({"labels": labels} if labels else {})}
    return {"apiVersion": version, "kind": kind, "metadata": meta, **({"spec": spec} if spec is not None else {}), **more}


def pod(namespace, name, containers, labels=None, annotations=None):
    document = resource("Pod", "v1", namespace, name, {"containers": containers}, {"app": name, **(labels or {})})
    if annotations:
        document["metadata"]["annotations"] = annotations
    return document


def container(name, *command, port=None):
    probe = {"readinessProbe": {"tcpSocket": {"port": port}}} if port else {}
    return {"name": name, "image": "x", "command": [str(part) for part in command], **probe}


class Kit:
    """The programs that are measured, and those that measure."""

    def __init__(self, lateen, tools, envoy):
        self.lateen, self.tools, self.envoy = lateen, tools, envoy
        self.found = {name: shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin") for name in STATIC}

    def available(self, name):
        return {"direct": True, "lateen": True, "accelerated": True, "envoy": bool(self.envoy), **{k: bool(v) for k, v in self.found.items()}}[name]

    def versions(self):
        commands = {"lateen": [self.lateen, "--version"], "envoy": [self.envoy, "--version"], "haproxy": [self.found["haproxy"], "-v"]}
        lines = {name: run(*command).strip().splitlines()[0] for name, command in commands.items() if command[0]}
        if self.envoy:
            # PATH  version: HASH/VERSION/…
            lines["envoy"] = "Envoy " + lines["envoy"].split("version: ")[-1].split("/")[1]
        if self.found["nginx"]:
            lines["nginx"] = subprocess.run([self.found["nginx"], "-v"], capture_output=True, text=True, check=False).stderr.strip()
        return lines


class Manifests:
    """What one mesh of a world runs."""

    def __init__(self, kit, directory):
        self.kit, self.directory, self.documents = kit, directory, []

    def add(self, *documents):
        self.documents += documents

    def server_containers(self, namespace):
        config = self.directory / f"backend-{namespace}.conf"
        config.write_text(peers.backend(self.directory, f"backend-{namespace}"))
        return [
            container("web", self.kit.found["nginx"], "-c", config, port=8080),
            container("echo", "lateen", "echo", "--port", 8082, "--grpc", 8083, port=8083),
            container("tcp", self.kit.tools, "serve", "--port", 8084, port=8084),
        ]

    def target(self, namespace, shape, sidecars=False, peer=None):
        """A client and a server; with sidecars on both or (`hop`) the client's alone, or a peer in their place."""
        labels = {"istio-injection": "enabled"} if sidecars else None
        ports = [{"name": PORT_NAMES[p], "port": port, "targetPort": peers.APP_PORTS[p]} for p, port in PROTOCOLS.items()]
        bare = {"sidecar.istio.io/inject": "false"} if shape == "hop" else None
        client, server = [container("app", "sleep", "infinity")], self.server_containers(namespace)
        if peer:
            client.append(self.peer_container(peer, namespace, "hop" if shape == "hop" else "client"))
            server += [self.peer_container(peer, namespace, "server")] if shape == "pair" else []
        self.add(resource("Namespace", "v1", None, namespace, labels=labels),
                 resource("Service", "v1", namespace, "server", {"selector": {"app": "server"}, "ports": ports}),
                 pod(namespace, "client", client), pod(namespace, "server", server, bare))
        if sidecars and shape == "pair":
            strict = {"mtls": {"mode": "STRICT"}}
            self.add(resource("PeerAuthentication", "security.istio.io/v1", namespace, "default", strict))

    def gateway(self, namespace, peer=None):
        """A client, a server, and between them a proxy in a pod of its own, which takes plain HTTP/1.1 on its port."""
        server = {"selector": {"app": "server"}, "ports": [{"name": "http", "port": 80, "targetPort": peers.APP_PORTS["http1"]}]}
        ports = [{"name": "http", "port": 80, "targetPort": peers.CLIENT_PORTS["http1"] if peer else 80}]
        self.add(resource("Namespace", "v1", None, namespace),
                 resource("Service", "v1", namespace, "server", server),
                 resource("Service", "v1", namespace, "gateway", {"selector": {"app": "gateway"}, "ports": ports}),
                 pod(namespace, "client", [container("app", "sleep", "infinity")]),
                 pod(namespace, "server", self.server_containers(namespace)))
        if peer:
            self.add(pod(namespace, "gateway", [self.peer_container(peer, namespace, "gateway")]))
            return
        proxy = {"name": "istio-proxy", "image": "auto"}
        listener = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
        route = {"destination": {"host": "server", "port": {"number": 80}}}
        self.add(pod(namespace, "gateway", [proxy], {"sidecar.istio.io/inject": "true"}, {"inject.istio.io/templates": "gateway"}),
                 resource("Gateway", "networking.istio.io/v1", namespace, "gateway",
                          {"selector": {"app": "gateway"}, "servers": [listener]}),
                 resource("VirtualService", "networking.istio.io/v1", namespace, "server",
                          {"hosts": ["*"], "gateways": ["gateway"], "http": [{"route": [route]}]}))

    def peer_container(self, peer, namespace, role):
        """Waits for its configuration, which names the server's address."""
        config = self.directory / f"{namespace}-{role}.cfg"
        options = {"haproxy": "-db -f", "nginx": "-c"}[peer]
        wait = f"until [ -s {config} ]; do sleep 0.1; done; exec {self.kit.found[peer]} {options} {config}"
        return container(peer, "sh", "-c", wait)

    def observe(self):
        """Authorization, access log and tracing, all requests sampled."""
        mesh = resource("ConfigMap", "v1", "istio-system", "istio", data={"mesh": OBSERVED})
        collector = container("app", "lateen", "echo", "--port", 8080, "--otlp", 4317, "--kept-spans", 10, port=4317)
        ports = [{"name": "grpc-otlp", "port": 4317, "targetPort": 4317}]
        allow = {"selector": {"matchLabels": {"app": "server"}}, "action": "ALLOW", "rules": [
            {"from": [{"source": {"principals": ["cluster.local/ns/pair/sa/default"]}}], "to": [{"operation": {"methods": ["GET"]}}]},
            {"from": [{"source": {"namespaces": ["other"]}}], "to": [{"operation": {"paths": ["/admin/*"]}}]}]}
        self.add(resource("Namespace", "v1", None, "istio-system"), mesh, pod("istio-system", "collector", [collector]),
                 resource("Service", "v1", "istio-system", "collector", {"selector": {"app": "collector"}, "ports": ports}),
                 resource("AuthorizationPolicy", "security.istio.io/v1", "pair", "server", allow))

    def services(self, count, automatic):
        """Services with two subsets and ten endpoints each, which every sidecar may know, and holds if the scope is not automatic."""
        self.add(resource("Namespace", "v1", None, "many"))
        if not automatic:
            config = "defaultConfig: {proxyMetadata: {LATEEN_AUTOMATIC_SCOPE: 'false'}}"
            mesh = resource("ConfigMap", "v1", "istio-system", "istio", data={"mesh": config})
            self.add(resource("Namespace", "v1", None, "istio-system"), mesh)
        for number in range(count):
            host, high, low = f"service-{number}.many.example", number // 250, number % 250 + 1
            endpoints = [{"address": f"10.{100 + e}.{high}.{low}", "labels": {"version": f"v{e % 2 + 1}"}} for e in range(10)]
            self.add(resource("ServiceEntry", "networking.istio.io/v1", "many", f"service-{number}", {
                "hosts": [host], "location": "MESH_INTERNAL", "resolution": "STATIC", "addresses": [f"10.99.{high}.{low}"],
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "endpoints": endpoints}))
            self.add(resource("DestinationRule", "networking.istio.io/v1", "many", f"service-{number}", {
                "host": host, "subsets": [{"name": f"v{v}", "labels": {"version": f"v{v}"}} for v in (1, 2)]}))

    def write(self):
        path = self.directory / "mesh.yaml"
        path.write_text("\n---\n".join(json.dumps(document) for document in self.documents))
        return path


class Mesh:
    """A mesh that runs."""

    def __init__(self, kit, engine, name, manifests):
        self.kit, self.engine, self.name, self.directory = kit, engine, name, manifests.directory
        self.known = {}
        self.pods = sum(document["kind"] == "Pod" for document in manifests.documents)
        sidecar = f"envoy={kit.envoy}" if engine == "envoy" else "lateen"
        self.log = open(self.directory / "up.log", "w", encoding="utf-8")
        command = [kit.lateen, "up", str(manifests.write()), "--name", name, "--sidecar", sidecar]
        command += ["--accelerate"] if engine == "accelerated" else []
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def status(self):
        return system.run_json(self.kit.lateen, "status", "--name", self.name, "-o", "json")

    def await_ready(self, seconds=120):
        """Until all pods are ready and their sidecars have all that there is."""
        self.until(self.all_ready, seconds, "pods did not become ready")

    def all_ready(self):
        pods = self.status()["pods"]
        synced = all(state == "synced" for p in pods for state in p.get("xds", {}).values())
        return len(pods) == self.pods and synced and all(p["ready"] for p in pods)

    def until(self, condition, seconds, reason):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if condition():
                    return
            except (Failure, KeyError):
                pass
            time.sleep(0.2)
        tail = system.read(self.directory / "up.log").strip().splitlines()[-5:]
        raise Failure(f"the mesh of {self.engine}: {reason}: {' / '.join(tail)}")

    def pod(self, namespace, name):
        if (namespace, name) not in self.known:
            self.known = {(p["namespace"], p["name"]): p for p in self.status()["pods"]}
        return self.known[namespace, name]

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


class Target:
    """One of those that are compared, in one shape: how to reach the server through it, and its processes."""

    def __init__(self, name, shape, mesh, namespace):
        self.name, self.shape, self.mesh, self.namespace = name, shape, mesh, namespace

    @property
    def through_loopback(self):
        return self.name in STATIC and self.shape != "gateway"

    def address(self, protocol):
        if self.through_loopback:
            return f"127.0.0.1:{peers.CLIENT_PORTS[protocol]}"
        if self.shape == "gateway":
            return f"gateway:{PROTOCOLS[protocol]}"
        return f"server:{PROTOCOLS[protocol]}"

    def exec_command(self, *command):
        """A command that runs in the client's pod."""
        lateen = [self.mesh.kit.lateen, "exec", "--name", self.mesh.name, "-n", self.namespace, "client/app", "--"]
        return [str(part) for part in [*lateen, *command]]

    def exec(self, *command, timeout=120):
        return run(*self.exec_command(*command), timeout=timeout)

    def answers(self):
        return self.exec("curl", "-fsS", "-o", "/dev/null", f"http://{self.address('http1')}/") == ""

    def proxies(self, role):
        """Processes of the proxy in the pod `client` or `server`."""
        pod = self.mesh.pod(self.namespace, role)
        roots = [pod["proxy_pid"]] if self.name in ENGINES else pod["app_pids"]
        pids = [pid for root in roots if root for pid in system.descendants(root)]
        if self.name in ("lateen", "accelerated"):
            return pids
        if role == "server" and self.name == "nginx":
            # The application is an nginx too: its configuration tells them apart.
            own = [root for root in roots if "backend-" not in system.read(f"/proc/{root}/cmdline")]
            pids = [pid for root in own for pid in system.descendants(root)]
        return [pid for pid in pids if system.command_name(pid) == self.name]

    def all_proxies(self):
        if self.name == "direct":
            return []
        roles = ROLES[self.shape]
        found = {role: self.proxies(role) for role in roles}
        if not all(found.values()):
            raise Failure(f"{self.name}: no process of the proxy was found")
        return [pid for pids in found.values() for pid in pids]


class World:
    """Both meshes, and the targets in them."""

    def __init__(self, kit, kind, names):
        self.kit, self.kind = kit, kind
        self.names = [name for name in names if kit.available(name)]
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="lateen-bench-"))
        self.directory.chmod(0o755)
        self.meshes, self.targets = [], []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends all of it, and is not disturbed in that: who is impatient would leave half of it behind."""
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        for mesh in self.meshes:
            mesh.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)

    def start(self):
        peers.certificates(self.directory)
        for engine in ENGINES:
            static = [n for n in self.names if n not in ENGINES and not self.kind.startswith("services")]
            if engine in self.names or (engine == "lateen" and static):
                self.start_mesh(engine, static if engine == "lateen" else [])
        for mesh in self.meshes:
            mesh.await_ready()
        for target in self.targets:
            if target.name in STATIC:
                self.configure(target)
        for target in self.targets:
            target.mesh.until(target.answers, 60, f"{target.name} ({target.shape}) does not answer")

    def start_mesh(self, engine, static):
        directory = self.directory / engine
        directory.mkdir()
        manifests = Manifests(self.kit, directory)
        layout = []
        more = ["hop", "gateway"] if self.kind == "base" else []
        if engine in self.names:
            layout += [(engine, shape, shape, None) for shape in ["pair", *more]]
        for name in static:
            peer = None if name == "direct" else name
            layout += [(name, "pair", name, peer)] + [(name, shape, f"{name}-{shape}", peer) for shape in more if peer]
        for name, shape, namespace, peer in layout:
            if shape == "gateway":
                manifests.gateway(namespace, peer)
            else:
                manifests.target(namespace, shape, sidecars=name in ENGINES, peer=peer)
        if self.kind == "observed":
            manifests.observe()
        elif self.kind.startswith("services"):
            manifests.services(int(self.kind.split("-")[1]), automatic=self.kind.endswith("-automatic"))
        mesh = Mesh(self.kit, engine, f"bench-{engine}-{os.getpid()}", manifests)
        self.meshes.append(mesh)
        self.targets += [Target(name, shape, mesh, namespace) for name, shape, namespace, _ in layout]

    def configure(self, target):
        server = target.mesh.pod(target.namespace, "server")["ip"]
        write = {"haproxy": peers.haproxy, "nginx": peers.nginx}[target.name]
        for role in ["hop"] if target.shape == "hop" else ROLES[target.shape]:
            text = write(role, server, self.directory, log=self.kind == "observed")
            (target.mesh.directory / f"{target.namespace}-{role}.cfg").write_text(text)

    def of(self, shape):
        """The targets of a shape; without a proxy both are the same."""
        order = {name: place for place, name in enumerate(NAMES)}
        found = [t for t in self.targets if t.shape == shape or t.name == "direct"]
        return sorted(found, key=lambda target: order[target.name])
