r"""Names with holes, readable in both directions.

A *pattern* such as ``h.{l:d}.attn.c_attn.weight`` matches tensor names, and writes them. Its holes:
``{key}`` is one part of a name (no ``.`` or ``/``), ``{key:d}`` a number, ``{key:02d}`` a number of
at least two digits, ``{key:a|b}`` one of some words, ``{key:*}`` anything. A regular expression
does as well; it can also write names as long as everything outside of its named groups is literal,
as in ``h\.(?P<l>\d+)\.attn\.c_attn\.weight``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_HOLE = re.compile(r"\{(\w+)(?::(\*|\d*d|\w+(?:\|\w+)+))?\}")
_GROUP = re.compile(r"\(\?P<(\w+)>((?:[^()\\\[]|\\.|\[[^\]]*\])*)\)")

Keys = Mapping[str, Any]
"""What the holes of a name hold: int for numbers, else str."""


class PatternError(ValueError):
    """A pattern that cannot be understood, or cannot write names."""


@dataclass(frozen=True, slots=True)
class Hole:
    """One hole.

    Args:
        key: Its name.
        pattern: Regular expression of what fits.
        width: Least number of digits of a number; None where it is text.
    """

    key: str
    pattern: str = r"[^./]+"
    width: int | None = None

    def parse(self, text: str) -> Any:
        """Text to value."""
        return text if self.width is None else int(text)

    def write(self, value: Any) -> str:
        """Value to text."""
        return str(value) if self.width is None else f"{value:0{self.width}d}"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A name with holes.

    Args:
        text: As it was written, for messages.
        parts: Literals and holes in turn.
        regex: What it matches.
        writable: Whether names can be written from it.
    """

    text: str
    parts: tuple[str | Hole, ...]
    regex: re.Pattern[str]
    writable: bool = True

    def holes(self) -> dict[str, Hole]:
        """What fits its holes, for other patterns with the same keys."""
        holes = (part for part in self.parts if isinstance(part, Hole))
        return {h.key: h if h.width is None else Hole(h.key, h.pattern, 1) for h in holes}

    @property
    def keys(self) -> frozenset[str]:
        """Names of the holes."""
        return frozenset(self.regex.groupindex)

    def match(self, name: str) -> dict[str, Any] | None:
        """What the holes hold where the name fits."""
        found = self.regex.fullmatch(name)
        if found is None:
            return None
        holes = {part.key: part for part in self.parts if isinstance(part, Hole)}
        return {
            key: holes[key].parse(text) if key in holes else text
            for key, text in found.groupdict().items()
        }

    def write(self, keys: Keys) -> str:
        """The name with these values in its holes.

        Raises:
            PatternError: The pattern is a regular expression that many names fit.
        """
        if not self.writable:
            raise PatternError(
                f"{self.text!r} is a regular expression that cannot write names; use from: with "
                "holes, as in h.{l:d}.weight"
            )
        return "".join(
            part.write(keys[part.key]) if isinstance(part, Hole) else part for part in self.parts
        )


def pattern(text: str, known: Mapping[str, Hole] | None = None) -> Pattern:
    """Parses a pattern with holes.

    Args:
        text: The pattern.
        known: What fits the holes that do not say it.

    >>> pattern("h.{l:d}.weight").match("h.11.weight")
    {'l': 11}
    """
    parts: list[str | Hole] = []
    at = 0
    for hole in _HOLE.finditer(text):
        told = None if hole[2] else (known or {}).get(hole[1])
        parts += [text[at : hole.start()], told or _hole(hole[1], hole[2] or "")]
        at = hole.end()
    parts.append(text[at:])
    for part in parts:
        if isinstance(part, str) and ("{" in part or "}" in part):
            raise PatternError(f"{text!r} has a brace that is no hole like {{key}} or {{key:d}}")
    return _pattern(text, parts)


def expression(text: str) -> Pattern:
    r"""Parses a regular expression with named groups.

    >>> expression(r"h\.(?P<l>\d+)\.weight").write({"l": 3})
    'h.3.weight'
    """
    try:
        regex = re.compile(text)
    except re.error as error:
        raise PatternError(f"{text!r} is no regular expression: {error}") from error
    parts: list[str | Hole] = []
    at = 0
    writable = True
    for group in _GROUP.finditer(text):
        literal, plain = _literal(text[at : group.start()])
        number = group[2] in (r"\d+", r"[0-9]+")
        parts += [literal, Hole(group[1], group[2], 1 if number else None)]
        writable, at = writable and plain, group.end()
    literal, plain = _literal(text[at:])
    parts.append(literal)
    holes = [part.key for part in parts if isinstance(part, Hole)]
    complete = len(holes) == len(set(holes)) == regex.groups == len(regex.groupindex)
    return Pattern(text, tuple(parts), regex, writable and plain and complete)


def _hole(key: str, kind: str) -> Hole:
    if kind == "*":
        return Hole(key, r".+")
    if "|" in kind:
        return Hole(key, kind)
    if kind.endswith("d"):
        return Hole(key, r"\d+", int(kind[:-1] or 1))
    return Hole(key)


def _pattern(text: str, parts: list[str | Hole]) -> Pattern:
    seen: set[str] = set()
    regex: list[str] = []
    for part in parts:
        if isinstance(part, str):
            regex.append(re.escape(part))
        elif part.key in seen:
            regex.append(f"(?P={part.key})")
        else:
            seen.add(part.key)
            regex.append(f"(?P<{part.key}>{part.pattern})")
    return Pattern(text, tuple(parts), re.compile("".join(regex)))


def _literal(text: str) -> tuple[str, bool]:
    """A stretch of a regular expression as the text it stands for, and whether it does."""
    plain = re.sub(r"\\([^\w\s]|_)", "", text)
    # An unescaped dot matches a dot, and a dot is what it is meant for.
    writable = re.search(r"[\\^$*+?{}\[\]|()]", plain) is None
    return re.sub(r"\\(.)", r"\1", text), writable
