"""Charts without dependencies: inline SVG in one HTML file."""

import html
import math
from collections.abc import Mapping, Sequence

from ._estimate import TrainingEstimate
from ._sweep import Candidate, Sweep, shown_settings
from .errors import InvalidFieldError

# Okabe-Ito colours: told apart by colour-blind readers and in print.
_COLOURS = {
    "matmul": "#0072B2",
    "attention": "#56B4E9",
    "elementwise": "#009E73",
    "head": "#7FB77E",
    "launch": "#999999",
    "tensor": "#D55E00",
    "context": "#E69F00",
    "expert": "#CC79A7",
    "weights": "#F0E442",
    "imbalance": "#8C6D46",
    "bubble": "#555555",
    "transfer": "#B07AA1",
    "data": "#C44E52",
    "optimizer": "#4C72B0",
    "host": "#BBBBBB",
    "jitter": "#DDDDDD",
    "offload": "#64B5CD",
    # Parts of memory; weights and optimizer have theirs above.
    "gradients": "#009E73",
    "activations": "#56B4E9",
    "recompute": "#0072B2",
    "logits": "#D55E00",
    "gathered": "#E69F00",
    "buffers": "#CC79A7",
    "reserve": "#BBBBBB",
}
_FALLBACK = "#888888"


def seconds_text(seconds: float) -> str:
    """Seconds with a fitting unit."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


def bytes_text(size: float) -> str:
    """Bytes in decimal units."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{size / limit:.3g} {unit}"
    return f"{size:.0f} B"


def part_colour(name: str) -> str:
    """Colour of a term of time or memory, the same in every chart."""
    return _COLOURS.get(name, _FALLBACK)


def bar_svg(parts: Mapping[str, float], *, width: int = 860, unit: str = "s") -> str:
    """A stacked bar with a legend, one segment per part above half a percent.

    Args:
        parts: name -> value.
        width: pixels.
        unit: "s" or "B".
    """
    total = sum(parts.values()) or 1.0
    shown = sorted(((k, v) for k, v in parts.items() if v > 0.005 * total), key=lambda kv: -kv[1])
    text = seconds_text if unit == "s" else bytes_text
    bar: list[str] = []
    legend: list[str] = []
    x = 0.0
    columns = 4
    for index, (name, value) in enumerate(shown):
        span = width * value / total
        colour = part_colour(name)
        bar.append(
            f'<rect x="{x:.1f}" y="0" width="{span:.1f}" height="34" fill="{colour}">'
            f"<title>{html.escape(name)}: {text(value)}</title></rect>"
        )
        x += span
        column, row = index % columns, index // columns
        left, top = column * width / columns, 54 + 22 * row
        legend.append(
            f'<rect x="{left:.0f}" y="{top - 11}" width="12" height="12" fill="{colour}"/>'
            f'<text x="{left + 18:.0f}" y="{top}">{html.escape(name)} '
            f"{text(value)} ({100 * value / total:.0f} %)</text>"
        )
    height = 54 + 22 * math.ceil(len(shown) / columns)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" '
        f'font-size="13" fill="currentColor">{"".join(bar)}{"".join(legend)}</svg>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """A handful of round values on a logarithmic axis."""
    out: list[float] = []
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        out = []
        power = math.floor(math.log10(low))
        while 10.0**power <= high:
            out += [m * 10.0**power for m in steps if low <= m * 10.0**power <= high]
            power += 1
        if len(out) > 3:
            break
    return out or [low, high]


