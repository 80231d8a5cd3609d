"""From ``pins=`` to a pin for each op of the border, or an error where they contradict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoshard.errors import PinConflictError, PinFormError
from autoshard.plan import MeshShape, Roles, Spec
from autoshard.recipes.pins._match import EXACT, boxed_paths, match_paths
from autoshard.recipes.pins._pin import Pin, Target, make_pin
from autoshard.tracing import Leaf, Program, nbytes

_ONE_STATE = (
    "It is state: what the function takes and what it returns for it have one spec, so that the "
    "next call finds it where it is."
)


def read_pins(
    program: Program,
    mesh: MeshShape,
    roles: Roles,
    pins: Mapping[str, Any],
    fixed: Mapping[str, Spec],
) -> dict[int, Pin]:
    """Find out which arguments and results are pinned, and to what.

    Args:
        program: The program.
        mesh: The mesh.
        roles: Which arguments are state: they share the pin of the result that replaces them.
        pins: Path or pattern → `jax.sharding.PartitionSpec`, as users write them.
        fixed: Specs of arguments that are shared with another function, by path.

    Returns:
        Op id of an argument or result → its pin.

    Raises:
        PinError: A pin matches nothing, does not fit, or contradicts another one.
    """
    found: dict[int, Pin] = {}
    for leaf, given in _given(program, mesh, pins).items():
        first = given[0]
        for other in given[1:]:
            if (other.spec, other.open_dims) != (first.spec, first.open_dims):
                raise PinConflictError(leaf.path, [(p.source, p.text) for p in (first, other)])
        found[leaf.op] = first
    paths = {leaf.op: leaf.path for leaf in program.arguments}
    for argument, result in roles.state_of_argument.items():
        one, other = found.get(argument), found.get(result)
        if one and other and (one.spec, one.open_dims) != (other.spec, other.open_dims):
            pair = [(p.source, p.text) for p in (one, other)]
            raise PinConflictError(paths[argument], pair, _ONE_STATE)
        pin = one or other
        if pin is not None:
            found[argument] = found[result] = pin
    return _with_fixed(program, found, fixed, roles)


def _given(program: Program, mesh: MeshShape, pins: Mapping[str, Any]) -> dict[Leaf, list[Pin]]:
    """The pins of each leaf; a key that is its whole path silences patterns."""
    arguments = {leaf.path: leaf for leaf in program.arguments if not leaf.captured}
    results = {leaf.path: leaf for leaf in program.results}
    boxes = boxed_paths(program) if pins else {}
    found: dict[Leaf, list[tuple[int, Pin]]] = {}
    for key, value in pins.items():
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PinFormError("pins", key, "is no path: a key is a text")
        way, paths = match_paths(key, list(arguments), list(results), boxes)
        for path in paths:
            leaf = arguments.get(path) or results[path]
            aval = (
                program.argument_value(leaf).aval
                if path in arguments
                else program.aval(program.result_operand(leaf))
            )
            target = Target(path=path, shape=tuple(aval.shape), nbytes=nbytes(aval))
            pin = make_pin(value, target, mesh, f"pins[{key!r}]")
            found.setdefault(leaf, []).append((min(way, EXACT + 1), pin))
    return {
        leaf: [pin for way, pin in given if way == min(w for w, _ in given)]
        for leaf, given in found.items()
    }


def _with_fixed(
    program: Program, found: dict[int, Pin], fixed: Mapping[str, Spec], roles: Roles
) -> dict[int, Pin]:
    """Add the specs that are shared with another function; a pin has to allow them."""
    for leaf in program.arguments:
        spec = fixed.get(leaf.path)
        if spec is None:
            continue
        pin = found.get(leaf.op)
        if pin is not None and not pin.agrees(spec):
            raise PinConflictError(
                leaf.path,
                [(pin.source, pin.text), ("the function that it shares its state with", str(spec))],
                "With like=, arrays that both functions have never move between them.",
            )
        source = pin.source if pin is not None else "the plan that it shares its state with"
        found[leaf.op] = Pin(spec=spec, source=source, inherited=pin is None)
        if leaf.op in roles.state_of_argument and pin is not None:
            found[roles.state_of_argument[leaf.op]] = found[leaf.op]
    return found
