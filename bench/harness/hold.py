"""Holds ratios of Lateen to its peers against those that were measured once, so that nobody loses what was won.

A ratio of processor time, taken on one machine in one run, hardly depends on the machine; a time does. The file says what was
measured: `{"SCENARIO": {"PEER": RATIO}}`.
"""
import json
import statistics

from . import report
from .system import Failure

# A third more than what was measured fails: what noise cannot do, and a real loss does.
ALLOWED = 4 / 3
METRIC = "cpu_us"


def ratio(results, peer):
    """The median of the rounds' ratios: the targets of one round shared the machine's mood."""
    pairs = zip(results.get("lateen", []), results.get(peer, []))
    ratios = [own[METRIC] / theirs[METRIC] for own, theirs in pairs if own.get(METRIC) and theirs.get(METRIC)]
    return statistics.median(ratios) if ratios else None


def check(path, results):
    """A line for each ratio, and those that are broken."""
    held = json.loads(path.read_text(encoding="utf-8"))
    lines, broken = [], []
    for scenario, peers in held.items():
        for peer, expected in peers.items():
            if scenario not in results:
                continue
            now = ratio(results[scenario], peer)
            if now is None:
                broken.append(f"{scenario}: no figures of Lateen and {peer}")
                continue
            line = f"{scenario}: processor time of a request, Lateen / {peer}: {report.number(now)}, held: {report.number(expected)}"
            lines.append(line)
            if now > expected * ALLOWED:
                broken.append(f"{line}: more than a third over it")
    if not lines and not broken:
        raise Failure(f"{path}: none of its scenarios was run")
    return lines, broken
