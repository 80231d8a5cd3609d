"""Errors about pins: specs that users give to arguments, results and values of their programs."""

from collections.abc import Sequence
from difflib import get_close_matches

from autoshard.errors._base import AutoshardError


class PinError(AutoshardError):
    """A pin that cannot hold. Catch this to catch every kind of them."""


class PinFormError(PinError):
    """Something that is no pin.

    Args:
        subject: The pin's key, or the option's name.
        value: What was given.
        problem: What is wrong with it.
    """

    def __init__(self, subject: str, value: object, problem: str) -> None:
        self.subject = subject
        self.value = value
        self.problem = problem
        super().__init__(
            f"{subject}: {value!r:.80} {problem}.\n"
            'Mend it: pins={"params/dense/kernel": jax.sharding.PartitionSpec("data", None)}, one '
            "entry per dimension: None, an axis, a tuple of axes, or PartitionSpec.UNCONSTRAINED"
        )


class PinPathError(PinError):
    """A pin whose path or pattern matches nothing.

    Args:
        key: The path or pattern.
        arguments: Paths of the arguments.
        results: Paths of the results.
        problem: What Python says of the pattern, where it is none.
    """

    def __init__(
        self,
        key: str,
        arguments: Sequence[str],
        results: Sequence[str],
        problem: str | None = None,
    ) -> None:
        self.key = key
        self.paths = paths = (*arguments, *results)
        # Results that are state look like arguments: those are what is meant more often.
        close = get_close_matches(key, arguments, n=3, cutoff=0.5)
        close = close or get_close_matches(key, paths, n=3, cutoff=0.3)
        if not close:  # an end of a path may be what was meant
            last = key.rpartition("/")[2]
            close = [path for path in paths if last and last in path][:3]
        self.close = tuple(close or paths[:3])
        why = f", and is no regular expression ({problem})" if problem else ""
        super().__init__(
            f"pins[{key!r}] matches no argument and no result{why}. Did you mean "
            f"{', '.join(map(repr, self.close)) or 'nothing, there is none'}?\n"
            "A key is a whole path, the end of one from a '/' on, or a regular expression for "
            "either; .plan(...).explain() lists the paths.\n"
            f"Mend it: pins={{{(self.close or ('params/w',))[0]!r}: …}}"
        )


class PinRankError(PinError):
    """A pin with more entries than its array has dimensions.

    Args:
        subject: What is pinned, and by what.
        path: Path of the array.
        spec: The pin.
        entries: How many entries it has.
        shape: Global shape of the array.
    """

    def __init__(
        self, subject: str, path: str, spec: str, entries: int, shape: tuple[int, ...]
    ) -> None:
        self.path = path
        self.spec = spec
        self.shape = shape
        super().__init__(
            f"{subject}: {spec} has {entries} entries, but {path} has the shape {list(shape)}, "
            f"{len(shape)} {'dimension' if len(shape) == 1 else 'dimensions'}.\n"
            f"Mend it: give at most {len(shape)} entries, or a key that matches this array no more"
        )


class PinAxisError(PinError):
    """A pin with an axis that the mesh does not have, or with one axis twice.

    Args:
        subject: What is pinned, and by what.
        path: Path of the array.
        spec: The pin.
        axis: The axis.
        mesh: The mesh.
        problem: What is wrong with the axis.
    """

    def __init__(
        self, subject: str, path: str, *, spec: str, axis: str, mesh: str, problem: str
    ) -> None:
        self.path = path
        self.spec = spec
        self.axis = axis
        self.mesh = mesh
        names = [part.partition("=")[0] for part in mesh.split(",")]
        close = get_close_matches(axis, names, n=1)
        used = f"each of the axes {', '.join(names)} at most once"
        hint = f"{close[0]!r} instead of {axis!r}" if close and close[0] != axis else used
        super().__init__(
            f"{subject}: {spec} of {path} {problem}; the mesh is {mesh}.\nMend it: use {hint}"
        )


class PinSizeError(PinError):
    """A pin that cuts a dimension into parts of unequal size.

    Args:
        subject: What is pinned, and by what.
        path: Path of the array.
        spec: The pin.
        dim: The dimension.
        size: Its size.
        axes: The axes on it, as ``data×model``.
        n: Devices along them.
        nbytes: The size of the whole array, in words.
        others: Pins of the same axes on other dimensions, which divide.
        dropped: The pin without the axes.
        kept: The bytes on every device under that pin, in words.
    """

    def __init__(
        self,
        subject: str,
        path: str,
        *,
        spec: str,
        dim: int,
        size: int,
        axes: str,
        n: int,
        nbytes: str,
        others: Sequence[str],
        dropped: str,
        kept: str,
    ) -> None:
        self.path = path
        self.spec = spec
        self.dim = dim
        self.size = size
        self.n = n
        self.padded = -(-size // n) * n
        other = f"cut another dimension, {' or '.join(others)}" if others else None
        ways = [
            f"pad dimension {dim} to {self.padded}",
            *([other] if other else []),
            f"drop the axis here, {dropped} ({kept} on every device)",
        ]
        super().__init__(
            f"{subject}: {spec} cannot cut dimension {dim} of {path} ({nbytes}): its size {size} "
            f"is not divisible by {axes} = {n}.\n"
            f"Mend it: {'; or '.join(ways)}"
        )


class PinConflictError(PinError):
    """Pins that cannot all hold.

    Args:
        subject: The array that they speak of.
        pins: Pairs of what gives a spec and the spec.
        why: Why one spec has to do for all, where it is not one array.
    """

    def __init__(self, subject: str, pins: Sequence[tuple[str, str]], why: str = "") -> None:
        self.subject = subject
        self.pins = tuple(pins)
        lines = "".join(f"\n  {spec} by {source}" for source, spec in pins)
        super().__init__(
            f"{subject} is pinned to different specs:{lines}\n" + (f"{why}\n" if why else "") + ""
            "Mend it: keep one of them, or make the patterns narrower"
        )


class ConstraintMeshError(PinError):
    """A ``with_sharding_constraint`` in the program that the mesh cannot express.

    Args:
        subject: The constraint, with its source line.
        sharding: What it asks for.
        mesh: The mesh of the plan.
        problem: What does not fit.
    """

    def __init__(self, subject: str, sharding: str, mesh: str, problem: str) -> None:
        self.subject = subject
        self.sharding = sharding
        self.mesh = mesh
        super().__init__(
            f"{subject}: {sharding} cannot be kept on the mesh {mesh}: {problem}.\n"
            "A constraint in the program is a pin on its value, and is emitted again for the mesh "
            "of the plan.\n"
            "Mend it: use the axes of that mesh, parallelize(..., mesh=…) with the constraint's "
            "axes, or leave the constraint out"
        )


class LogicalAxisError(PinError):
    """Logical axis names, or rules for them, that cannot be read.

    Args:
        subject: The array's path, or ``rules``.
        problem: What is wrong.
    """

    def __init__(self, subject: str, problem: str) -> None:
        self.subject = subject
        self.problem = problem
        super().__init__(
            f"{subject}: {problem}.\n"
            'Mend it: autoshard.logical_pins(tree, {"embed": "data", "mlp": "model"}), each '
            "dimension of an array with a name of its own or None"
        )
