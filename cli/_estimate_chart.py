"""`--chart FILE`: what `autoshard estimate` found as a picture.

HTML and SVG are our own and need nothing. PNG needs matplotlib (`pip install autoshard[charts]`),
which brings its fonts along: a machine of a cluster often has none to draw our SVG with.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from autoshard.errors import UsageError

SUFFIXES = (".html", ".svg", ".png")
# Parts below this share of the whole get no label.
_LABELLED = 0.04


def write_chart(path: Path, *, estimate: Any = None, found: Any = None) -> None:
    """Draws an estimate's bars or a sweep's scatter.

    Args:
        path: file to write; its suffix says how.
        estimate: a `TrainingEstimate`, or None.
        found: a `Sweep`, or None.

    Raises:
        UsageError: another suffix, or PNG without matplotlib.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            f"--chart {path}: the suffix says how to draw, one of {', '.join(SUFFIXES)}",
            "--chart estimate.html",
        )
    if suffix == ".png":
        _png(path, estimate, found)
        return
    from autoshard.cost_model import chart_svg, html_report

    page = html_report if suffix == ".html" else chart_svg
    path.write_text(page(estimate, found), "utf-8")


def _png(path: Path, estimate: Any, found: Any) -> None:
    try:
        mpl = import_module("matplotlib")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--chart {path}: PNG needs matplotlib, which is not installed (pip install "
            "'autoshard[charts]'); HTML and SVG need nothing",
            f"--chart {path.with_suffix('.html')}",
        ) from error
    mpl.use("Agg")
    pyplot = import_module("matplotlib.pyplot")
    if estimate is not None:
        figure, axes = pyplot.subplots(2, 1, figsize=(10, 5.2), layout="constrained")
        _draw_estimate(figure, axes, estimate)
    else:
        figure, axis = pyplot.subplots(figsize=(10, 6), layout="constrained")
        _draw_sweep(axis, found)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _draw_estimate(figure: Any, axes: Any, estimate: Any) -> None:
    from autoshard.cost_model import bytes_text, seconds_text

    fits = "fits" if estimate.fits else "does not fit"
    figure.suptitle(f"{estimate.model.name} on {estimate.topology}")
    for axis, title, parts, text in (
        (
            axes[0],
            f"{seconds_text(estimate.step_time_s)} per step, MFU {100 * estimate.mfu:.1f} %",
            estimate.step.terms,
            seconds_text,
        ),
        (
            axes[1],
            f"{bytes_text(estimate.memory.bytes)} of "
            f"{bytes_text(estimate.memory.capacity_bytes)} per device: {fits}",
            estimate.memory.parts,
            bytes_text,
        ),
    ):
        axis.set_title(title, loc="left", fontsize=11)
        _bar(axis, parts, text)


def _bar(axis: Any, parts: Any, text: Any) -> None:
    from autoshard.cost_model import part_colour

    total = sum(parts.values()) or 1.0
    left = 0.0
    for name, value in sorted(parts.items(), key=lambda item: -item[1]):
        share = value / total
        if share < 0.005:
            continue
        axis.barh(0, share, left=left, color=part_colour(name), label=f"{name} {text(value)}")
        if share > _LABELLED:
            axis.text(
                left + share / 2, 0, f"{100 * share:.0f} %", ha="center", va="center", fontsize=9
            )
        left += share
    axis.set_xlim(0, 1)
    axis.set_axis_off()
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=5, fontsize=8, frameon=False)


def _draw_sweep(axis: Any, found: Any) -> None:
    ticker = import_module("matplotlib.ticker")
    from autoshard.cost_model import bytes_text, seconds_text

    shown = found.ranked[:4000]
    axis.scatter(
        [c.step.seconds for c in shown],
        [c.memory.bytes for c in shown],
        s=9,
        color="#0072B2",
        alpha=0.35,
        linewidths=0,
        label=f"{len(found.ranked):,} configurations that fit",
    )
    front = found.pareto()
    axis.step(
        [c.step.seconds for c in front],
        [c.memory.bytes for c in front],
        where="post",
        color="#D55E00",
        label="no other is better in both",
    )
    axis.set_xscale("log")
    axis.set_yscale("log")
    for one, text in ((axis.xaxis, seconds_text), (axis.yaxis, bytes_text)):
        one.set_major_locator(ticker.LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
        one.set_minor_locator(ticker.NullLocator())
        one.set_major_formatter(lambda value, _, text=text: text(value))
        one.set_tick_params(labelsize=8)
    axis.set_xlabel("step time")
    axis.set_ylabel("memory per device")
    axis.set_title(f"{found.model.name} on {found.topology}, batch {found.global_batch}")
    axis.grid(alpha=0.2, which="major")
    axis.legend()
