"""Micro-benchmarks: the programs that measure one part of the product each, all in one go."""
import re
import subprocess

from .system import ROOT, Failure

# Package and example of each.
PROGRAMS = {
    "codec": ("lateen-proxy", "http1_codec"),
    "policy": ("lateen-policy", "measure"),
    "tls": ("lateen-tls", "tls_cost"),
    "metrics": ("lateen-observe", "count"),
    "generation": ("lateen-bench", "generation"),
}


def measure(name):
    """What a program printed, line by line: what was measured, and the figure with its unit."""
    package, example = PROGRAMS[name]
    command = ["cargo", "run", "--release", "--quiet", "-p", package, "--example", example]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=3600, check=False)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
    lines = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
    split = [re.match(r"(.*?\S)\s{2,}(\S.*)$", line) for line in lines]
    return [[m.group(1).strip(), m.group(2)] if m else [line.strip(), ""] for m, line in zip(split, lines)]
