"""The canonical text of a rule, written and read.

``([i, k], [k, j])->([i, j]) {i=8, k=4, j=16} reduction={k:sum}``. Each bracket is an operand or a
result, each entry a dimension; factors of a compound dimension stand from major to minor with a
space between them, and ``1`` is a dimension of size one. Factors in no section are parallel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoshard.errors import RuleSyntaxError
from autoshard.rules._rule import COMBINES, Dim, Dims, Factor, FactorKind, OpRule

_SECTIONS = tuple(k.value for k in FactorKind if k is not FactorKind.PARALLEL)
_TOKEN = re.compile(r"\s*(->|\.\.\.|[A-Za-z_]\w*|\d+|[()\[\]{},=:]|$)")
_NAME = re.compile(r"[A-Za-z_]\w*\Z")

ELLIPSIS = "..."
"""In a template, stands for any number of leading dimensions."""


def format_rule(rule: OpRule) -> str:
    """Write a rule in its canonical form.

    Args:
        rule: The rule.

    Returns:
        One line. `parse` reads it back to an equal rule.

    Example:
        >>> format_rule(parse("([i, k], [k])->([i]) {k=4, i=8} reduction={k:sum}"))
        '([i, k], [k])->([i]) {i=8, k=4} reduction={k:sum}'
    """
    order = _order(rule.operands, rule.results)
    parts = [f"({_arrays(rule.operands)})->({_arrays(rule.results)})"]
    if order:
        parts.append("{" + ", ".join(f"{n}={rule.factors[n].size}" for n in order) + "}")
    for kind in FactorKind:
        names = [n for n in order if rule.factors[n].kind is kind]
        if kind is FactorKind.REDUCTION:
            names = [f"{n}:{rule.factors[n].combine}" for n in names]
        if names and kind is not FactorKind.PARALLEL:
            parts.append(f"{kind.value}={{{', '.join(names)}}}")
    return " ".join(parts)


def parse(text: str) -> OpRule:
    """Read a rule from its text form.

    Args:
        text: What `format_rule` writes; sections and sizes may come in any order of names.

    Returns:
        The rule, its factors in order of first appearance.

    Raises:
        RuleSyntaxError: The text is no rule; the error points at the place.
        RuleError: The rule contradicts itself.
    """
    parsed = parse_text(text)
    order = _order(parsed.operands, parsed.results)
    if ELLIPSIS in order:
        raise RuleSyntaxError(text, text.index(ELLIPSIS), "a rule of fixed rank has no '...'")
    for name in order:
        if name not in parsed.sizes:
            raise RuleSyntaxError(
                text,
                len(text),
                f"factor {name!r} has no size",
                f"{text.split('{')[0].strip()} {{{', '.join(f'{n}=8' for n in order)}}}",
            )
    return OpRule(
        operands=parsed.operands,
        results=parsed.results,
        factors={name: parsed.factor(name, parsed.sizes[name]) for name in order},
    )


@dataclass(frozen=True, slots=True)
class ParsedRule:
    """The parts of a rule's text, before sizes and shapes are compared.

    Args:
        operands: Factors of the operands' dimensions; ``...`` may stand first in an array.
        results: The same for results.
        sizes: What the braces give, factor by factor.
        kinds: Kind and combining operation of the factors that a section names.
    """

    operands: tuple[Dims, ...]
    results: tuple[Dims, ...]
    sizes: Mapping[str, int]
    kinds: Mapping[str, tuple[FactorKind, str | None]]

    def factor(self, name: str, size: int) -> Factor:
        """A factor, now that its size is known."""
        kind, combine = self.kinds.get(name, (FactorKind.PARALLEL, None))
        return Factor(name, size, kind, combine)


def parse_text(text: str) -> ParsedRule:
    """Read the parts of a rule or of a template.

    Args:
        text: The text.

    Returns:
        Its parts; each named factor stands in a dimension.

    Raises:
        RuleSyntaxError: The text cannot be read.
    """
    reader = _Reader(text)
    operands = reader.arrays()
    reader.expect("->")
    results = reader.arrays()
    known = _order(operands, results)
    sizes: dict[str, int] = {}
    kinds: dict[str, tuple[FactorKind, str | None]] = {}
    if reader.peek == "{":
        for name in reader.names(known, "a size twice", sizes):
            reader.expect("=")
            sizes[name] = reader.number()
    while reader.peek:
        section = reader.take()
        if section not in _SECTIONS:
            reader.fail(f"expected one of {', '.join(_SECTIONS)}, found {section!r}", back=True)
        kind = FactorKind(section)
        reader.expect("=")
        for name in reader.names(known, "a second kind", kinds):
            combine = None
            if kind is FactorKind.REDUCTION:
                reader.expect(":")
                combine = reader.take()
                if combine not in COMBINES:
                    reader.fail(f"expected one of {', '.join(COMBINES)}", back=True)
            kinds[name] = (kind, combine)
    return ParsedRule(operands, results, sizes, kinds)


class _Reader:
    """Tokens of a text, with positions for errors."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._next = 0
        self._last = 0
        self.peek = ""
        self._advance()

    def _advance(self) -> None:
        match = _TOKEN.match(self.text, self._next)
        if match is None:
            rest = len(self.text[self._next :]) - len(self.text[self._next :].lstrip())
            raise RuleSyntaxError(self.text, self._next + rest, "this character has no meaning")
        self.peek, self._start, self._next = match[1], match.start(1), match.end()

    def take(self) -> str:
        token, self._last = self.peek, self._start
        self._advance()
        return token

    def fail(self, problem: str, *, back: bool = False) -> None:
        raise RuleSyntaxError(self.text, self._last if back else self._start, problem)

    def expect(self, token: str) -> None:
        if self.peek != token:
            self.fail(f"expected {token!r}, found {self.peek or 'the end'!r}")
        self.take()

    def number(self) -> int:
        if not self.peek.isdigit():
            self.fail(f"expected a size, found {self.peek or 'the end'!r}")
        return int(self.take())

    def arrays(self) -> tuple[Dims, ...]:
        """``([i, j k], [])``."""
        self.expect("(")
        found: list[Dims] = []
        while self.peek != ")":
            if found:
                self.expect(",")
            self.expect("[")
            dims: list[Dim] = []
            while self.peek != "]":
                if dims:
                    self.expect(",")
                dims.append(self._dim(first=not dims))
            self.take()
            found.append(tuple(dims))
        self.take()
        return tuple(found)

    def _dim(self, *, first: bool) -> Dim:
        if self.peek == "1":
            self.take()
            return ()
        if self.peek == ELLIPSIS:
            if not first:
                self.fail("'...' stands for leading dimensions: it comes first")
            return (self.take(),)
        names: list[str] = []
        while _NAME.match(self.peek):
            names.append(self.take())
        if not names:
            self.fail(f"expected factors or 1, found {self.peek or 'the end'!r}")
        return tuple(names)

    def names(self, known: tuple[str, ...], again: str, seen: Mapping[str, object]):
        """Names in braces; the caller reads what follows each."""
        self.expect("{")
        first = True
        while self.peek != "}":
            if not first:
                self.expect(",")
            first = False
            name = self.take()
            if name not in known:
                self.fail(
                    f"{name!r} stands in no dimension; those that do: {', '.join(known)}", back=True
                )
            if name in seen:
                self.fail(f"{name!r} is given {again}", back=True)
            yield name
        self.take()


def _order(*sides: tuple[Dims, ...]) -> tuple[str, ...]:
    """Names in order of first appearance."""
    return tuple(dict.fromkeys(n for side in sides for dims in side for dim in dims for n in dim))


def _arrays(arrays: tuple[Dims, ...]) -> str:
    return ", ".join(f"[{', '.join(' '.join(dim) or '1' for dim in dims)}]" for dims in arrays)
