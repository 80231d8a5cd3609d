"""How each higher-order primitive becomes a region, or disappears into its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from autoshard._compat import add_scan_constants, scan_arity
from autoshard.tracing._capture import Hoists
from autoshard.tracing._program import TIE, Literal

if TYPE_CHECKING:
    from autoshard.tracing._build import Builder, Frame

Operand = int | Literal
RegionHandler = Callable[["Builder", "Frame", Any, Sequence[Operand], Any], Sequence[int]]


def _closed(key: str, *, custom: bool = False) -> Callable[[Any, bool], tuple[Any, Any] | None]:
    """A call whose body stands in a param; custom derivatives stay calls when asked."""

    def body(eqn: Any, keep_custom: bool) -> tuple[Any, Any] | None:
        if custom and keep_custom:
            return None
        jaxpr = eqn.params[key]
        return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())

    return body


INLINED: dict[str, Callable[[Any, bool], tuple[Any, Any] | None]] = {
    "closed_call": _closed("call_jaxpr"),
    "core_call": _closed("call_jaxpr"),
    "custom_jvp_call": _closed("call_jaxpr", custom=True),
    "custom_vjp_call": _closed("call_jaxpr", custom=True),
    "custom_vjp_call_jaxpr": _closed("call_jaxpr", custom=True),
    "custom_vmap_call": _closed("call", custom=True),
    "eval_jaxpr": _closed("call_jaxpr"),
    "jit": _closed("jaxpr"),
    "pjit": _closed("jaxpr"),
}
"""Calls that disappear: primitive name → body and its constants (None: keep the call)."""


def _scan(
    builder: Builder, frame: Frame, eqn: Any, operands: Sequence[Operand], scope: Any
) -> Sequence[int]:
    """Constants, carries and scanned inputs go in, carries and stacked outputs come out."""
    params = eqn.params
    closed = params["jaxpr"]
    n_consts, n_carry = scan_arity(params)
    n_fixed = n_consts + n_carry
    avals = [v.aval for v in closed.jaxpr.invars]
    out_avals = [v.aval for v in eqn.outvars]
    operands = [builder.use(frame, o) for o in operands]
    owner = builder.reserve()
    ties: list[int] = []
    inputs: list[int] = []
    for operand, aval in zip(operands[:n_consts], avals[:n_consts], strict=True):
        tie = builder.tie(frame, [operand], [aval], kind="constant")
        ties.append(tie.id)
        inputs.append(tie.results[0])
    carries = _open_carries(builder, avals[n_consts:n_fixed], out_avals[:n_carry], copies=1)
    inputs += [results[0] for _, results in carries]
    for operand, aval in zip(operands[n_fixed:], avals[n_fixed:], strict=True):
        tie = builder.tie(frame, [operand], [aval], operand_leading=(1,), kind="scanned input")
        ties.append(tie.id)
        inputs.append(tie.results[0])
    hoists = Hoists("constant")
    body = builder.block(
        owner,
        frame,
        closed.jaxpr,
        inputs,
        hoists=hoists,
        consts=closed.consts,
        trips=params["length"],
    )
    results = _close_carries(
        builder, frame, carries, operands[n_consts:n_fixed], body.outputs[:n_carry], ties
    )
    for output, aval in zip(body.outputs[n_carry:], out_avals[n_carry:], strict=True):
        tie = builder.tie(frame, [output], [aval], result_leading=(1,), kind="scanned output")
        ties.append(tie.id)
        results.append(tie.results[0])
    builder.op(
        frame, "scan", [*hoists.operands, *operands], (), op_id=owner, results=results,
        params=add_scan_constants(params, len(hoists.ties)), eqn=eqn, scope=scope,
        blocks=hoists.enter([body]), ties=(*hoists.tie_ids, *ties),
    )  # fmt: skip
    return results


def _open_carries(
    builder: Builder, body_avals: Sequence[Any], out_avals: Sequence[Any], *, copies: int
) -> list[tuple[int, list[int]]]:
    """Reserve a tie for each carry; its values exist before the body that closes the loop."""
    carries = []
    for body_aval, out_aval in zip(body_avals, out_avals, strict=True):
        tie_id = builder.reserve()
        avals = [*[body_aval] * copies, out_aval]
        carries.append((tie_id, [builder.value(a, tie_id, i) for i, a in enumerate(avals)]))
    return carries


def _close_carries(
    builder: Builder,
    frame: Frame,
    carries: list[tuple[int, list[int]]],
    initial: Sequence[Operand],
    returned: Sequence[Operand],
    ties: list[int],
) -> list[int]:
    """Fill the reserved ties in; return the loop's results."""
    out = []
    for (tie_id, results), first, last in zip(carries, initial, returned, strict=True):
        builder.op(
            frame,
            TIE,
            [first, last],
            (),
            op_id=tie_id,
            results=results,
            in_block=False,
            params={
                "kind": "carry",
                "operand_leading": (0, 0),
                "result_leading": (0,) * len(results),
            },
        )
        ties.append(tie_id)
        out.append(results[-1])
    return out


