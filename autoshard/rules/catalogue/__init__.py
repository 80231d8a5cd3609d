"""Every primitive in every way it is used: what is shown, proven and documented."""

from __future__ import annotations

from autoshard.rules.catalogue import contractions, manual, moves, ordered, pointwise
from autoshard.rules.catalogue._page import markdown as markdown
from autoshard.rules.catalogue._variant import Variant as Variant


def variants() -> tuple[Variant, ...]:
    """All variants, sorted by primitive and title.

    Returns:
        One per way in which a primitive is used.
    """
    found = [
        Variant(
            primitive=primitive,
            title=title,
            function=example[0],
            avals=tuple(example[1:]),
            runs=module is not manual,
        )
        for module in (contractions, manual, moves, ordered, pointwise)
        for primitive, examples in module.TABLE.items()
        for title, example in examples.items()
    ]
    return tuple(sorted(found, key=lambda v: (v.primitive, v.title)))
