"""The results: a table for people, raw data for programs."""
import json
import statistics

from . import control

NOTES = """Medians of the rounds, in brackets the least and the greatest. The targets of a scenario take turns in each round, on the same
cores as the load and the server; ratios mean more than figures. Processor time is the proxies' own (both of a pair), by the
scheduler's account. Lateen and Envoy run in two meshes of the same manifests, Envoy configured over xDS by Lateen's control
plane; Envoy has no Istio metrics, Lateen has. HAProxy and nginx check name and root of both certificates; they authorize
nothing, count nothing by route and peer, and take no configuration at run time."""


def number(value):
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def summarize(rounds, key):
    """Median, least and greatest of the rounds that have the figure."""
    values = [r[key] for r in rounds if r.get(key) is not None]
    return (statistics.median(values), min(values), max(values)) if values else None


def cell(summary):
    if summary is None:
        return "–"
    median, least, greatest = summary
    return number(median) + (f" ({number(least)}–{number(greatest)})" if least != greatest else "")


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def ratio_lines(scenario, results):
    """Lateen's medians as a share of each other target's."""
    lines = []
    for other in results:
        parts = []
        for metric in scenario.metrics if other not in ("lateen", "direct") else []:
            own, theirs = (summarize(results.get(name, []), metric.key) for name in ("lateen", other))
            if own and theirs and theirs[0] > 0 and metric.plot:
                parts.append(f"{metric.label.split(' (')[0]} {own[0] / theirs[0]:.2f}")
        if parts:
            lines.append(f"Lateen / {other}: " + ", ".join(parts))
    added = added_latency(scenario, results)
    return lines + ([added] if added else [])


def added_latency(scenario, results):
    """What a proxy adds to the latency without one."""
    parts = []
    for metric in scenario.metrics:
        base = summarize(results.get("direct", []), metric.key) if metric.key in ("p50_us", "p99_us") and "cpu_us" in \
            [m.key for m in scenario.metrics] else None
        others = {name: summarize(rounds, metric.key) for name, rounds in results.items() if name != "direct"}
        if base:
            added = ", ".join(f"{name} {number(value[0] - base[0])}" for name, value in others.items() if value)
            parts.append(f"{metric.label} {added}")
    return "Added to no proxy: " + "; ".join(parts) if parts else ""


def section(scenario, results):
    header = ["", *(metric.label for metric in scenario.metrics)]
    rows = [[name, *(cell(summarize(rounds, metric.key)) for metric in scenario.metrics)] for name, rounds in results.items()]
    parts = [f"## {scenario.title}", f"`{scenario.name}` {scenario.note}".strip(), table(header, rows)]
    parts += ["\n".join(f"- {line}" for line in ratio_lines(scenario, results)), f"![{scenario.title}]({scenario.name}.svg)"]
    return "\n\n".join(part for part in parts if part)


def markdown(run):
    where = run["machine"]
    lines = ["# Benchmarks", f"Commit {where['commit']}, Linux {where['kernel']}, {where['cores']} × {where['cpu']}, {where['memory_gb']} GB; "
             f"load before: {where['load_average_before']:.1f}. {run['rounds']} rounds of {run['seconds']} s, {run['date']}.",
             "; ".join(run["versions"].values()) + ".",
             f"The machine itself stood still for more than a millisecond {where['stalls']['a_second']:.1f} times a second on each "
             f"processor before the run, {where['stalls']['each_ms']:.1f} ms each time.", NOTES]
    lines += [section(scenario, run["results"][scenario.name]) for scenario in run["scenarios"] if scenario.name in run["results"]]
    if run["control"]:
        lines += ["## Control plane", "From an edit until proxies have acknowledged it. KB are those of resources, without framing.",
                  table(["", *control.COLUMNS], [[name, *control.row(result)] for name, result in run["control"].items()]),
                  "\n".join(f"- `{name}`: {control.describe(name)}" for name in run["control"])]
    for name, rows in run["micro"].items():
        lines += [f"## Micro-benchmark: {name}", table(["", ""], rows)]
    if run["failures"]:
        lines += ["## Not measured", "\n".join(f"- {line}" for line in run["failures"])]
    return "\n\n".join(lines) + "\n"


def write(directory, run):
    """`results.md` and `results.json`; written after each scenario, so that a run that is ended early leaves what it has."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.md").write_text(markdown(run))
    raw = {key: value for key, value in run.items() if key != "scenarios"}
    (directory / "results.json").write_text(json.dumps(raw, indent=1) + "\n")
