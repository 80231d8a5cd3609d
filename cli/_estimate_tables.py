"""Tables of `autoshard estimate`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_SHOWN = 0.002  # smaller shares are left out of the tables


def print_training(found: Any) -> None:
    """Prints an estimate: the verdict, then time and memory by part."""
    from autoshard.cost_model import bytes_text, seconds_text

    console = Console()
    verdict = ("fits", "green") if found.fits else ("does not fit", "red")
    console.print(Text(f"{found.model.name} on {found.topology}: {_plan(found.plan)}"))
    console.print(
        Text.assemble(
            f"{seconds_text(found.step_time_s)} per step (± {100 * found.uncertainty:.0f} %), "
            f"{found.tokens_per_s:,.0f} tokens/s, MFU {100 * found.mfu:.1f} %, "
            f"{bytes_text(found.memory.bytes)} of {bytes_text(found.memory.capacity_bytes)}: ",
            verdict,
        ),
        soft_wrap=True,
    )
    if found.price is not None:
        console.print(Text(f"{found.price:.3g} $ per million tokens"))
    if found.energy_j:
        console.print(Text(f"{found.energy_j / 3.6e6:.3g} kWh per step at board power"))
    for note in found.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    console.print(_parts("time", found.step.terms, seconds_text, found.step.hidden))
    console.print(_parts("memory", found.memory.parts, bytes_text, {}))


def print_sweep(found: Any) -> None:
    """Prints the fastest configurations and the Pareto front."""
    from autoshard.cost_model import seconds_text

    console = Console()
    fastest = seconds_text(found.best.step.seconds)
    console.print(
        Text(
            f"{found.model.name} on {found.topology}: {found.tried:,} configurations, "
            f"{len(found.ranked):,} fit; the fastest takes {fastest} per step "
            f"(± {100 * found.uncertainty:.0f} %)"
        ),
        soft_wrap=True,
    )
    console.print(_candidates("fastest", found.ranked[:10]))
    console.print(_candidates("least memory for their time", found.pareto()[:10]))


def print_inference(found: Any) -> None:
    """Prints what serving costs."""
    from autoshard.cost_model import bytes_text, seconds_text

    console = Console()
    console.print(
        Text(
            f"{found.model.name} on {found.topology}: tp={found.tp} pp={found.pp}, "
            f"batch {found.batch} of at most {found.batch_limit}"
        )
    )
    table = Table(show_header=False)
    rows = [
        ("time to first token", seconds_text(found.ttft_s)),
        ("time per output token", seconds_text(found.tpot_s)),
        ("output tokens per second", f"{found.tokens_per_s:,.0f}"),
        ("weights per device", bytes_text(found.weight_bytes)),
        ("cache per device", bytes_text(found.cache_bytes)),
    ]
    if found.price is not None:
        rows.append(("per million output tokens", f"{found.price:.3g} $"))
    if found.energy_j_per_token:
        rows.append(("energy per output token", f"{found.energy_j_per_token:.3g} J"))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(_parts("one decode step", found.terms, seconds_text, {}))


def _parts(title: str, parts: Mapping[str, float], text: Any, hidden: Mapping[str, float]) -> Table:
    total = sum(parts.values()) or 1.0
    columns = [title, "", "share"]
    if hidden:
        columns.append("hidden")
    table = Table(*columns)
    for name, value in sorted(parts.items(), key=lambda item: -item[1]):
        covered = hidden.get(name, 0.0)
        if value < _SHOWN * total and covered < _SHOWN * total:
            continue
        row = [name, text(value), f"{value / total:.1%}"]
        if hidden:
            row.append(text(covered) if covered > 0 else "")
        table.add_row(*row)
    return table


def _plan(plan: Any) -> str:
    from autoshard.cost_model import shown_settings

    short = {"microbatch": "mb"}
    return " ".join(f"{short.get(k, k)}={v}" for k, v in shown_settings(plan).items())


def _candidates(title: str, candidates: Sequence[Any]) -> Table:
    from autoshard.cost_model import bytes_text, seconds_text

    table = Table("configuration", "step", "memory", "bubble", title=title)
    for candidate in candidates:
        table.add_row(
            _plan(candidate.plan),
            seconds_text(candidate.step.seconds),
            bytes_text(candidate.memory.bytes),
            f"{candidate.step.bubble:.0%}",
        )
    return table
