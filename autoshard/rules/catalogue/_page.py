"""The table of rules as a page of the documentation."""

from __future__ import annotations

from itertools import groupby

from autoshard.rules._registry import registered

HEAD = """# Op rules

<!-- Written by `python -m autoshard.rules`. -->

One line per way in which a primitive is used: the rule of an example, in the notation of
`autoshard.rules.parse`. Each bracket is an operand or a result, each entry a dimension, written as
its factors from major to minor; `1` is a dimension of size one. Braces give the example's sizes.

- Factors that no section names are *parallel*: every device computes its part of the results.
- `reduction={k:sum}`: every device computes a partial result of full size; partials are combined.
- `halo={j}`: the result stays sharded, and devices exchange what crosses their borders.
- `whole={k}`: the dimension has to be complete on every device.

Every line is proven by execution (`autoshard.rules.check_rule`). A primitive that is not here runs
replicated, and the report names it; `autoshard.rules.register_rule` adds one.
"""


def markdown() -> str:
    """The page.

    Returns:
        Markdown: an introduction, the table, and the primitives that need everything whole.
    """
    from autoshard.rules.catalogue import variants

    lines = [HEAD, "| primitive | as in | rule |", "| --- | --- | --- |"]
    shown: set[str] = set()
    for primitive, group in groupby(variants(), key=lambda v: v.primitive):
        shown.add(primitive)
        for number, variant in enumerate(group):
            name = f"`{primitive}`" if number == 0 else ""
            lines.append(f"| {name} | {variant.title} | `{variant.op().rule}` |")
    others = [f"`{name}`" for name in registered() if name not in shown]
    lines += ["", "Registered too, with no example that stands alone: " + ", ".join(others) + "."]
    return "\n".join(lines) + "\n"
