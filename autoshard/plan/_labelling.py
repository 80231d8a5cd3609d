"""A `Labelling`: which factor of each op every mesh axis is put on.

It is the common language of recipes and search: both produce one, and `make_plan` turns any
labelling into specs. A label implies the spec of every operand (what the op wants to read) and of
every result (what it leaves behind once its partial results are combined).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoshard.errors import LabellingError
from autoshard.plan._limits import is_miscompiled
from autoshard.plan._mesh import MeshShape
from autoshard.plan._spec import Spec
from autoshard.rules import Dims, FactorKind, OpRule, RuledProgram

Label = Mapping[str, tuple[str, ...]]
"""Factor name → axes on it, major to minor. A factor that is not named has none."""


def project(dims: Dims, rule: OpRule, label: Label, shape: Sequence[int], mesh: MeshShape) -> Spec:
    """The spec that a label gives to one operand or result.

    Args:
        dims: The factors of its dimensions.
        rule: The op's rule.
        label: The op's label.
        shape: Its global shape.
        mesh: The mesh.

    Returns:
        The spec. Axes on a minor factor count only where every more major factor of the dimension
        is fully sharded; otherwise no spec can say it, and the array is read or left whole there.
    """
    if not label:
        return Spec.replicated(len(dims))
    out: list[tuple[str, ...]] = []
    for dim, size in zip(dims, shape, strict=True):
        axes: tuple[str, ...] = ()
        for name in dim:
            here = label.get(name, ())
            axes += here
            if mesh.size_of(here) != rule.factors[name].size:
                break
        out.append(axes if size % mesh.size_of(axes) == 0 else ())
    return Spec(tuple(out))


def check_label(rule: OpRule, label: Label, mesh: MeshShape, what: str) -> None:
    """Verify that a label is legal for its op.

    Args:
        rule: The op's rule.
        label: The label.
        mesh: The mesh.
        what: Name of the op, for the error.

    Raises:
        LabellingError: It names an unknown factor or axis, puts an axis on two factors, shards a
            whole factor, or cuts a factor into parts of unequal size.
    """
    used: set[str] = set()
    for name, axes in label.items():
        factor = rule.factors.get(name)
        if factor is None:
            raise LabellingError(what, rule.text, f"it has no factor {name!r}")
        if factor.kind is FactorKind.WHOLE and axes:
            raise LabellingError(what, rule.text, f"factor {name!r} has to stay whole")
        for axis in axes:
            if axis not in mesh.axes:
                raise LabellingError(what, rule.text, f"the mesh has no axis {axis!r}")
            if axis in used:
                raise LabellingError(what, rule.text, f"axis {axis!r} is on two factors")
            used.add(axis)
        if factor.kind is not FactorKind.HALO and factor.size % mesh.size_of(axes):
            raise LabellingError(
                what,
                rule.text,
                f"factor {name!r} of size {factor.size} is not divisible by "
                f"{'×'.join(axes)} = {mesh.size_of(axes)}",
            )


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an argument or result is sharded as it is.

    Args:
        text: In words.
        follows: Paths of the arguments and results that it follows, as the words name them.
    """

    text: str
    follows: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Labelling:
    """Labels for the ops of a program, with the reason of each.

    Args:
        ruled: The program and its rules.
        mesh: The mesh.
        labels: Op id → label; an op that is not there runs replicated.
        reasons: Op id → why.

    Raises:
        LabellingError: A label is not legal for its op.
    """

    ruled: RuledProgram
    mesh: MeshShape
    labels: Mapping[int, Label]
    reasons: Mapping[int, Reason] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for op_id, label in self.labels.items():
            rule = self.ruled.rules[op_id]
            op = self.ruled.program.ops[op_id]
            if rule is None:
                raise LabellingError(str(op), "", "it owns regions; label its ties and bodies")
            check_label(rule, label, self.mesh, str(op))
            if is_miscompiled(op.primitive, op.params, rule, label):
                raise LabellingError(
                    str(op),
                    rule.text,
                    f"the compiler gets {dict(label)} wrong: where windows of a convolution cross "
                    "the borders of shards, its output channels cannot be cut as well",
                )

    def operand_spec(self, op_id: int, index: int) -> Spec:
        """The spec in which an op wants to read an operand."""
        rule = self.ruled.rules[op_id]
        assert rule is not None
        operand = self.ruled.program.ops[op_id].operands[index]
        shape = self.ruled.program.aval(operand).shape
        return project(rule.operands[index], rule, self.labels.get(op_id, {}), shape, self.mesh)

    def result_spec(self, op_id: int, index: int) -> Spec:
        """The spec in which an op leaves a result, its partials combined."""
        rule = self.ruled.rules[op_id]
        assert rule is not None
        value = self.ruled.program.values[self.ruled.program.ops[op_id].results[index]]
        label = self.labels.get(op_id, {})
        return project(rule.results[index], rule, label, value.shape, self.mesh)

    def value_spec(self, value_id: int) -> Spec:
        """The spec in which a value is produced."""
        value = self.ruled.program.values[value_id]
        return self.result_spec(value.producer, value.index)

    def partial_axes(self, op_id: int) -> tuple[str, ...]:
        """Axes over which an op's results are partial before they are combined."""
        rule = self.ruled.rules[op_id]
        assert rule is not None
        label = self.labels.get(op_id, {})
        return tuple(
            axis for name in rule.of_kind(FactorKind.REDUCTION) for axis in label.get(name, ())
        )


def inferred_label(rule: OpRule, operands: Sequence[Spec | None], mesh: MeshShape) -> Label | None:
    """The label that a partitioner would give an op when it knows only its operands.

    Args:
        rule: The op's rule.
        operands: Specs of the operands; None for literals.
        mesh: The mesh.

    Returns:
        Factor → axes, or None where two operands disagree or a sharded dimension has no factor
        that may carry its axes.
    """
    label: dict[str, tuple[str, ...]] = {}
    owner: dict[str, str] = {}
    for dims, spec in zip(rule.operands, operands, strict=True):
        if spec is None:
            continue
        for dim, axes in zip(dims, spec.dims, strict=True):
            found = split_axes(rule, dim, axes, mesh)
            if found is None:
                return None
            for name, here in found.items():
                if any(owner.setdefault(axis, name) != name for axis in here):
                    return None
                old = label.get(name, ())
                short, long = sorted((old, here), key=len)
                if long[: len(short)] != short:
                    return None
                label[name] = long
    return label


def split_axes(
    rule: OpRule, dim: Sequence[str], axes: tuple[str, ...], mesh: MeshShape
) -> dict[str, tuple[str, ...]] | None:
    """Distribute the axes of one dimension over its factors.

    Args:
        rule: The op's rule.
        dim: Factors of the dimension, major to minor.
        axes: Axes of the dimension, major to minor.
        mesh: The mesh.

    Returns:
        Factor → axes, or None when they do not fit: a factor takes axes only while they divide
        it, and hands the rest on only once it is cut down to single elements.
    """
    found: dict[str, tuple[str, ...]] = {}
    rest = list(axes)
    for name in dim:
        factor = rule.factors[name]
        if not rest:
            break
        if factor.kind is FactorKind.WHOLE:
            return None
        here: tuple[str, ...] = ()
        room = factor.size
        while rest and (factor.kind is FactorKind.HALO or room % mesh.axes[rest[0]] == 0):
            room //= mesh.axes[rest[0]]
            here += (rest.pop(0),)
        found[name] = here
        if rest and room != 1:
            return None
    return found if not rest else None
