"""Processes and the machine: starting them, and what they use."""
import contextlib
import json
import os
import pathlib
import platform
import re
import struct
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench/results"


class Failure(Exception):
    """What a person has to know; the run goes on with the next measurement, or ends without a traceback."""


def run(*command, timeout=120, **kw):
    """The output of a command that succeeds."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, check=False, timeout=timeout, text=True, capture_output=True, **kw)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise Failure(f"{' '.join(command)[:300]}: exit code {done.returncode}: {' / '.join(last)}")
    return done.stdout


def run_json(*command, **kw):
    output = run(*command, **kw)
    try:
        return json.loads(output)
    except ValueError as error:
        raise Failure(f"{command[0]} printed no JSON: {output[:200]!r}") from error


def read(path):
    """A file's text, or nothing if it has gone: processes end."""
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def descendants(pid):
    """A process and all that come from it."""
    found, todo = [], [int(pid)]
    while todo:
        pid = todo.pop()
        found.append(pid)
        for thread in threads(pid):
            todo += [int(child) for child in read(f"/proc/{pid}/task/{thread}/children").split()]
    return found


def threads(pid):
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def command_name(pid):
    """The program that a process runs, without its directory."""
    return pathlib.Path(read(f"/proc/{pid}/cmdline").split("\0")[0].split(":")[0]).name


def cpu_seconds(pids):
    """Processor time of these processes' threads so far, to the nanosecond (the scheduler's own account)."""
    stats = (read(f"/proc/{pid}/task/{thread}/schedstat") for pid in pids for thread in threads(pid))
    return sum(int(stat.split()[0]) for stat in stats if stat) / 1e9


def memory_mb(pids):
    """Memory of processes: resident, and what is theirs alone (without the program's pages, which others share)."""
    rollups = [read(f"/proc/{pid}/smaps_rollup") for pid in pids]

    def total(*fields):
        return sum(int(kb) for text in rollups for field in fields for kb in re.findall(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)) / 1024
    return {"rss_mb": total("Rss"), "own_mb": total("Private_Clean", "Private_Dirty")}


@contextlib.contextmanager
def awake():
    """Keeps idle processors from sleeping, as one does where latency counts: on a virtual machine, how long it takes to wake one is its
    host's doing. Nothing where that is not allowed."""
    try:
        device = open("/dev/cpu_dma_latency", "wb", buffering=0)
    except OSError:
        device = contextlib.nullcontext()
    with device as held:
        if held:
            held.write(struct.pack("i", 0))
        yield


# Looks at the clock and does nothing else; prints how often it was kept from that for more than a millisecond, and how long in all.
IDLE_LOOP = """
import os, sys, time
os.sched_setaffinity(0, [int(sys.argv[1])])
stalls, end, last = [], time.perf_counter() + float(sys.argv[2]), time.perf_counter()
while last < end:
    now = time.perf_counter()
    if now - last > 0.001:
        stalls.append(now - last)
    last = now
print(len(stalls), sum(stalls))
"""


def stalls(seconds=5):
    """How a machine on which nothing runs holds up what does: times a second that a processor stands still for more than a
    millisecond, and milliseconds each time. No proxy can have a better tail."""
    loops = [subprocess.Popen([sys.executable, "-c", IDLE_LOOP, str(cpu), str(seconds)], stdout=subprocess.PIPE, text=True)
             for cpu in sorted(os.sched_getaffinity(0))]
    counts, sums = zip(*(map(float, loop.communicate()[0].split()) for loop in loops))
    return {"a_second": sum(counts) / len(counts) / seconds, "each_ms": sum(sums) / max(sum(counts), 1) * 1e3}


def machine():
    """On what a run ran."""
    model = re.search(r"model name\s*: (.*)", read("/proc/cpuinfo"))
    try:
        commit = run("git", "-C", ROOT, "rev-parse", "--short=12", "HEAD").strip()
        if run("git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no").strip():
            commit += " and changes that are not committed"
    except Failure:
        commit = "unknown"
    return {
        "commit": commit, "kernel": platform.release(), "cpu": model.group(1) if model else platform.machine(),
        "cores": os.cpu_count(), "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average_before": os.getloadavg()[0], "stalls": stalls(),
    }
