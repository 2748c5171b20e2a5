"""The control plane under load: sizes, and what is read from `lateen-bench control`."""
from . import load

# Name of a size: proxies, services, whether Sidecars scope them, further options.
SIZES = {
    "control-100": (100, 100, False, []),
    "control-1000": (1000, 1000, True, []),
    "control-5000": (5000, 5000, True, []),
    "control-unscoped": (500, 500, False, []),
    "control-slow": (1000, 1000, True, ["--slow", 50, "--stuck", 50]),
    "control-storm": (2000, 2000, True, ["--edits", 2, "--churn", 0, "--burst", 0, "--reconnect", "--restart"]),
}
# A control plane takes up streams at a rate that protects it; to fill it for a measurement of edits, it takes them all. Storms
# are measured as it is.
UNLIMITED = ["--control-arg=--max-requests-per-second", "--control-arg=100000"]
COLUMNS = ["proxies", "services", "start s", "connect s", "KB/proxy", "endpoint edit: last proxy p50 / max ms", "CPU ms/edit",
           "KB/edit", "route edit: last proxy p50 / max ms", "churn: each proxy p50 / p99 / max ms", "burst: last ms",
           "reconnect ms", "restart ms", "resident MB"]


def describe(name):
    proxies, services, scoped, more = SIZES[name]
    seen = "each sees its namespace and the edited service" if scoped else "each sees all"
    return f"Control plane: {proxies:,} proxies, {services:,} services, {seen}" + (f", {' '.join(map(str, more))}" if more else "")


def measure(kit, name, seconds):
    proxies, services, scoped, more = SIZES[name]
    scope = ["--scoped"] if scoped else []
    more = more if name == "control-storm" else more + UNLIMITED
    return load.control_plane(kit, ["--proxies", proxies, "--services", services, "--churn-seconds", seconds, "--limit", 300, *scope, *more])


def row(result):
    """A line of the table; what was not measured is a dash."""
    def text(part, group, keys, form="{:.0f}"):
        values = result.get(part) or {}
        values = (values.get(group) or {}) if group else values
        return " / ".join(form.format(values[key]) for key in keys) if all(key in values for key in keys) else "–"
    last = ["p50_ms", "max_ms"]
    edit, edits = result["endpoint"], max((result["endpoint"].get("last_proxy") or {}).get("count", 1), 1)
    return [f"{result['proxies']:,}", f"{result['services']:,}", text("start", None, ["seconds"], "{:.2f}"),
            text("connect", None, ["seconds"], "{:.2f}"), text("connect", None, ["memory_per_proxy_kb"]),
            text("endpoint", "last_proxy", last), f"{edit['cpu_seconds'] * 1e3 / edits:.0f}", f"{edit['bytes'] / 1e3 / edits:.0f}",
            text("route", "last_proxy", last), text("churn", "each_proxy", ["p50_ms", "p99_ms", "max_ms"]),
            text("burst", "last_proxy", ["max_ms"]), text("reconnect", "each_proxy", ["max_ms"]),
            text("restart", "each_proxy", ["max_ms"]), f"{result['resident_mb']:.0f}"]
