"""What is measured. Each scenario says in which world, on which targets, and what its figures mean."""
import dataclasses
import time
import typing

from . import load, worlds
from .system import Failure, memory_mb


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of a scenario. `better` is the direction in which one wants it."""
    key: str
    label: str
    better: str = "less"
    plot: bool = True


RATE = Metric("rate", "requests/s", "more")
CPU = Metric("cpu_us", "CPU µs/request (s per 10,000: ÷ 100)")
FAILED = Metric("failed", "failed", plot=False)
LATENCY = [Metric("p50_us", "p50 µs"), Metric("p90_us", "p90 µs"), Metric("p99_us", "p99 µs"), Metric("p999_us", "p99.9 µs")]


@dataclasses.dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    metrics: tuple
    measure: typing.Callable
    world: str = "base"
    shape: str = "pair"
    targets: tuple = tuple(worlds.NAMES)
    note: str = ""
    # A figure that does not vary from round to round is taken once.
    once: bool = False


def fixed(rate):
    return lambda target, seconds: load.fixed_rate(target, seconds, rate)


def memory(target, role="client"):
    return memory_mb(target.proxies(role))


def settled_memory(target, _):
    """Memory of the client's proxy once it has not changed for three seconds: some give back what only their start needed."""
    last, still = memory(target), 0
    for _ in range(40):
        time.sleep(1)
        now = memory(target)
        same = all(abs(now[key] - last[key]) <= 0.02 * last[key] for key in now)
        last, still = now, still + 1 if same else 0
        if still >= 3:
            return now
    raise Failure(f"{target.name}: memory does not settle")


def held_memory(count, protocol):
    """What open connections, each used once, add to the proxies."""
    roles = ["client", "server"] if protocol == "tcp" else ["client"]

    def measure(target, _):
        before = {role: memory(target, role) for role in roles}
        with load.Held(target, count, protocol):
            time.sleep(1)
            after = {role: memory(target, role) for role in roles}
        result = {f"{role}_kb": (after[role]["own_mb"] - before[role]["own_mb"]) * 1024 / count for role in roles}
        return result | {"rss_mb": after["client"]["rss_mb"]}
    return measure


def held(name, count, protocol, what):
    sides = [Metric("client_kb", "KB a connection, client's proxy")]
    sides += [Metric("server_kb", "KB a connection, server's proxy")] if protocol == "tcp" else []
    return Scenario(name, f"Memory with {count:,} {what} open", (*sides, Metric("rss_mb", "client's proxy, resident MB")),
                    held_memory(count, protocol), targets=PROXIES, once=True,
                    note="What the connections add to private memory, at most: memory of earlier scenarios is used again.")


PROXIES = tuple(name for name in worlds.NAMES if name != "direct")
MEMORY = (Metric("rss_mb", "resident MB"), Metric("own_mb", "of it private MB"))
NO_HTTP2 = tuple(name for name in worlds.NAMES if name != "nginx")
HTTP = (RATE, CPU, FAILED)
PEERS_DO_LESS = "HAProxy and nginx have the log alone here: no authorization by rules, no spans." \
                " They write the log to a pipe that the mesh reads, as all do."

ALL = [
    Scenario("idle", "Memory of an idle proxy", MEMORY, settled_memory, targets=PROXIES, once=True),
    Scenario("hop", "One plain HTTP/1.1 hop, saturated", HTTP, load.wrk, shape="hop",
             note="The client's sidecar alone; the server has none. 64 connections."),
    Scenario("hop-1000", "One plain hop at 1,000 requests/s", (*LATENCY, CPU, FAILED), fixed(1000), shape="hop"),
    Scenario("gateway", "A gateway: one plain HTTP/1.1 hop in a pod of its own, saturated", HTTP, load.wrk, shape="gateway",
             note="Nothing is captured: clients speak to the proxy's own port. 64 connections."),
    Scenario("http1", "Pair with mTLS, HTTP/1.1, saturated", HTTP, load.wrk, note="64 connections."),
    Scenario("http1-1000", "Pair with mTLS at 1,000 requests/s", (*LATENCY, CPU, FAILED), fixed(1000),
             note="Open loop: latency counts from when a request was due. Processors are kept from sleeping."),
    Scenario("http1-4000", "Pair with mTLS at 4,000 requests/s", (*LATENCY, CPU, FAILED), fixed(4000),
             note="Open loop: latency counts from when a request was due. Processors are kept from sleeping."),
    Scenario("http2", "Pair with mTLS, HTTP/2, saturated", HTTP, lambda t, s: load.h2load(t, s, "http2"), targets=NO_HTTP2,
             note="8 connections, 16 streams each. nginx speaks no HTTP/2 to servers."),
    Scenario("grpc", "Pair with mTLS, gRPC unary, saturated", HTTP, load.grpc_unary, note="8 connections, 16 streams each."),
    Scenario("grpc-stream", "Pair with mTLS, gRPC messages to and fro",
             (Metric("rate", "messages/s", "more"), Metric("p50_us", "p50 µs"), Metric("cpu_us", "CPU µs/message")),
             load.grpc_stream, note="16 streams on one connection."),
    Scenario("tcp", "Pair with mTLS, bytes of one TCP connection",
             (Metric("gbit", "Gbit/s", "more"), Metric("cpu_us", "CPU ms/GB")), load.tcp_bytes),
    Scenario("tcp-hop", "One plain hop, bytes of one TCP connection",
             (Metric("gbit", "Gbit/s", "more"), Metric("cpu_us", "CPU ms/GB")), load.tcp_bytes, shape="hop"),
    Scenario("connections", "New mTLS connections",
             (Metric("rate", "connections/s", "more"), *LATENCY[:1], LATENCY[2], Metric("cpu_us", "CPU µs/connection"), FAILED),
             load.new_connections, note="Each TCP connection is a new one between the proxies too; sessions are resumed where the proxy does."),
    held("held-1000", 1000, "http1", "HTTP/1.1 connections"),
    held("held-10000", 10_000, "http1", "HTTP/1.1 connections"),
    held("held-tcp-1000", 1000, "tcp", "TCP connections, each with mTLS between the proxies,"),
    Scenario("observed", "Pair with authorization, access log and tracing, saturated", HTTP, load.wrk, world="observed", note=PEERS_DO_LESS),
    Scenario("observed-1000", "The same at 1,000 requests/s", (*LATENCY, CPU, FAILED), fixed(1000), world="observed", note=PEERS_DO_LESS),
    *(Scenario(f"services-{count}", f"Memory of a sidecar that sees {count:,} services", MEMORY, settled_memory,
               world=f"services-{count}", targets=tuple(worlds.ENGINES), once=True,
               note="Two subsets and ten endpoints each, unscoped; both sidecars have the same configuration.") for count in (500, 2000)),
    Scenario("automatic-500", "Memory of a sidecar that may know 500 services, by an automatic scope", MEMORY, settled_memory,
             world="services-500-automatic", targets=("lateen",), once=True,
             note="The same services. What is held is the server that was called, and an index of the others."),
]
