"""Language models written in Flax NNX."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from autoshard.models._losses import cross_entropy
from autoshard.models._specs._base import Batch, Rngs
from autoshard.models._specs._language import LanguageModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class NNXLanguageModelSpec(LanguageModelSpec):
    """A language model whose `module` is an NNX class, built as `module(config, rngs=rngs)`.

    Its variables are parameters alone. `init`, `loss` and `make_training` treat them as a plain
    tree of arrays, as those of a Linen model; `build` and `make_nnx_training` give the module.
    """

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """The module, with fresh parameters.

        Args:
            rngs: Random keys, such as `nnx.Rngs(0)`.
        """
        return self.module(self.config, rngs=rngs)

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """Fresh variables: `params` alone, nested dicts of arrays.

        Args:
            rng: Key from `jax.random.key`.
        """
        return {"params": nnx.to_pure_dict(nnx.state(self.build(nnx.Rngs(rng)), nnx.Param))}

    def loss_and_collections(
        self, params: Any, collections: Mapping[str, Any], batch: Batch, rngs: Rngs | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Mean cross-entropy of the next token, in nats; there are no collections."""
        del rngs
        logits = self.apply_fn({"params": params}, batch["inputs"])
        return cross_entropy(logits, batch["targets"]), dict(collections)

    @property
    def apply_fn(self) -> Callable[..., Any]:
        """The forward pass, `apply_fn({"params": params}, tokens)`."""
        return _PureApply(self.module, self.config)


@dataclass(frozen=True, slots=True)
class _PureApply:
    """A module's call as a function of its parameters; equal for equal modules."""

    module: Callable[..., nnx.Module]
    config: Any

    def __call__(self, variables: Mapping[str, Any], *inputs: Any) -> Any:
        graph = _graph(self.module, self.config)
        model: Any = nnx.merge(graph, nnx.State(variables["params"]))
        return model(*inputs)


@functools.cache
def _graph(module: Callable[..., nnx.Module], config: Any) -> nnx.GraphDef[Any]:
    """What of a module is no array. Splitting takes long, so it is done once and not per step."""
    return nnx.split(nnx.eval_shape(lambda: module(config, rngs=nnx.Rngs(0))))[0]