def _while(
    builder: Builder, frame: Frame, eqn: Any, operands: Sequence[Operand], scope: Any
) -> Sequence[int]:
    """The carry is seen by the condition and by the body; its trip count is an assumption."""
    params = eqn.params
    cond, body = params["cond_jaxpr"], params["body_jaxpr"]
    n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
    operands = [builder.use(frame, o) for o in operands]
    owner = builder.reserve()

    def constants(start: int, stop: int, jaxpr: Any) -> tuple[list[int], list[int]]:
        found = [
            builder.tie(frame, [operand], [var.aval], kind="constant")
            for operand, var in zip(operands[start:stop], jaxpr.invars, strict=False)
        ]
        return [tie.id for tie in found], [tie.results[0] for tie in found]

    cond_ties, cond_inputs = constants(0, n_cond, cond.jaxpr)
    body_ties, body_inputs = constants(n_cond, n_cond + n_body, body.jaxpr)
    carries = _open_carries(
        builder,
        [v.aval for v in body.jaxpr.invars[n_body:]],
        [v.aval for v in eqn.outvars],
        copies=2,
    )
    cond_inputs += [results[0] for _, results in carries]
    body_inputs += [results[1] for _, results in carries]
    cond_hoists, body_hoists = Hoists("constant"), Hoists("constant")
    blocks = [
        builder.block(
            owner, frame, closed.jaxpr, inputs, hoists=hoists, consts=closed.consts,
            trips=builder.while_trips, exact=False,
        )
        for closed, inputs, hoists in (
            (cond, cond_inputs, cond_hoists),
            (body, body_inputs, body_hoists),
        )
    ]  # fmt: skip
    carry_ties: list[int] = []
    results = _close_carries(
        builder, frame, carries, operands[n_cond + n_body :], blocks[1].outputs, carry_ties
    )
    builder.op(
        frame,
        "while",
        [
            *cond_hoists.operands,
            *operands[:n_cond],
            *body_hoists.operands,
            *operands[n_cond:],
        ],
        (),
        op_id=owner,
        results=results,
        params={
            **params,
            "cond_nconsts": n_cond + len(cond_hoists.ties),
            "body_nconsts": n_body + len(body_hoists.ties),
        },
        eqn=eqn,
        scope=scope,
        blocks=(*cond_hoists.enter(blocks[:1]), *body_hoists.enter(blocks[1:])),
        ties=(*cond_hoists.tie_ids, *cond_ties, *body_hoists.tie_ids, *body_ties, *carry_ties),
    )
    return results


def _branches(
    builder: Builder,
    frame: Frame,
    eqn: Any,
    operands: Sequence[Operand],
    scope: Any,
    *,
    bodies: Sequence[tuple[Any, Sequence[Any]]],
    leading_operands: int,
    atomic: bool = False,
) -> Sequence[int]:
    """Bodies that all see the same operands and return the same results."""
    operands = [builder.use(frame, o) for o in operands]
    owner = builder.reserve()
    ties: list[int] = []
    inputs: list[list[int]] = [[] for _ in bodies]
    for k, operand in enumerate(operands[leading_operands:]):
        avals = [jaxpr.invars[k].aval for jaxpr, _ in bodies]
        tie = builder.tie(frame, [operand], avals, kind="argument")
        ties.append(tie.id)
        for branch, value in zip(inputs, tie.results, strict=True):
            branch.append(value)
    # What is emitted as it was traced keeps its constants.
    hoists = None if atomic else Hoists("argument", len(bodies))
    params = eqn.params
    blocks = tuple(
        builder.block(owner, frame, jaxpr, inputs[i], hoists=hoists, index=i, consts=consts)
        for i, (jaxpr, consts) in enumerate(bodies)
    )
    if hoists is not None:
        blocks = hoists.enter(blocks)
        operands[leading_operands:leading_operands] = hoists.operands
        ties[:0] = hoists.tie_ids
        if isinstance(params.get("prevent_cse"), tuple):  # of remat: one for each operand
            params = {**params, "prevent_cse": (False,) * len(hoists.ties) + params["prevent_cse"]}
    results = []
    for k, var in enumerate(eqn.outvars):
        tie = builder.tie(frame, [b.outputs[k] for b in blocks], [var.aval], kind="result")
        ties.append(tie.id)
        results.append(tie.results[0])
    builder.op(
        frame, str(eqn.primitive), operands, (), op_id=owner, results=results,
        params=params, eqn=eqn, scope=scope, blocks=blocks, ties=tuple(ties), atomic=atomic,
    )  # fmt: skip
    return results


def _cond(
    builder: Builder, frame: Frame, eqn: Any, operands: Sequence[Operand], scope: Any
) -> Sequence[int]:
    """The first operand chooses the branch."""
    bodies = [(b.jaxpr, b.consts) for b in eqn.params["branches"]]
    return _branches(builder, frame, eqn, operands, scope, bodies=bodies, leading_operands=1)


def _remat(
    builder: Builder, frame: Frame, eqn: Any, operands: Sequence[Operand], scope: Any
) -> Sequence[int]:
    """A rematerialized call keeps its barrier: its body is emitted as a call again."""
    bodies = [(eqn.params["jaxpr"], ())]
    return _branches(builder, frame, eqn, operands, scope, bodies=bodies, leading_operands=0)


def _custom(
    builder: Builder, frame: Frame, eqn: Any, operands: Sequence[Operand], scope: Any
) -> Sequence[int]:
    """A call with a derivative or batching rule of its own: analysed, but emitted as it was."""
    closed = eqn.params["call" if "call" in eqn.params else "call_jaxpr"]
    bodies = [(closed.jaxpr, closed.consts)]
    return _branches(
        builder, frame, eqn, operands, scope, bodies=bodies, leading_operands=0, atomic=True
    )


REGIONS: dict[str, RegionHandler] = {
    "checkpoint": _remat,
    "cond": _cond,
    "custom_jvp_call": _custom,
    "custom_vjp_call": _custom,
    "custom_vjp_call_jaxpr": _custom,
    "custom_vmap_call": _custom,
    "remat": _remat,
    "remat2": _remat,
    "scan": _scan,
    "while": _while,
}
"""Primitives that own regions. Others with inner jaxprs (``shard_map``, ``pallas_call``, linear
solves) are opaque: one op, emitted as it was traced."""
