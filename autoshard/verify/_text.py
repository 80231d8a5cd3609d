"""Parser of optimized HLO text, as ``compiled.as_text()`` prints it.

Only what reading collectives needs is understood; the rest is kept as text. The operations are
described at https://openxla.org/xla/operation_semantics; the grammar was checked against what
XLA's CPU and TPU compilers print. jaxlib's own parser is not used: it reads only what its own
version writes, and does not print the source tables.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping

from autoshard.errors import HloFormatError
from autoshard.verify._module import (
    Call,
    Computation,
    Instruction,
    Module,
    Source,
    closing_bracket,
    split_top_level,
)
from autoshard.verify._shapes import take_shape

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+)(?: \(.*)? \{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\(")
_INDEX_COMMENT = re.compile(r"/\*index=\d+\*/")
_TABLE = re.compile(r"(FileNames|FunctionNames|FileLocations|StackFrames)$")
_TABLE_ROW = re.compile(r"(\d+) (?:\"(.*)\"|\{(.*)\})$")


def parse_module(text: str) -> Module:
    """Parse the text of one optimized HLO module.

    Args:
        text: What ``compiled.as_text()`` returns.

    Raises:
        HloFormatError: If this is no HLO module, or has a line that cannot be read.
    """
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None or not lines[first].startswith("HloModule "):
        found = "nothing" if first is None else repr(lines[first][:60])
        raise HloFormatError(f"an HLO module begins with 'HloModule', this text with {found}")
    header = lines[first].removeprefix("HloModule ")
    tables: dict[str, dict[int, str]] = {}
    computations: dict[str, Computation] = {}
    entry = ""
    table: dict[int, str] | None = None
    number = first + 1
    while number < len(lines):
        line = lines[number]
        number += 1
        if not line.strip():
            table = None
        elif _TABLE.match(line):
            table = tables.setdefault(line, {})
        elif table is not None and (row := _TABLE_ROW.match(line)):
            table[int(row[1])] = row[2] if row[3] is None else row[3]
        elif opening := _COMPUTATION.match(line):
            computation, number = _parse_computation(opening[2], lines, number)
            computations[computation.name] = computation
            entry = computation.name if opening[1] else entry
        else:
            raise HloFormatError("this is neither a computation nor a table", number, line)
    if not entry:
        raise HloFormatError("the module has no ENTRY computation")
    counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", header)  # a 1 is not printed
    return Module(
        name=re.split(r"[,\s]", header, maxsplit=1)[0],
        partitions=math.prod(map(int, counts)),
        computations=computations,
        entry=entry,
        calls=_calls(computations),
        frames=_frames(tables),
    )


def _parse_computation(name: str, lines: list[str], number: int) -> tuple[Computation, int]:
    instructions: dict[str, Instruction] = {}
    users: dict[str, list[tuple[Instruction, int]]] = {}
    root = ""
    opened = number
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.startswith("}"):
            if not root:
                raise HloFormatError(f"%{name} has no ROOT", opened, lines[opened - 1])
            computation = Computation(
                name=name, instructions=instructions, root=instructions[root], users=users
            )
            return computation, number
        try:
            instruction, is_root = _parse_instruction(line)
            # Operands come before their users, so what passes here has no circles.
            for position, operand in enumerate(instruction.operands):
                if operand not in instructions:
                    raise HloFormatError(f"%{operand} is used before it is defined")
                users[operand].append((instruction, position))
        except HloFormatError as error:
            raise HloFormatError(error.reason, number, line) from None
        instructions[instruction.name] = instruction
        users[instruction.name] = []
        root = instruction.name if is_root else root
    raise HloFormatError(f"computation %{name} is not closed", opened, lines[opened - 1])


def _parse_instruction(line: str) -> tuple[Instruction, bool]:
    head = _INSTRUCTION.match(line)
    if head is None:
        raise HloFormatError("this is no instruction: expected '%name = shape opcode(operands)'")
    if "/*" in line:
        line = _INDEX_COMMENT.sub("", line)
    shape, position = take_shape(line, head.end())
    opcode = _OPCODE.match(line, position)
    end = -1 if opcode is None else closing_bracket(line, opcode.end() - 1)
    if opcode is None or end < 0:
        raise HloFormatError("expected 'opcode(operands)' behind the shape")
    arguments = line[opcode.end() : end]
    names = ()
    if opcode[1] not in ("constant", "parameter", "iota"):
        # An operand may be printed with its shape in front: its name comes last.
        names = tuple(part.split()[-1].lstrip("%") for part in split_top_level(arguments))
    instruction = Instruction(
        name=head[2],
        opcode=opcode[1],
        shape=shape,
        arguments=arguments,
        operands=names,
        attribute_text=line[end + 1 :],
    )
    return instruction, head[1] is not None


def _calls(computations: Mapping[str, Computation]) -> dict[str, tuple[Call, ...]]:
    found: defaultdict[str, tuple[Call, ...]] = defaultdict(tuple)
    for caller in computations.values():
        for instruction in caller.instructions.values():
            for callee, role in instruction.callees:
                if callee not in computations:
                    raise HloFormatError(f"%{instruction.name} calls %{callee}, which is not there")
                found[callee] += (Call(caller, instruction, role),)
    return found


def _frames(tables: Mapping[str, Mapping[int, str]]) -> dict[int, Source]:
    """Join StackFrames -> FileLocations -> FileNames; only the innermost frame is kept."""

    def field(row: str, key: str) -> int:
        found = re.search(rf"\b{key}=(\d+)", row)
        return int(found[1]) if found else 0

    files = tables.get("FileNames", {})
    locations = tables.get("FileLocations", {})
    sources: dict[int, Source] = {}
    for frame, row in tables.get("StackFrames", {}).items():
        location = locations.get(field(row, "file_location_id"), "")
        file = files.get(field(location, "file_name_id"))
        if file is not None:
            sources[frame] = Source(file, field(location, "line"))
    return sources
