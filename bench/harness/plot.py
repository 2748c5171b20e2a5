"""Plots as SVG: for each scenario a row of bars for each figure, with the spread of the rounds."""
from xml.sax.saxutils import escape

from .report import number, summarize

COLOURS = {"direct": "#9aa0a6", "lateen": "#0b6e4f", "accelerated": "#52b788", "envoy": "#b5179e", "haproxy": "#3a86ff", "nginx": "#f4a259"}
WIDTH, LABEL, BAR, GAP = 760, 90, 18, 6


def text(x, y, content, size=12, weight="normal", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}">{escape(content)}</text>'


def bar(y, name, summary, scale):
    """A bar of the median, a line from the least to the greatest, and the figure."""
    median, least, greatest = summary
    left, middle = LABEL, y + BAR / 2
    line = f'<line x1="{left + least * scale:.1f}" x2="{left + greatest * scale:.1f}" y1="{middle}" y2="{middle}" stroke="#222" stroke-width="1.5"/>'
    return [text(LABEL - 8, y + BAR - 5, name, anchor="end"),
            f'<rect x="{left}" y="{y}" width="{median * scale:.1f}" height="{BAR}" fill="{COLOURS[name]}"/>',
            line if greatest > least else "", text(left + greatest * scale + 6, y + BAR - 5, number(median))]


def panel(y, metric, results):
    """The bars of one figure; gives their parts and where they end."""
    summaries = {name: summarize(rounds, metric.key) for name, rounds in results.items()}
    summaries = {name: (max(s[0], 0), max(s[1], 0), max(s[2], 0)) for name, s in summaries.items() if s}
    if not summaries:
        return [], y
    scale = (WIDTH - LABEL - 90) / (max(greatest for _, _, greatest in summaries.values()) or 1)
    better = "more is better" if metric.better == "more" else "less is better"
    parts = [text(LABEL, y + 14, f"{metric.label}: {better}", 12, "bold")]
    y += 22
    for name, summary in summaries.items():
        parts += bar(y, name, summary, scale)
        y += BAR + GAP
    return parts, y + 10


def svg(scenario, results):
    parts, y = [text(12, 22, scenario.title, 15, "bold")], 36
    for metric in scenario.metrics:
        if metric.plot:
            more, y = panel(y, metric, results)
            parts += more
    body = "\n".join(part for part in parts if part)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n')


def write(directory, scenario, results):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{scenario.name}.svg").write_text(svg(scenario, results))
