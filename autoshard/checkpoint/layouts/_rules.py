"""Rules and layouts: which tensors on one side are which on the other, and by which stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autoshard.checkpoint.layouts._names import Pattern
from autoshard.checkpoint.layouts._op import OpError
from autoshard.checkpoint.layouts._stages import Derive, Reverse, Stage
from autoshard.errors import LayoutSyntaxError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule, with all quantities filled in.

    Args:
        sources: Patterns of the names that it reads, one for each array of a bundle.
        targets: Patterns of the names that it writes. With none of them it drops what it reads;
            with no sources it is what the other direction drops.
        stages: What happens on the way.
        reason: Why it drops.
        optional: Whether it may match nothing.
        line: Where it stands in its file.
    """

    sources: tuple[Pattern, ...]
    targets: tuple[Pattern, ...]
    stages: tuple[Stage, ...] = ()
    reason: str = ""
    optional: bool = False
    line: int = 0

    @property
    def drops(self) -> bool:
        """Whether it writes nothing."""
        return not self.targets

    def __str__(self) -> str:
        patterns = " + ".join(p.text for p in self.sources or self.targets)
        return f"line {self.line}: {patterns}" if self.line else patterns

    def inverse(self) -> "Rule":
        """From targets to sources."""
        return replace(
            self,
            sources=self.targets,
            targets=self.sources,
            stages=tuple(_reversed(stage) for stage in reversed(self.stages)),
        )

    def keys(self) -> tuple[frozenset[str], frozenset[str]]:
        """Keys of the names before, and what the stages make of them.

        Raises:
            OpError: A stage needs a key that is not there, or patterns differ in theirs.
        """
        first = self.sources[0].keys
        for pattern in self.sources[1:]:
            if pattern.keys != first:
                raise OpError(f"{pattern.text} and {self.sources[0].text} have different holes")
        keys = first
        for stage in self.stages:
            keys = stage.keys_forward(keys)
        return first, keys


def _reversed(stage: Stage) -> Stage:
    if isinstance(stage, Reverse):
        return stage.stage
    if isinstance(stage, Derive):
        pair = frozenset({stage.stage, stage.local})
        return Reverse(stage, takes=frozenset({stage.key}), gives=pair)
    key = getattr(stage, "key", None)
    return Reverse(stage, gives=frozenset() if key is None else frozenset({key}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A layout: rules from foreign tensors to the leaves of a tree, or with `inverse` back.

    Args:
        name: Its name.
        rules: Its rules. No tensor may belong to two.
        bindings: Quantities that are known, for messages and the report.
        exports: Whether it is an inverse.
    """

    name: str
    rules: tuple[Rule, ...]
    bindings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    exports: bool = False

    def __post_init__(self) -> None:
        for rule in self.rules:
            if rule.sources and rule.targets:
                self._check(rule)

    def _check(self, rule: Rule) -> None:
        try:
            _, after = rule.keys()
        except OpError as error:
            raise LayoutSyntaxError(
                self.name, f"the rule {error}", "name the hole in from: and to:", rule.line
            ) from error
        for target in rule.targets:
            if target.keys != after:
                have, want = (", ".join(sorted(k)) or "none" for k in (after, target.keys))
                raise LayoutSyntaxError(
                    self.name,
                    f"{target.text} has the holes {want}, but the keys that are left are {have}",
                    "write a hole for every key, or an op that goes over it (stack, shard, unique)",
                    rule.line,
                )

    def inverse(self) -> "Layout":
        """From the tree to the foreign tensors."""
        rules = tuple(rule.inverse() for rule in self.rules)
        return replace(self, rules=rules, exports=not self.exports)
