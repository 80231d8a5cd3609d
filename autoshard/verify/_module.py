"""An HLO module as data: computations, their instructions, and who calls whom."""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from autoshard.verify._shapes import Shape

_METADATA = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s}]+)')
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[()\[\]{},]')

Role = Literal["body", "branch", "call", "condition", "opaque"]

#: The attributes that name called computations, by opcode. Of an async pair the start calls. The
#: scalar functions that reductions and sorts apply are left out: they hold no collectives, and how
#: often they run is the backend's matter.
_CALLS: Mapping[str, Mapping[str, Role]] = {
    "async-start": {"calls": "call"},
    "call": {"to_apply": "call", "calls": "call"},
    "conditional": {
        "branch_computations": "branch",
        "true_computation": "branch",
        "false_computation": "branch",
    },
    "custom-call": {"called_computations": "opaque"},
    "fusion": {"calls": "call"},
    "while": {"body": "body", "condition": "condition"},
}


@dataclass(frozen=True, slots=True)
class Source:
    """A place in the user's program."""

    file: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: Unique within its computation.
        opcode: As in ``all-reduce``.
        shape: Of its result, per device.
        arguments: The text in the parentheses: operands, a constant's value, a parameter's number.
        operands: Names of the operands, of the same computation.
        attribute_text: Everything behind the parentheses.
    """

    name: str
    opcode: str
    shape: Shape
    arguments: str
    operands: tuple[str, ...]
    attribute_text: str

    def attribute(self, key: str) -> str | None:
        """The text of one attribute, None where it is not there."""
        return _attributes(self.attribute_text).get(key)

    @property
    def index(self) -> int:
        """Which element a get-tuple-element takes."""
        return int(self.attribute("index") or 0)

    @property
    def callees(self) -> Iterator[tuple[str, Role]]:
        """Names of the computations that it calls."""
        for key, role in _CALLS.get(self.opcode, {}).items():
            for name in re.findall(r"[\w.\-]+", self.attribute(key) or ""):
                yield name, role

    @property
    def metadata(self) -> Mapping[str, str]:
        """Its ``metadata={…}``: op_name, stack_frame_id, in older texts source_file and _line."""
        found = _METADATA.findall(self.attribute("metadata") or "")
        return {key: unquote(value) for key, value in found}


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """A function of the module.

    Attributes:
        name: Unique within the module.
        instructions: By name, in the text's order: operands before their users.
        root: The instruction that makes its result.
        users: By name of an instruction, which others use it, and as which operand.
    """

    name: str
    instructions: Mapping[str, Instruction]
    root: Instruction
    users: Mapping[str, list[tuple[Instruction, int]]]

    def operands(self, instruction: Instruction) -> tuple[Instruction, ...]:
        """The instructions that make an instruction's operands."""
        return tuple(self.instructions[name] for name in instruction.operands)


@dataclass(frozen=True, slots=True)
class Call:
    """One place where a computation is called: by which instruction, and as what."""

    caller: Computation
    instruction: Instruction
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A parsed module.

    Attributes:
        name: As in ``jit_train_step``.
        partitions: Devices that one run uses: ``num_partitions`` times ``replica_count``.
        computations: By name, in the text's order.
        entry: The name of the computation that a run starts with.
        calls: All calls, by the name of the called computation.
        frames: The innermost place of each stack frame, by ``stack_frame_id``.
    """

    name: str
    partitions: int
    computations: Mapping[str, Computation]
    entry: str
    calls: Mapping[str, tuple[Call, ...]]
    frames: Mapping[int, Source]

    def callees(self, instruction: Instruction, role: Role) -> tuple[Computation, ...]:
        """The computations that an instruction calls in that role."""
        names = (name for name, its_role in instruction.callees if its_role == role)
        return tuple(self.computations[name] for name in names)

    def source(self, instruction: Instruction) -> Source | None:
        """Where an instruction comes from, None where the text does not say."""
        metadata = instruction.metadata
        if "source_file" in metadata:
            return Source(metadata["source_file"], int(metadata.get("source_line", "0")))
        return self.frames.get(int(metadata.get("stack_frame_id", "0")))


def unquote(text: str) -> str:
    """A string of HLO text without its quotes and escapes."""
    return re.sub(r"\\(.)", r"\1", text.strip('"'))


def split_top_level(text: str) -> list[str]:
    """Split at the commas that stand in no bracket and no string."""
    parts: list[str] = []
    depth = start = 0
    for token in _BRACKETS.finditer(text):
        mark = token.group()
        depth += (mark in "([{") - (mark in ")]}")
        if mark == "," and depth == 0:
            parts.append(text[start : token.start()].strip())
            start = token.end()
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def closing_bracket(text: str, opening: int) -> int:
    """Where the bracket at `opening` is closed, -1 if nowhere."""
    depth = 0
    for token in _BRACKETS.finditer(text, opening):
        depth += (token.group() in "([{") - (token.group() in ")]}")
        if depth == 0:
            return token.start()
    return -1


@functools.lru_cache(maxsize=1024)
def _attributes(text: str) -> Mapping[str, str]:
    pairs = (part.partition("=") for part in split_top_level(text))
    return {key: value for key, _, value in pairs}
