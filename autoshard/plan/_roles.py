"""Which arguments are state, which are data: read off the program's structure, never off names.

*State* comes back: a group of results has the same tree, shapes and dtypes as an argument. What
is neither state nor a captured array is *data*. A function that returns no state (an evaluation,
a forward pass) has its data arguments found by what the first ops do to their leading dimension.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoshard.errors import StateStructureError
from autoshard.rules import FactorKind, RuledProgram
from autoshard.tracing import RESULT, TIE, Leaf, Program

_KEY_PRIMITIVES = ("random_", "threefry", "rng_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """What each argument is for.

    Args:
        state_of_argument: Argument op id → op id of the result that replaces it.
        data: Op ids of the data arguments.
    """

    state_of_argument: Mapping[int, int]
    data: tuple[int, ...]

    @property
    def argument_of_result(self) -> dict[int, int]:
        """Result op id → op id of the argument it replaces."""
        return {result: argument for argument, result in self.state_of_argument.items()}


def find_roles(ruled: RuledProgram) -> Roles:
    """Tell state from data.

    Args:
        ruled: The program with its rules.

    Returns:
        The roles of its arguments.

    Raises:
        StateStructureError: A result is nearly an argument, but differs in some leaves.
    """
    program = ruled.program
    groups = _groups([leaf for leaf in program.arguments if not leaf.captured])
    results = _subtrees(program.results)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    # Large ones first: parameters look like the moments inside an optimizer's state.
    order = sorted(enumerate(groups.values()), key=lambda item: -len(item[1]))
    for position, leaves in order:
        partners = _match(program, position, leaves, results, taken)
        if partners is not None:
            taken.update(r.op for r in partners)
            pairs.update(zip([a.op for a in leaves], [r.op for r in partners], strict=True))
    _check_near_misses(program, groups, results, {*pairs, *taken})
    rest = {
        name: [leaf.op for leaf in leaves]
        for name, leaves in groups.items()
        if leaves and leaves[0].op not in pairs
    }
    if not pairs:
        rest = {name: ops for name, ops in rest.items() if _looks_like_data(ruled, ops)}
    data = [op for ops in rest.values() for op in ops if not _is_key(ruled, op)]
    return Roles(state_of_argument=pairs, data=tuple(data))


def _groups(leaves: Sequence[Leaf]) -> dict[str, list[Leaf]]:
    """Leaves by the first part of their path: one group per parameter or top-level result."""
    groups: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        groups.setdefault(leaf.path.split("/")[0], []).append(leaf)
    return groups


def _subtrees(leaves: Sequence[Leaf]) -> dict[str, list[Leaf]]:
    """Every subtree of the results by its path, outer ones first; the whole is at ``""``."""
    found: dict[str, list[Leaf]] = {"": list(leaves)}
    for leaf in leaves:
        parts = leaf.path.split("/")
        for n in range(1, len(parts) + 1):
            found.setdefault("/".join(parts[:n]), []).append(leaf)
    return dict(sorted(found.items(), key=lambda item: (item[0] != "", item[0].count("/"))))


def _signature(program: Program, leaves: Sequence[Leaf], prefix: str) -> dict[str, Any]:
    """Path below a prefix → ``(shape, dtype)``."""
    found = {}
    for leaf in leaves:
        op = program.ops[leaf.op]
        aval = program.values[op.results[0]].aval if op.results else program.aval(op.operands[0])
        relative = leaf.path[len(prefix) :].lstrip("/")
        found[relative] = (tuple(aval.shape), str(aval.dtype))
    return found


def _match(
    program: Program,
    position: int,
    leaves: Sequence[Leaf],
    results: Mapping[str, Sequence[Leaf]],
    taken: set[int],
) -> Sequence[Leaf] | None:
    """The part of the results that replaces an argument."""
    name = leaves[0].path.split("/")[0]
    wanted = _signature(program, leaves, name)
    for prefix, partners in results.items():
        if len(partners) != len(leaves) or any(r.op in taken for r in partners):
            continue
        if _signature(program, partners, prefix) != wanted:
            continue
        if len(leaves) == 1 and "" in wanted and prefix != str(position):
            continue  # a lone array is state only where it comes out in the place it came in
        return partners
    return None


def _check_near_misses(
    program: Program,
    groups: Mapping[str, Sequence[Leaf]],
    results: Mapping[str, Sequence[Leaf]],
    matched: set[int],
) -> None:
    """Refuse a step that returns its state with another structure than it took it."""
    for name, leaves in groups.items():
        if leaves[0].op in matched:
            continue
        wanted = _signature(program, leaves, name)
        close: list[tuple[int, int, dict[str, Any]]] = []
        for prefix, partners in results.items():
            if any(r.op in matched for r in partners):
                continue
            found = _signature(program, partners, prefix)
            equal = sum(wanted[path] == found[path] for path in wanted.keys() & found.keys())
            close.append((equal, (_ends(wanted) & _ends(found)).total(), found))
        _, alike, found = max(close, key=lambda c: c[:2], default=(0, 0, {}))
        if len(wanted) > 2 and alike * 2 > len(wanted):
            raise StateStructureError(name, wanted, found)


def _ends(signature: Mapping[str, Any]) -> Counter[tuple[str, Any]]:
    """Leaves by the last part of their path, shape and dtype: alike even where the tree changed."""
    return Counter((path.rpartition("/")[2], leaf) for path, leaf in signature.items())


def _looks_like_data(ruled: RuledProgram, ops: Sequence[int]) -> bool:
    """Whether the arrays share a leading dimension that no op needs whole or contracts."""
    program = ruled.program
    sizes = set()
    for op_id in ops:
        value = program.values[program.ops[op_id].results[0]]
        if not value.shape or _is_key(ruled, op_id):
            continue
        sizes.add(value.shape[0])
        for consumer, index in program.consumers[value.id]:
            rule = ruled.rules[consumer]
            if rule is None or program.ops[consumer].primitive == TIE:
                continue
            for name in rule.operands[index][0]:
                kind = rule.factors[name].kind
                many = len(program.ops[consumer].operands) > 1
                if kind is FactorKind.WHOLE or (kind is FactorKind.REDUCTION and many):
                    return False
    return len(sizes) == 1


def _is_key(ruled: RuledProgram, op_id: int) -> bool:
    """Whether an argument is only PRNG key material, also inside the loops that it enters."""
    program = ruled.program
    values = [program.ops[op_id].results[0]]
    if str(program.values[values[0]].dtype).startswith("key<"):
        return True
    seen: set[int] = set()
    uses: set[str] = set()
    while values:
        value = values.pop()
        if value in seen:
            continue
        seen.add(value)
        for consumer, _ in program.consumers[value]:
            op = program.ops[consumer]
            if op.primitive == TIE:
                values.extend(op.results)
            elif op.primitive != RESULT:
                uses.add(op.primitive)
    return bool(uses) and all(use.startswith(_KEY_PRIMITIVES) for use in uses)