def pareto_svg(found: Sweep, *, width: int = 860, height: int = 420) -> str:
    """Step time against memory of every configuration that fits, with the Pareto front.

    Args:
        found: a sweep.
        width: pixels.
        height: pixels.
    """
    shown = found.ranked[:2000]
    left, right, top, bottom = 70, 20, 16, 48
    times = [c.step.seconds for c in shown]
    sizes = [c.memory.bytes for c in shown]
    x0, x1 = min(times) * 0.93, max(times) * 1.07
    y0, y1 = min(sizes) * 0.93, max(sizes) * 1.07

    def at(candidate: Candidate) -> tuple[float, float]:
        u = math.log(candidate.step.seconds / x0) / math.log(x1 / x0)
        v = math.log(candidate.memory.bytes / y0) / math.log(y1 / y0)
        return left + u * (width - left - right), height - bottom - v * (height - top - bottom)

    marks: list[str] = []
    for value in _ticks(x0, x1):
        x = left + math.log(value / x0) / math.log(x1 / x0) * (width - left - right)
        marks.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - bottom}" class="grid"/>'
            f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">'
            f"{seconds_text(value)}</text>"
        )
    for value in _ticks(y0, y1):
        y = height - bottom - math.log(value / y0) / math.log(y1 / y0) * (height - top - bottom)
        marks.append(
            f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{bytes_text(value)}</text>'
        )
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="#0072B2" fill-opacity="0.35">'
        f"<title>{html.escape(_plan_text(c))}: {seconds_text(c.step.seconds)}, "
        f"{bytes_text(c.memory.bytes)}</title></circle>"
        for c, (x, y) in ((c, at(c)) for c in shown)
    )
    front = found.pareto()
    steps = [at(c) for c in front]
    path: list[str] = []
    for index, (x, y) in enumerate(steps):
        path.append(f"M{x:.1f},{y:.1f}" if index == 0 else f"H{x:.1f}V{y:.1f}")
    best = at(found.best)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" '
        'font-size="13" fill="currentColor"><style>.grid{stroke:currentColor;'
        "stroke-opacity:.15}</style>"
        f"{''.join(marks)}{dots}"
        f'<path d="{"".join(path)}" fill="none" stroke="#D55E00" stroke-width="2"/>'
        f'<circle cx="{best[0]:.1f}" cy="{best[1]:.1f}" r="6" fill="none" stroke="#D55E00" '
        'stroke-width="2"/>'
        f'<text x="{(left + width) / 2:.0f}" y="{height - 8}" text-anchor="middle">step time</text>'
        f'<text x="16" y="{height / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 16 {height / 2:.0f})">memory per device</text></svg>'
    )


def _plan_text(candidate: Candidate) -> str:
    return " ".join(f"{k}={v}" for k, v in shown_settings(candidate.plan).items())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:13px}
th,td{text-align:right;padding:.25rem .5rem;border-bottom:1px solid #8884}
th:first-child,td:first-child{text-align:left}
svg{width:100%;height:auto}
"""


def html_report(estimate: TrainingEstimate | None = None, found: Sweep | None = None) -> str:
    """One self-contained HTML page: no script, nothing loaded from elsewhere.

    Args:
        estimate: a single configuration, shown by term.
        found: a sweep, shown as a chart and a table.
    """
    blocks: list[str] = []
    title = "estimate"
    if estimate is not None:
        title = f"{estimate.model.name} on {estimate.topology}"
        blocks += [
            f"<p>{seconds_text(estimate.step_time_s)} per step "
            f"(± {100 * estimate.uncertainty:.0f} %), {estimate.tokens_per_s:,.0f} tokens/s, "
            f"MFU {100 * estimate.mfu:.1f} %.</p><h2>Where the time goes</h2>",
            bar_svg(estimate.step.terms),
            f"<h2>Memory per device: {bytes_text(estimate.memory.bytes)} of "
            f"{bytes_text(estimate.memory.capacity_bytes)}, "
            f"{'fits' if estimate.fits else 'does not fit'}</h2>",
            bar_svg(estimate.memory.parts, unit="B"),
        ]
    if found is not None:
        title = f"{found.model.name} on {found.topology}"
        rows = [
            [
                _plan_text(c) or "one device",
                seconds_text(c.step.seconds),
                bytes_text(c.memory.bytes),
                f"{100 * c.step.bubble:.0f} %",
            ]
            for c in found.ranked[:20]
        ]
        blocks += [
            f"<p>{found.tried:,} configurations, {len(found.ranked):,} fit.</p>"
            "<h2>Time against memory</h2>",
            pareto_svg(found),
            "<h2>Fastest</h2>",
            _table(("configuration", "step", "memory", "bubble"), rows),
        ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1>{''.join(blocks)}</html>\n"
    )


def chart_svg(estimate: TrainingEstimate | None = None, found: Sweep | None = None) -> str:
    """One SVG file: an estimate's bar of time, or a sweep's scatter.

    Args:
        estimate: a single configuration.
        found: a sweep; drawn where there is no estimate.
    """
    if estimate is not None:
        picture = bar_svg(estimate.step.terms)
    elif found is not None:
        picture = pareto_svg(found)
    else:
        raise InvalidFieldError("estimate", None, "an estimate or a sweep to draw")
    return picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"
