"""Models as functions of their variables: Linen's ``apply``, and Hugging Face's ``__call__``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from autoshard.api._calls import Call
from autoshard.api._leaf_statics import LeafStatics, ModelCall, with_statics
from autoshard.tracing import path_text


class Applied(NamedTuple):
    """What a model's function returns.

    Args:
        out: The result.
        mutated: Collections of variables that it changed or made, by name; None where none
            were asked for.
    """

    out: Any
    mutated: Any


@dataclass(slots=True)
class _Outcome:
    """How mutated collections are put together again.

    Args:
        tree: Their tree; None where there are none.
        leaves: For each leaf ``(True, position among the variables)`` or ``(False, position
            among the new arrays)``.
    """

    tree: Any = None
    leaves: list[tuple[bool, int]] = field(default_factory=list)


class _ApplyCall(ModelCall):
    """A call whose variables come back: changed ones as results, the others as they were."""

    forwards = True
    __slots__ = ()

    def finish(self, entry: Any, placed: Sequence[Any], results: Sequence[Any]) -> Any:
        """The result and the mutated collections."""
        del placed
        parts = jax.tree.unflatten(entry.program.out_tree, results)
        outcome: _Outcome = entry.outcome
        if outcome.tree is None:
            return Applied(parts["out"], None)
        state = jax.tree.leaves(parts["state"])
        leaves = [state[k] if old else parts["new"][k] for old, k in outcome.leaves]
        return Applied(parts["out"], jax.tree.unflatten(outcome.tree, leaves))


class ApplyReader(LeafStatics):
    """Reads calls of a function whose first argument are a model's variables."""

    call_type = _ApplyCall

    def bind(self, function: Callable[..., Any], call: Call) -> Callable[..., Any]:
        """The pure function of a call's arrays, which gives all variables back."""
        return _PureApply(function)


class _PureApply:
    """The function with its variables among the results.

    A forward pass alone does not say which of its arguments are state. That the variables come
    back does, and says that a cache or a running mean keeps its sharding from call to call.

    Args:
        function: Returns `Applied`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self.outcome = _Outcome()

    def __call__(self, variables: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Apply the model to arrays."""
        args, kwargs = with_statics((args, kwargs))
        out, mutated = self._function(variables, *args, **kwargs)
        self.outcome = outcome = _Outcome()
        flat, tree = jax.tree_util.tree_flatten_with_path(variables)
        positions = {path_text(path): k for k, (path, _) in enumerate(flat)}
        state = [leaf for _, leaf in flat]
        new: list[Any] = []
        if mutated is not None:
            changed, outcome.tree = jax.tree_util.tree_flatten_with_path(mutated)
            for path, leaf in changed:
                k = positions.get(path_text(path))
                if k is not None and _form(state[k]) == _form(leaf):
                    state[k] = leaf
                    outcome.leaves.append((True, k))
                else:
                    outcome.leaves.append((False, len(new)))
                    new.append(leaf)
        return {"new": new, "out": out, "state": jax.tree.unflatten(tree, state)}


def _form(leaf: Any) -> Any:
    return jax.numpy.shape(leaf), getattr(leaf, "dtype", None)
