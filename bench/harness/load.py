"""Load generators: what they are told, and what they say."""
import json
import re
import struct
import subprocess

from .system import Failure, awake, cpu_seconds, run_json

CONNECTIONS = 64


def with_cpu(target, seconds, command, read):
    """Runs a command in the client's pod and adds the proxies' processor time for each unit of work that it did."""
    pids = target.all_proxies()
    before = cpu_seconds(pids)
    output = target.exec(*command, timeout=seconds * 3 + 60)
    used = cpu_seconds(pids) - before
    result, work = read(output)
    if work <= 0:
        raise Failure(f"{target.name}: {command[0]} got nothing done: {output[-300:]}")
    if pids:
        result["cpu_us"] = used / work * 1e6
    return result


def wrk(target, seconds, protocol="http1"):
    """HTTP/1.1, as fast as it goes."""
    def read(output):
        requests = int(re.search(r"(\d+) requests in", output).group(1))
        failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
        errors = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
        bad = int(failed.group(1)) if failed else 0
        bad += sum(map(int, errors.groups())) if errors else 0
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output).group(1))
        return {"rate": rate, "failed": bad}, requests
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"http://{target.address(protocol)}/"]
    return with_cpu(target, seconds, command, read)


def h2load(target, seconds, protocol, *more, path="/"):
    """HTTP/2: eight connections with sixteen streams each."""
    def read(output):
        done = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", output)
        succeeded, failed, _ = map(int, done.groups())
        codes = re.search(r"status codes: (\d+) 2xx", output)
        rate = float(re.search(r"([\d.]+) req/s", output).group(1))
        return {"rate": rate, "failed": failed + succeeded - min(int(codes.group(1)), succeeded)}, succeeded
    command = ["h2load", "-t1", "-c8", "-m16", "-D", seconds, *more, f"http://{target.address(protocol)}{path}"]
    return with_cpu(target, seconds, command, read)


def grpc_unary(target, seconds):
    message = b"\x0a\x05hello"
    body = target.mesh.directory / "unary.bin"
    body.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    return h2load(target, seconds, "grpc", "-d", body, *headers, path="/lateen.echo.v1.Echo/Unary")


def fixed_rate(target, seconds, rate):
    """HTTP/1.1 in an open loop: latencies count from when a request was due."""
    def read(output):
        report = json.loads(output)
        good = report["statuses"].get("200", 0)
        result = {name: report["latency_ms"][key] * 1000 for name, key in
                  [("p50_us", "p50"), ("p90_us", "p90"), ("p99_us", "p99"), ("p999_us", "p99.9")]}
        result |= {"late_p99_us": report["late_ms"]["p99"] * 1000, "rate": report["rate"], "failed": report["requests"] - good}
        return result, report["requests"]
    url = f"http://{target.address('http1')}/"
    command = [target.mesh.kit.lateen, "echo", "get", url, "--rate", rate, "--duration", f"{seconds}s", "-c", CONNECTIONS, "-o", "json"]
    with awake():
        return with_cpu(target, seconds, command, read)


def tool(target, seconds, command, protocol, concurrency, read):
    """A command of `lateen-bench`."""
    arguments = [target.mesh.kit.tools, command, target.address(protocol), "-c", concurrency, "--seconds", seconds]
    return with_cpu(target, seconds, arguments, lambda output: read(json.loads(output)))


def grpc_stream(target, seconds):
    def read(report):
        latency = report["latency"]
        return {"rate": report["messages"] / report["seconds"], "p50_us": latency["p50_ms"] * 1e3}, report["messages"]
    return tool(target, seconds, "stream", "grpc", 16, read)


def tcp_bytes(target, seconds):
    def read(report):
        # Processor time is for each megabyte: microseconds a MB are milliseconds a GB.
        return {"gbit": report["bytes"] * 8 / report["seconds"] / 1e9}, report["bytes"] / 1e6
    return tool(target, seconds, "send", "tcp", 1, read)


def new_connections(target, seconds):
    def read(report):
        latency = report["latency"] or {"p50_ms": 0, "p99_ms": 0}
        result = {"rate": report["connections"] / report["seconds"], "p50_us": latency["p50_ms"] * 1e3,
                  "p99_us": latency["p99_ms"] * 1e3, "failed": report["failed"]}
        return result, report["connections"]
    return tool(target, seconds, "connect", "tcp", 16, read)


class Held:
    """Connections that stay open while the block runs."""

    def __init__(self, target, count, protocol):
        http = ["--http", "server"] if protocol == "http1" else []
        command = target.exec_command(target.mesh.kit.tools, "hold", target.address(protocol), "-n", count, *http)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        if not self.process.stdout.readline():
            reason = self.process.stderr.read().strip()
            self.__exit__()
            raise Failure(f"connections cannot be held: {reason[-300:]}")
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def control_plane(kit, options):
    """`lateen-bench control`."""
    command = [kit.tools, "control", "--lateen", kit.lateen, *options]
    return run_json(*command, timeout=1800)
