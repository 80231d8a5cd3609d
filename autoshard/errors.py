"""The base of every error that autoshard raises for its users, and the CLI's exit codes.

To add an error, subclass `AutoshardError`: keep the values it speaks of as attributes, build the
text from them (what happened, with which values, why, and one line to copy that mends it), and
set `exit_code` where it is not a usage error.
"""

import enum
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar


class ExitCode(enum.IntEnum):
    """What the `autoshard` command returns to the shell."""

    OK = 0
    CHECK_FAILED = 1  # verification or a tolerance
    USAGE = 2
    CORRUPT_DATA = 3
    MISMATCH = 4  # two things that must agree do not
    INCOMPLETE = 5
    COMPILER_FAILED = 6  # or ran out of time or memory


class AutoshardError(Exception):
    """Base class: catch this to catch everything that autoshard raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE


class RuleError(AutoshardError):
    """A sharding rule contradicts itself, its op or the table of rules."""


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


class MeshError(AutoshardError):
    """A mesh that cannot be read or does not match the devices.

    Args:
        mesh: What was given.
        problem: What is wrong with it.
        hint: One line that mends it.
    """

    def __init__(
        self,
        mesh: str,
        problem: str,
        hint: str = 'write axes as name=size, for example mesh="data=2,model=4"',
    ) -> None:
        self.mesh = mesh
        self.problem = problem
        super().__init__(f"mesh {mesh!r}: {problem}.\nMend it: {hint}")


class SpecError(AutoshardError):
    """A sharding spec that does not fit its array or its mesh."""


class LabellingError(AutoshardError):
    """A label that is not legal for its op.

    Args:
        op: The op.
        rule: Text of its rule.
        problem: What is wrong.
    """

    def __init__(self, op: str, rule: str, problem: str) -> None:
        self.op = op
        self.rule = rule
        self.problem = problem
        super().__init__(f"the label of {op} with rule {rule} is not legal: {problem}")


class PathError(AutoshardError):
    """A path that names no leaf of a plan, or more than one.

    Args:
        path: What was asked for; empty where an array came without a path.
        candidates: Paths that match, or all there are.
        several: Whether it matched several.
        hint: One line that mends it; by default how to explain the closest path.
    """

    def __init__(
        self, path: str, candidates: list[str], *, several: bool, hint: str | None = None
    ) -> None:
        self.path = path
        self.candidates = candidates
        self.several = several
        shown = candidates if several else get_close_matches(path, candidates, n=5, cutoff=0.3)
        shown = (shown or candidates)[:5]
        problem = "ends several paths" if several else "is no argument or result of the plan"
        unnamed = several and not path
        subject = "an array without a name fits several paths" if unnamed else f"{path!r} {problem}"
        hint = hint or f"plan.explain({shown[0] if shown else ''!r})"
        super().__init__(
            f"{subject}. {'They are' if several else 'Close to it'}: {', '.join(shown)}\n"
            f"Mend it: {hint}"
        )


class DataError(AutoshardError):
    """Training data that is missing, empty, or does not divide as asked.

    Args:
        subject: The path or quantity that the problem is about.
        problem: What is wrong with it.
        hint: One line that mends it.
    """

    def __init__(self, subject: object, problem: str, hint: str) -> None:
        self.subject = subject
        self.problem = problem
        super().__init__(f"{subject}: {problem}.\nMend it: {hint}")


class HloFormatError(AutoshardError):
    """Text that cannot be read as optimized HLO.

    Args:
        reason: What is wrong with it.
        line_number: Of the line at fault, from 1, where there is one.
        line: That line.
    """

    exit_code = ExitCode.CORRUPT_DATA

    def __init__(self, reason: str, line_number: int | None = None, line: str = "") -> None:
        self.reason = reason
        self.line_number = line_number
        self.line = line
        where = "" if line_number is None else f"line {line_number}: "
        shown = f"\n    {line.strip():.120}" if line else ""
        super().__init__(
            f"cannot read HLO: {where}{reason}{shown}\n"
            "Mend it: pass what compiled.as_text() returns, unchanged"
        )


class HloMeshError(AutoshardError):
    """A mesh that is none, or not the one that a program is compiled for."""

    exit_code = ExitCode.MISMATCH


class HloLoopError(AutoshardError):
    """A sum over collectives that needs a trip count which the program does not tell.

    Args:
        name: The collective's name in the HLO text.
        op_name: Its JAX name stack.
    """

    def __init__(self, name: str, op_name: str) -> None:
        self.name = name
        self.op_name = op_name
        super().__init__(
            f"%{name} ({op_name}) runs in a loop whose trip count depends on data.\n"
            "Mend it: traffic_by_axes(found, unknown_count=1)"
        )


class MemoryStatsError(AutoshardError):
    """A backend that does not tell how much memory a program takes.

    Args:
        platform: The backend.
    """

    def __init__(self, platform: str) -> None:
        self.platform = platform
        super().__init__(
            f"the {platform} backend reports no memory analysis for this program.\n"
            "Mend it: compile for an attached device, or ahead of time for a TPU"
        )


class UsageError(AutoshardError):
    """A command line that asks for something impossible.

    Args:
        problem: What is wrong with it.
        hint: One line that mends it.
    """

    def __init__(self, problem: str, hint: str) -> None:
        self.problem = problem
        super().__init__(f"{problem}.\nMend it: {hint}")


class RuleSyntaxError(RuleError):
    """Text that is no sharding rule.

    Args:
        text: The whole text.
        position: Where in it reading failed, in characters.
        problem: What is wrong there.
        example: A text that can be read.
    """

    def __init__(
        self,
        text: str,
        position: int,
        problem: str,
        example: str = "([i, k], [k, j])->([i, j]) {i=8, k=4, j=16} reduction={k:sum}",
    ) -> None:
        self.text = text
        self.position = position
        self.problem = problem
        super().__init__(f"{problem}:\n  {text}\n  {' ' * position}^\nMend it: {example}")


class RuleViolationError(RuleError):
    """A factor that is not, when the op is run, what its rule says.

    Args:
        primitive: The op.
        rule: Text of the rule.
        factor: The factor.
        kind: The kind that the rule gives it.
        problem: What was seen.
    """

    exit_code = ExitCode.CHECK_FAILED

    def __init__(self, *, primitive: str, rule: str, factor: str, kind: str, problem: str) -> None:
        self.primitive = primitive
        self.rule = rule
        self.factor = factor
        self.kind = kind
        self.problem = problem
        super().__init__(
            f"{primitive}: factor {factor!r} is not {kind}: {problem}.\n  {rule}\n"
            f"Mend it: correct the rule, or give the factor up: whole={{{factor}}}"
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


class StrategyError(AutoshardError):
    """A strategy that cannot be read, or does not fit the mesh.

    Args:
        strategy: What was given.
        mesh: The mesh.
        problem: What is wrong.
    """

    def __init__(self, strategy: object, mesh: str, problem: str) -> None:
        self.strategy = strategy
        self.mesh = mesh
        self.problem = problem
        super().__init__(
            f"strategy {strategy!r} on mesh {mesh!r}: {problem}.\n"
            'Mend it: strategy="zero3+tensor" with mesh="data=2,model=4", or "dp" with any mesh'
        )


class BatchError(AutoshardError):
    """Data that cannot be cut over the devices of its axes.

    Args:
        leaves: Path → shape of the data arguments.
        axes: The axes.
        size: Number of devices along them.
    """

    def __init__(self, leaves: Mapping[str, tuple[int, ...]], axes: str, size: int) -> None:
        self.leaves = dict(leaves)
        self.axes = axes
        self.size = size
        shown = ", ".join(f"{p} {list(s)}" for p, s in list(leaves.items())[:4])
        if leaves:
            problem = f"no data argument has a leading dimension divisible by {axes} = {size}"
        else:
            problem = f"the function takes no data that could be cut over {axes} = {size}"
            shown = "none"
        super().__init__(
            f"{problem}; data: {shown}.\n"
            f"Mend it: make the global batch a multiple of {size}, use a smaller mesh, or put the "
            'strategy on fewer axes, as in strategy="dp@data"'
        )


class EmulationError(AutoshardError):
    """Emulated devices that cannot be had any more.

    Args:
        n_devices: How many were asked for.
        problem: Why not.
    """

    def __init__(self, n_devices: object, problem: str) -> None:
        self.n_devices = n_devices
        super().__init__(
            f"cannot emulate {n_devices!r} devices: {problem}.\n"
            "The number of CPU devices is fixed when JAX makes its first array or is asked for "
            "its devices.\n"
            f"Mend it: call autoshard.emulate({n_devices!r}) at the top of the program, or run it "
            f"with XLA_FLAGS=--xla_force_host_platform_device_count={n_devices!r}"
        )


class BatchShapeError(AutoshardError):
    """A batch that cannot be cut over its mesh axes.

    Args:
        shape: Shape of this process's part.
        spec: The wanted spec.
        mesh: The mesh.
        problem: What does not fit.
    """

    def __init__(
        self, shape: tuple[int, ...], spec: str, mesh: dict[str, int], problem: str
    ) -> None:
        self.shape = shape
        super().__init__(
            f"an array of shape {shape} cannot be laid out as {spec} on {mesh}: {problem}.\n"
            "Mend it: make the leading dimension a multiple of the devices that share it"
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


class ProcessDataError(AutoshardError):
    """A host array that is not the same in every process.

    Args:
        shape: Its shape.
    """

    exit_code = ExitCode.MISMATCH

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        super().__init__(
            f"a NumPy argument of shape {shape} differs between processes: a host array stands for "
            "the whole global array, so every process has to pass the same.\n"
            "Mend it: make global arrays of what each process has, "
            "step(state, autoshard.shard_batch(batch, step))"
        )
