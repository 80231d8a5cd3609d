"""How ops are written: a word, or a word with parameters, to the stages that they stand for."""

import difflib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from autoshard.checkpoint.layouts import ops
from autoshard.checkpoint.layouts._op import Op
from autoshard.checkpoint.layouts._parameters import Parameters
from autoshard.checkpoint.layouts._stages import (
    Bundle,
    Collect,
    Derive,
    Each,
    Parts,
    Reverse,
    Stage,
)
from autoshard.errors import LayoutSyntaxError


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What an op's parameters may refer to.

    Args:
        layout: The layout's name.
        line: Where the rule stands.
        bindings: Quantities.
        axes: Sizes of the axes that are known.
    """

    layout: str
    line: int
    bindings: Mapping[str, Any]
    axes: Mapping[str, int]

    def parameters(self, values: Mapping[str, Any], subject: str) -> Parameters:
        """Reads parameters."""
        return Parameters(
            values,
            subject=subject,
            layout=self.layout,
            line=self.line,
            bindings=self.bindings,
        )


def stages_of(written: Any, context: Context) -> list[Stage]:
    """The stages of one op.

    Args:
        written: ``transpose``, ``{transpose: [1, 0]}`` or ``{shard: {axis: tp, dim: 0}}``.
        context: What parameters refer to.

    Raises:
        LayoutSyntaxError: There is no such op, or it is written another way.
    """
    name, values = _opened(written, context)
    if name in _ELEMENT:
        return [Each(op) for op in _element(name, values, context)]
    if name == "parts":
        chains = values if isinstance(values, list) else []
        return [
            Parts(
                tuple(
                    tuple(op for item in _list(chain) for op in element_ops(item, context))
                    for chain in chains
                )
            )
        ]
    if name not in _STAGES:
        known = sorted([*_ELEMENT, *_STAGES, "parts"])
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"ops: {', '.join(known)}"
        raise LayoutSyntaxError(context.layout, f"there is no op {name!r}", hint, context.line)
    if values is not None and not isinstance(values, Mapping):
        raise LayoutSyntaxError(
            context.layout,
            f"{name} takes named parameters, got {values!r}",
            f"{name}: {{dim: 0, …}}",
            context.line,
        )
    parameters = context.parameters(values or {}, name)
    found = _STAGES[name](parameters, context)
    parameters.finish()
    return found


def element_ops(written: Any, context: Context) -> tuple[Op, ...]:
    """The ops on single arrays that a word stands for; others are refused."""
    name, values = _opened(written, context)
    if name not in _ELEMENT:
        raise LayoutSyntaxError(
            context.layout,
            f"{name} does not work on one array",
            f"here go {', '.join(sorted(_ELEMENT))}",
            context.line,
        )
    return _element(name, values, context)


def _list(written: Any) -> list[Any]:
    return written if isinstance(written, list) else [written]


def _opened(written: Any, context: Context) -> tuple[str, Any]:
    if isinstance(written, str):
        return written, None
    if isinstance(written, Mapping) and len(written) == 1:
        ((name, values),) = written.items()
        return str(name), values
    raise LayoutSyntaxError(
        context.layout,
        f"{written!r} is no op",
        "write transpose, or {shard: {axis: tp, dim: 0}}",
        context.line,
    )


def _element(name: str, values: Any, context: Context) -> tuple[Op, ...]:
    if not isinstance(values, Mapping):
        values = {} if values is None else {"value": values}
    parameters = context.parameters(values, name)
    found = _ELEMENT[name](parameters)
    parameters.finish()
    return (found,)


def _transpose(p: Parameters) -> Op:
    order = p.get("value")
    return ops.Transpose(order=None if order is None else p.all_integers(order, "order"))


def _unflatten(p: Parameters) -> Op:
    return ops.Unflatten(dim=p.integer("dim"), sizes=p.integers("sizes"))


def _flatten(p: Parameters) -> Op:
    return ops.Flatten(dim=p.integer("dim"), sizes=p.integers("sizes"))


def _padding(p: Parameters) -> tuple[int, int, int, Any]:
    dim, size = p.integer("dim"), p.integer("size")
    if "padded" in p:
        padded = p.integer("padded")
    else:
        multiple = p.integer("multiple_of")
        padded = -(-size // multiple) * multiple
    return dim, size, padded, p.choice("check", ["zero", "none"], "zero")


def _strip(p: Parameters) -> Op:
    dim, size, padded, check = _padding(p)
    return ops.Strip(dim=dim, size=size, padded=padded, check=check)


def _pad(p: Parameters) -> Op:
    dim, size, padded, check = _padding(p)
    return ops.Pad(dim=dim, size=size, padded=padded, check=check)


def _cast(p: Parameters) -> Op:
    return ops.Cast(source=p.dtype("from"), to=p.dtype("to"))


def _rotary(p: Parameters) -> Op:
    return ops.Rotary(dim=p.integer("dim"), to=p.choice("to", ["halves", "interleaved"]))


def _rescale(p: Parameters) -> Op:
    return ops.Rescale(root_of=p.integer("by_sqrt"))


_ELEMENT: Mapping[str, Callable[[Parameters], Op]] = MappingProxyType(
    {
        "transpose": _transpose,
        "unflatten": _unflatten,
        "flatten": _flatten,
        "strip": _strip,
        "pad": _pad,
        "cast": _cast,
        "rotary": _rotary,
        "rescale": _rescale,
    }
)


def _widths(p: Parameters) -> tuple[int, ...] | None:
    return p.integers("widths") if "widths" in p else None


def _key(p: Parameters, context: Context) -> tuple[str, int | None, tuple[int, ...] | None]:
    """Axis, its size, and where on it the arrays lie."""
    axis = p.get("axis") or p.get("index")
    if axis is None:
        raise p.error("does not say over what it goes", "axis: tp, or index: l")
    at = p.get("at", "all")
    words: dict[str, tuple[int, ...] | None] = {"all": None, "first": (0,), "last": (-1,)}
    words["ends"] = (0, -1)
    if isinstance(at, list):
        places: tuple[int, ...] | None = p.all_integers(at, "at")
    elif isinstance(at, str) and at in words:
        places = words[at]
    else:
        places = (p.evaluate(at),)
    return str(axis), context.axes.get(str(axis)), places


def _shard(p: Parameters, context: Context) -> list[Stage]:
    axis, size, at = _key(p, context)
    dim, widths = p.integer("dim"), _widths(p)
    if widths is not None:
        size = len(widths)
    make = functools.partial(_concat, dim, widths)
    return [Collect(key=axis, op=make, size=size, at=at)]


def _concat(dim: int, widths: tuple[int, ...] | None, count: int | None) -> Op:
    return ops.Concat(dim=dim, widths=widths, count=count)


def _replicated(p: Parameters, context: Context) -> list[Stage]:
    axis, size, at = _key(p, context)
    check: Any = p.choice("check", ["bitwise", "none"], "bitwise")
    make = lambda count: ops.Same(count=_counted(p, axis, count), check=check)
    return [Collect(key=axis, op=make, size=size, at=at)]


def _unique(p: Parameters, context: Context) -> list[Stage]:
    axis, size, at = _key(p, context)
    make = lambda count: ops.Same(count=1)
    return [Collect(key=axis, op=make, size=size, at=at or (0,))]


def _reduce(kind: Any, p: Parameters, context: Context) -> list[Stage]:
    axis, size, at = _key(p, context)
    make = lambda count: ops.Reduce(kind=kind, count=_counted(p, axis, count))
    return [Collect(key=axis, op=make, size=size, at=at)]


def _counted(p: Parameters, axis: str, count: int | None) -> int:
    if count is None:
        raise p.error(f"does not know the size of {axis}", f"axes: {{{axis}: 2}}")
    return count


def _fragment(p: Parameters, context: Context) -> list[Stage]:
    axis, size, at = _key(p, context)
    numel = p.integer("numel")
    align = p.integer("align", 1)
    padded = p.integer("padded", -(-numel // align) * align)
    check: Any = p.choice("check", ["zero", "none"], "zero")
    make = functools.partial(_concat, 0, None)
    strip = ops.Strip(dim=0, size=numel, padded=padded, check=check)
    return [Collect(key=axis, op=make, size=size, at=at), Each(strip)]


def _stack(p: Parameters, context: Context) -> list[Stage]:
    axis, size, at = _key(p, context)
    dim = p.integer("dim", 0)
    make = lambda count: ops.Stack(dim=dim, count=count)
    return [Collect(key=axis, op=make, size=size, at=at)]


def _unstack(p: Parameters, context: Context) -> list[Stage]:
    (stage,) = _stack(p, context)
    assert isinstance(stage, Collect)
    return [Reverse(stage, gives=frozenset({stage.key}))]


def _fused(p: Parameters, context: Context) -> list[Stage]:
    dim, widths = p.integer("dim"), _widths(p)
    count = None if widths else p.integer("count")
    return [Bundle(ops.Split(dim=dim, widths=widths, count=count))]


def _fuse(p: Parameters, context: Context) -> list[Stage]:
    (stage,) = _fused(p, context)
    assert isinstance(stage, Bundle)
    return [Bundle(stage.op.inverse())]


def _tied(p: Parameters, context: Context) -> list[Stage]:
    check: Any = p.choice("check", ["bitwise", "none"], "bitwise")
    return [Bundle(ops.Same(count=p.integer("count", 2), check=check))]


def _untie(p: Parameters, context: Context) -> list[Stage]:
    (stage,) = _tied(p, context)
    assert isinstance(stage, Bundle)
    return [Bundle(stage.op.inverse())]


def _quant(p: Parameters, context: Context) -> list[Stage]:
    op = ops.Dequantise(
        quantised=p.dtype("from"),
        scale=p.dtype("scale"),
        to=p.dtype("to"),
        block=p.integers("block"),
        scale_shape=p.integers("scale_shape") if "scale_shape" in p else None,
    )
    return [Bundle(op)]


def _derive(p: Parameters, context: Context) -> list[Stage]:
    sizes = p.get("sizes")
    many = isinstance(sizes, list)
    return [
        Derive(
            key=str(p.require("key", "l")),
            stage=str(p.require("stage", "pp")),
            local=str(p.require("local", "i")),
            sizes=p.all_integers(sizes, "sizes") if many else p.evaluate(sizes),
        )
    ]


_STAGES: Mapping[str, Callable[[Parameters, Context], list[Stage]]] = MappingProxyType(
    {
        "shard": _shard,
        "replicated": _replicated,
        "unique": _unique,
        "partial": functools.partial(_reduce, "sum"),
        "average": functools.partial(_reduce, "mean"),
        "fragment": _fragment,
        "stack": _stack,
        "unstack": _unstack,
        "fused": _fused,
        "fuse": _fuse,
        "tied": _tied,
        "untie": _untie,
        "quant": _quant,
        "derive": _derive,
    }
)
