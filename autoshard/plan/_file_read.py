"""Reading JSON of which nothing can be believed: every access says where it failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from autoshard.errors import PlanFileError

_NAMES = {
    bool: "true or false",
    dict: "an object",
    int: "a whole number",
    list: "a list",
    str: "a text",
}


@dataclass(frozen=True, slots=True)
class Node:
    """A value in a plan file.

    Args:
        file: The file.
        where: The place in it, as in ``arguments[3].spec``.
        value: What stands there.
    """

    file: str
    where: str
    value: Any

    def fail(self, problem: str) -> NoReturn:
        """Refuse the file because of this value."""
        raise PlanFileError(self.file, f"{self.where or 'the file'} {problem}")

    def of(self, kind: type) -> Any:
        """The value, which has to be of a type."""
        if type(self.value) is not kind:
            shown = repr(self.value)
            shown = shown if len(shown) < 60 else shown[:57] + "..."
            self.fail(f"is {shown}, not {_NAMES[kind]}")
        return self.value

    def fields(self, required: str, optional: str = "") -> Mapping[str, Node]:
        """The fields of an object, which has to have some, may have others, and no more."""
        record = self.of(dict)
        need, may = required.split(), optional.split()
        for name in need:
            if name not in record:
                self.fail(f"has no {name!r}")
        for name in record:
            if name not in need and name not in may:
                self.fail(f"has the unknown field {name!r}; there are {', '.join(need + may)}")
        dot = f"{self.where}." if self.where else ""
        return {name: Node(self.file, dot + name, value) for name, value in record.items()}

    def items(self) -> list[Node]:
        """The items of a list."""
        values = self.of(list)
        return [Node(self.file, f"{self.where}[{i}]", value) for i, value in enumerate(values)]

    def texts(self) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(item.of(str) for item in self.items())

    def size(self) -> int:
        """A number that is not negative."""
        value = self.of(int)
        if value < 0:
            self.fail(f"is {value}, below zero")
        return int(value)
