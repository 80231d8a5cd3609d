"""Layout files: YAML to rules."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoshard.checkpoint.layouts import _yaml
from autoshard.checkpoint.layouts._bindings import Known, resolve
from autoshard.checkpoint.layouts._names import Hole, Pattern, PatternError, expression, pattern
from autoshard.checkpoint.layouts._ops_syntax import Context, stages_of
from autoshard.checkpoint.layouts._parameters import Parameters
from autoshard.checkpoint.layouts._rules import Layout, Rule
from autoshard.checkpoint.layouts._stages import Collect, Stage
from autoshard.checkpoint.layouts.ops import Stack

VERSION = 1
"""Of the language."""

_RULE_KEYS = (
    *("from", "match", "to", "file", "ops", "op", "transform", "strip_pad", "when", "optional"),
    *("drop", "omit", "reason"),
)
_SPEC_KEYS = ("layout", "about", "version", "source", "axes", "bindings", "repeat", "rules")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A layout file, parsed but for the quantities that only a checkpoint can tell.

    Args:
        name: The layout's name.
        about: One line on what it is.
        format: File format of the foreign side, such as "safetensors", or "".
        files: Patterns of file names by name; one file or index where it is empty.
        alone: Axis → the pattern of file names where it has one rank, and they leave it out.
        opaque: Globals that pickles may name, whose objects are left out.
        axes: Axis → its size, as an expression.
        bindings: Quantities and where to find them.
        repeat: Word → how a stack of layers is named, scanned and unrolled.
        rules: Rules as they are written.
        line: Where the bindings stand.
    """

    name: str
    about: str
    format: str
    files: Mapping[str, str]
    alone: Mapping[str, str]
    opaque: tuple[str, ...]
    axes: Mapping[str, Any]
    bindings: Mapping[str, Any]
    repeat: Mapping[str, Mapping[str, Any]]
    rules: tuple[_yaml.Node, ...]
    line: int = 0

    def layout(self, known: Known) -> Layout:
        """The layout, from the foreign side to the tree, with all quantities filled in.

        Args:
            known: Where to find them.

        Raises:
            LayoutError: A rule cannot be understood, or a quantity is missing.
        """
        bindings = resolve(self.name, self.line, self.bindings, known)
        builder = _Builder(self, bindings)
        rules = [rule for node in self.rules if (rule := builder.rule(node)) is not None]
        return Layout(name=self.name, rules=tuple(rules), bindings=bindings)


def parse(text: str, name: str = "layout") -> Spec:
    """Parses the text of a layout file.

    Args:
        text: The text.
        name: What to call it in errors before it has said its name.

    Raises:
        LayoutSyntaxError: It is not understood.
    """
    return _spec(_yaml.load(text, name), name)


def parse_file(path: Path) -> Spec:
    """Parses a layout file."""
    return _spec(_yaml.load_file(path), path.stem)


def _spec(node: _yaml.Node, name: str) -> Spec:
    top = Parameters(node, subject="it", layout=name, line=node.line, bindings={})
    top.layout = str(top.get("layout", name))
    if (version := top.get("version", VERSION)) != VERSION:
        raise top.error(f"is written in version {version!r}", f"version: {VERSION}")
    source = _mapping(top, "source")
    inner = Parameters(source, subject="source", layout=top.layout, line=node.line, bindings={})
    files = inner.get("files", {})
    rules = top.require("rules", "[{from: …, to: …}]")
    if not isinstance(rules, list) or not all(isinstance(rule, _yaml.Node) for rule in rules):
        raise top.error("has rules that are no list of mappings", "rules: [{from: …, to: …}]")
    bindings = _mapping(top, "bindings")
    spec = Spec(
        name=top.layout,
        about=str(top.get("about", "")),
        format=str(inner.get("format", "")),
        files={"": files} if isinstance(files, str) else files,
        alone=inner.get("alone", {}),
        opaque=tuple(inner.get("opaque", ())),
        axes=_mapping(top, "axes"),
        bindings=bindings,
        repeat=_mapping(top, "repeat"),
        rules=tuple(rules),
        line=getattr(bindings, "line", node.line),
    )
    inner.finish()
    top.finish()
    return spec


