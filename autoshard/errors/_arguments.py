"""Errors about what a parallelized function is called with."""

from collections.abc import Mapping
from typing import Any

from autoshard.errors._base import AutoshardError, ExitCode


class ArgumentError(AutoshardError):
    """An argument leaf that is no array.

    Args:
        path: Where it stands.
        value: The leaf.
    """

    def __init__(self, path: str, value: object) -> None:
        self.path = path
        self.value = value
        super().__init__(
            f"argument {path!r} is a {type(value).__name__} ({value!r:.60}), not an array.\n"
            "Arrays, numbers and jax.ShapeDtypeStruct can be traced; anything else has to be "
            "static.\n"
            f"Mend it: parallelize(..., static_argnames=({path.split('/')[0]!r},))"
        )


class StateStructureError(AutoshardError):
    """A step that returns its state with another structure than it takes it.

    Args:
        name: The argument.
        wanted: Path → ``(shape, dtype)`` of the argument.
        found: The same of the result that is closest to it.
    """

    def __init__(self, name: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        self.name = name
        lines = []
        for path in [*wanted, *(p for p in found if p not in wanted)]:
            old, new = wanted.get(path), found.get(path)
            if old != new:
                lines.append(f"  {name}/{path}: takes {_leaf(old)}, returns {_leaf(new)}")
        self.differences = tuple(lines)
        more = f"\n  … and {len(lines) - 8} more" if len(lines) > 8 else ""
        super().__init__(
            f"the step returns {name!r} with another structure than it takes it:\n"
            + "\n".join(lines[:8])
            + more
            + "\nA training step has to give back what it can take again.\n"
            "Mend it: return the updated state with the same tree, shapes and dtypes "
            "(new.astype(old.dtype) where only the dtype differs)"
        )


def _leaf(signature: Any) -> str:
    if signature is None:
        return "nothing"
    shape, dtype = signature
    return f"{dtype}[{','.join(map(str, shape))}]"


class StaticArgumentError(AutoshardError):
    """A static argument that cannot be one.

    Args:
        name: The parameter.
        value: What was passed.
        problem: What is wrong.
    """

    def __init__(self, name: str, value: object, problem: str) -> None:
        self.name = name
        self.value = value
        super().__init__(
            f"static argument {name!r} = {value!r:.60} {problem}.\n"
            "Static arguments select a compiled program, so they are hashable and compare by "
            "value.\n"
            f"Mend it: pass a tuple or a frozen dataclass, or leave {name!r} out of static_argnames"
        )


class OptionError(AutoshardError):
    """An option of `autoshard.parallelize` with a value that it does not know.

    Args:
        option: Its name.
        value: What was given.
        known: What can be given, separated by commas.
    """

    def __init__(self, option: str, value: object, known: str) -> None:
        self.option = option
        self.value = value
        super().__init__(f"{option}={value!r} is not known.\nMend it: {option}= one of {known}")


class InitStateError(AutoshardError):
    """A function for ``.init`` that makes something else than the step's state.

    Args:
        function: The step.
        made: Paths of what it makes, as the step's first argument.
        carried: Paths of the state that the step returns updated.
    """

    def __init__(self, function: str, made: list[str], carried: list[str]) -> None:
        self.function = function
        self.made = made
        self.carried = carried
        super().__init__(
            f"{function}.init makes {_some(made)}, but the state that {function} takes and returns "
            f"is {_some(carried)}.\n"
            f"Mend it: make the state the first argument of {function} and the result of the "
            "function given to .init"
        )


def _some(paths: list[str]) -> str:
    more = f" … ({len(paths)} arrays)" if len(paths) > 3 else ""
    return (", ".join(map(repr, paths[:3])) or "no array") + more


class DeletedArrayError(AutoshardError):
    """An argument whose memory an earlier call has taken.

    Args:
        function: The function.
        path: Where the argument stands.
    """

    def __init__(self, function: str, path: str) -> None:
        self.function = function
        self.path = path
        super().__init__(
            f"argument {path!r} of {function} was deleted: an earlier call donated it, for state "
            "that this function made is updated in place.\n"
            f"Mend it: go on with the state that the call returned, state, … = {function}(state, …)"
            ", or keep old states with parallelize(..., donate=False)"
        )


class CompiledArgumentsError(AutoshardError):
    """Arguments that a compiled program was not compiled for.

    Args:
        function: The function.
        problem: What differs.
    """

    exit_code = ExitCode.MISMATCH

    def __init__(self, function: str, problem: str) -> None:
        self.function = function
        self.problem = problem
        super().__init__(
            f"the compiled {function} {problem}.\n"
            f"Mend it: call the parallelized {function} itself, which compiles for every shape, "
            "and leave static arguments out here"
        )


class UnhashableTreeError(AutoshardError):
    """Arguments whose tree has static parts that cannot be hashed.

    Args:
        problem: What Python says.
    """

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(
            f"the arguments contain a pytree node with a static part that cannot be hashed "
            f"({problem}).\n"
            "Static parts select a compiled program, so they are hashable and compare by value.\n"
            "Mend it: make that field a tuple, a frozen dataclass or a FrozenDict, or a leaf of "
            "the tree"
        )


class AbstractArgumentError(AutoshardError):
    """A call with shapes where it needs arrays.

    Args:
        function: The function.
        path: Where the first of them stands.
    """

    def __init__(self, function: str, path: str) -> None:
        self.function = function
        self.path = path
        super().__init__(
            f"argument {path!r} of {function} is a jax.ShapeDtypeStruct: there is nothing to "
            "compute with.\n"
            f"Mend it: {function}.plan(...), .lower(...) and .compile(...) take shapes; to make "
            f"the state use {function}.init(create, ...)"
        )


class NotPlannedError(AutoshardError):
    """A question about a plan that does not exist yet.

    Args:
        name: The function.
        what: What was asked.
    """

    def __init__(self, name: str, what: str) -> None:
        super().__init__(
            f"{name}.{what} needs a plan, and {name} has not been planned yet.\n"
            f"Mend it: call {name}.plan(*args) with arrays or jax.ShapeDtypeStructs first"
        )
