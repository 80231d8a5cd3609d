"""NNX objects that are born sharded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoshard.api._calls import Arguments
from autoshard.api._init import create_sharded
from autoshard.api._leaf_statics import LeafStatics
from autoshard.api._planning import planning
from autoshard.api.adapters.nnx._call import GraphCall
from autoshard.api.adapters.nnx._layout import layout_of
from autoshard.api.adapters.nnx._reader import pure_function
from autoshard.api.adapters.nnx._structure import Structure


class Birth:
    """A function that makes NNX objects, about to be run.

    Its arguments may be NNX objects as well (`nnx.Rngs`): they are updated, and shared with what
    is made, as if the function had simply been called.

    Args:
        create: The function.
        args: Its positional arguments; what is no array is a constant.
        kwargs: Its keyword arguments, likewise.

    Attributes:
        made: What it will make, with `jax.ShapeDtypeStruct` for arrays.
    """

    def __init__(
        self, create: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> None:
        reader = LeafStatics(create, (), ())
        given = Arguments(tuple(args), dict(kwargs), {}, tuple(args))
        layout = layout_of(create, given)
        roots, data = layout.roots(given), layout.data(given)
        structure = Structure(layout.root_names, roots)
        objects, _ = structure.split(roots)
        self._call = GraphCall(
            given,
            layout=layout,
            structure=structure,
            token=0,
            objects=objects,
            roots=roots,
            data=reader.flatten(data),
            data_trees=lambda: reader.arrays(data),
        )
        self._pure = pure_function(create, self._call, reader)
        with planning():
            self._shapes = jax.eval_shape(self._pure, *self._call.args)
        # Of this trace, not of the one that makes the arrays: what is made then has the same
        # static parts (an optimizer's functions) as what was planned.
        self._outcome = self._pure.outcome
        self.made = self._abstract()

    def _abstract(self) -> Any:
        outcome, shapes = self._outcome, self._shapes
        if outcome.joint:
            values = self._call.slot_values(jax.tree.leaves(shapes["state"]))
            leaves = [values[k] if old else shapes["new"][k] for old, k in outcome.leaves]
            return nnx.graph.unflatten(outcome.graph, leaves)[1]
        if outcome.result is None:
            return shapes["out"]
        return nnx.graph.unflatten(outcome.result, shapes["out"])

    def run(self, sharding_of: Callable[[Any], Any], mesh: Mesh) -> tuple[Any, list[Any]]:
        """Make the objects.

        Args:
            sharding_of: From the `jax.ShapeDtypeStruct` of one array in ``made`` to its sharding;
                None for what belongs to none of the objects.
            mesh: Where.

        Returns:
            What the function returns, and the arrays in it that were given a sharding.
        """
        leaves, tree = jax.tree.flatten(self._shapes)
        wanted = [sharding_of(leaf) for leaf in leaves]
        whole = NamedSharding(mesh, PartitionSpec())
        with planning():
            arrays = create_sharded(self._pure, self._call.args, [s or whole for s in wanted], mesh)
        entry = SimpleNamespace(outcome=self._outcome, program=SimpleNamespace(out_tree=tree))
        made = self._call.finish(entry, self._call.leaves, arrays)
        return made, [a for a, sharding in zip(arrays, wanted, strict=True) if sharding]