def _mapping(top: Parameters, name: str) -> Mapping[str, Any]:
    value = top.get(name) or {}
    if not isinstance(value, Mapping):
        raise top.error(f"has {name} that is no mapping", f"{name}: {{…}}")
    return value


class _Builder:
    """Turns rules as they are written into rules."""

    def __init__(self, spec: Spec, bindings: Mapping[str, Any]) -> None:
        self.spec, self.bindings = spec, bindings
        top = self._parameters({}, "axes", spec.line)
        self.axes = {axis: top.evaluate(size) for axis, size in spec.axes.items()}

    def _parameters(self, values: Mapping[str, Any], subject: str, line: int) -> Parameters:
        return Parameters(
            values, subject=subject, layout=self.spec.name, line=line, bindings=self.bindings
        )

    def rule(self, node: _yaml.Node) -> Rule | None:
        """One rule, or None where its condition does not hold."""
        p = self._parameters(node, "the rule", node.line)
        if "when" in p and not p.evaluate(p.get("when")):
            return None
        optional = bool(p.get("optional", False))
        reason = str(p.get("reason", ""))
        file = p.get("file", "")
        if "drop" in p or "omit" in p:
            return self._drop(p, node, file, reason, optional)
        sources, lead = self._sources(p, node, file)
        written = p.require("to", "params/wte/embedding")
        known = {key: Hole(key, r"\d+", 1) for key in self._numbers(node)}
        for source in sources:
            known |= source.holes()
        targets, stages = self._targets(p, _list(written), known)
        return Rule(
            sources=sources,
            targets=targets,
            stages=(*lead, *self._stages(p, node), *stages),
            optional=optional,
            line=node.line,
        )

    def _drop(
        self, p: Parameters, node: _yaml.Node, file: str, reason: str, optional: bool
    ) -> Rule:
        if not reason:
            raise p.error("drops tensors without a reason", "reason: a causal mask, no parameter")
        drops = "drop" in p
        written = p.get("drop" if drops else "omit")
        patterns = [self._pattern(p, text) for text in _list(written)]
        if drops:
            patterns = [self._in_file(p, found, file) for found in patterns]
        p.finish()
        if len(patterns) > 1:
            raise p.error("drops by several patterns", "write a rule for each")
        return Rule(
            sources=tuple(patterns) if drops else (),
            targets=() if drops else tuple(patterns),
            reason=reason,
            optional=optional,
            line=node.line,
        )

    def _sources(
        self, p: Parameters, node: _yaml.Node, file: str
    ) -> tuple[tuple[Pattern, ...], list[Stage]]:
        """Patterns of the stored tensors, and the taking apart of those that are scanned."""
        lead: list[Stage] = []
        if "match" in p:
            found = [self._expression(p, text) for text in _list(p.get("match"))]
        else:
            found: list[Pattern] = []
            for text in _list(p.require("from", "h.{l:d}.w")):
                name, scanned = self._named(p, text)
                for how in scanned.values():
                    where = {"index": how.get("index", "l"), "dim": how.get("dim", 0)}
                    lead = stages_of({"unstack": where}, self._context(node))
                found.append(self._pattern(p, name))
        return tuple(self._in_file(p, each, file) for each in found), lead

    def _numbers(self, node: _yaml.Node) -> frozenset[str]:
        """Keys that are numbers by what is done with them: axes, layers."""
        indices = {str(how.get("index", "l")) for how in self.spec.repeat.values()}
        for op in (node, *_list(node.get("ops", []))):
            for values in (op, *op.values()) if isinstance(op, Mapping) else ():
                if isinstance(values, Mapping):
                    found = (values.get(word) for word in ("axis", "index", "key"))
                    indices |= {str(key) for key in found if key is not None}
        return frozenset(indices).union(self.spec.axes)

    def _pattern(
        self, p: Parameters, text: Any, known: Mapping[str, Hole] | None = None
    ) -> Pattern:
        try:
            return pattern(self._filled(p, text), known)
        except PatternError as error:
            raise p.error(f"has a pattern that is none: {error}", "'h.{l:d}.weight'") from error

    def _expression(self, p: Parameters, text: Any) -> Pattern:
        try:
            return expression(self._filled(p, text))
        except PatternError as error:
            raise p.error(f"has a pattern that is none: {error}", r"'h\.(?P<l>\d+)'") from error

    def _filled(self, p: Parameters, text: Any) -> str:
        """``${name}`` replaced by quantities."""

        def value(match: re.Match[str]) -> str:
            if match[1] not in self.bindings:
                raise p.error(f"speaks of ${{{match[1]}}}", f"bindings: {{{match[1]}: …}}")
            return str(self.bindings[match[1]])

        return re.sub(r"\$\{(\w+)\}", value, str(text))

    def _in_file(self, p: Parameters, name: Pattern, file: str) -> Pattern:
        """The pattern behind that of the file's path."""
        files = self.spec.files
        if not files:
            return name
        if file not in files:
            raise p.error(f"speaks of the file {file!r}", f"file: {' | '.join(map(str, files))}")
        place = self._pattern(p, f"{files[file]}/")
        regex = place.regex.pattern + f"(?:{name.regex.pattern})"
        return Pattern(
            f"{files[file]}/{name.text}",
            (*place.parts, *name.parts),
            re.compile(regex),
            name.writable,
        )

    def _targets(
        self, p: Parameters, written: list[Any], known: Mapping[str, Hole]
    ) -> tuple[tuple[Pattern, ...], list[Stage]]:
        """Patterns of the tree's leaves, and the stacking of those that are scanned."""
        stages: dict[str, Stage] = {}
        patterns: list[Pattern] = []
        for text in written:
            name, scanned = self._named(p, text)
            for word, how in scanned.items():
                dim = p.evaluate(how.get("dim", 0))
                index = str(how.get("index", "l"))
                make = lambda count, dim=dim: Stack(dim=dim, count=count)
                stages[word] = Collect(key=index, op=make)
            patterns.append(self._pattern(p, name, known))
        return tuple(patterns), list(stages.values())

    def _named(self, p: Parameters, text: Any) -> tuple[str, dict[str, Mapping[str, Any]]]:
        """A name with the words of ``repeat`` filled in, and those words that are scanned."""
        name = str(text)
        scanned: dict[str, Mapping[str, Any]] = {}
        for word, how in self.spec.repeat.items():
            if f"{{{word}}}" in name:
                if p.evaluate(how.get("when", 0)):
                    scanned[word] = how
                form = "scanned" if word in scanned else "unrolled"
                name = name.replace(f"{{{word}}}", how[form])
        return name, scanned

    def _context(self, node: _yaml.Node) -> Context:
        return Context(
            layout=self.spec.name, line=node.line, bindings=self.bindings, axes=self.axes
        )

    def _stages(self, p: Parameters, node: _yaml.Node) -> list[Stage]:
        context = self._context(node)
        written: list[Any] = []
        if "op" in p:
            word = str(p.get("op"))
            values = {key: value for key, value in node.items() if key not in _RULE_KEYS}
            for key in values:
                p.get(key)
            written.append({word: values} if values else word)
        written += _list(p.get("ops", [])) + _list(p.get("transform", []))
        if "strip_pad" in p:
            written.append({"strip": p.get("strip_pad")})
        p.finish()
        wanted = (self._wanted(p, item) for item in written)
        return [stage for item in wanted if item is not None for stage in stages_of(item, context)]

    def _wanted(self, p: Parameters, op: Any) -> Any:
        """An op without its condition, or None where that does not hold."""
        if not isinstance(op, Mapping) or "when" not in op:
            return op
        return {k: v for k, v in op.items() if k != "when"} if p.evaluate(op["when"]) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
