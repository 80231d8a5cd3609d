"""Train steps planned, compiled and run once per session, and their results on one device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autoshard import models
from autoshard.lowering import device_mesh, lower_plan, shardings
from autoshard.plan import Plan, parse_mesh
from autoshard.recipes import plan_by_recipe
from autoshard.tracing import Program, trace
from autoshard.verify import Collective, collectives

MESHES = {
    "8": "x=8",
    "2x4": "data=2,model=4",
    "4x2": "data=4,model=2",
    "2x2x2": "a=2,b=2,c=2",
}

MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gpt": ("gpt-tiny", {}),
    "gpt-scan": ("gpt-tiny", {"scan_layers": True}),
    "llama": ("llama-tiny", {"scan_layers": False}),
    "llama-scan-remat": ("llama-tiny", {"scan_layers": True, "remat": "full"}),
    "resnet": ("resnet-tiny", {}),
    "moe": ("moe-tiny", {}),
    "t5": ("t5-tiny", {}),
    "dlrm": ("dlrm-tiny", {}),
    "bert": ("bert-tiny", {}),
    "vit": ("vit-tiny", {}),
    "unet": ("unet-tiny", {}),
    "llama-nnx": ("llama-nnx-tiny", {}),
}


@dataclass(frozen=True, eq=False)
class Planned:
    """A function under a plan, compiled for emulated devices."""

    program: Program
    plan: Plan
    mesh: jax.sharding.Mesh
    compiled: Any

    @functools.cached_property
    def text(self) -> str:
        return self.compiled.as_text()

    @functools.cached_property
    def collectives(self) -> tuple[Collective, ...]:
        """All that carry more than single numbers."""
        found = collectives(self.text, self.plan.mesh.axes)
        return tuple(c for c in found if not c.is_scalar)

    @property
    def temporary_bytes(self) -> int:
        return self.compiled.memory_analysis().temp_size_in_bytes

    def spec(self, path: str) -> str:
        return str(self.plan.leaf(path).spec)

    def __call__(self, *args: Any) -> Any:
        leaves = [*jax.tree.leaves(args), *self.program.captured]
        placed = jax.device_put(leaves, shardings(self.plan.arguments, self.mesh))
        results = self.compiled(*placed)
        for leaf, result in zip(self.plan.results, results, strict=True):
            assert result.sharding.shard_shape(result.shape) == leaf.spec.shard_shape(
                result.shape, self.plan.mesh
            )
        return jax.tree.unflatten(self.program.out_tree, results)


def compile_plan(
    function: Callable[..., Any],
    args: Any,
    strategy: str,
    mesh: str,
    *,
    pins: Mapping[str, Any] | None = None,
    **options: Any,
) -> Planned:
    """Trace, plan and compile. Arguments may be shapes."""
    shape = parse_mesh(mesh, 8)
    program = trace(function, args)
    plan = plan_by_recipe(program, shape, strategy, pins=pins)
    device = device_mesh(shape)
    avals = [program.argument_value(leaf).aval for leaf in program.arguments]
    structs = [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals]
    compiled = lower_plan(program, plan, device, **options).lower(*structs).compile()
    return Planned(program, plan, device, compiled)


def plan_of(function: Callable[..., Any], args: Any, strategy: str, mesh: str) -> Plan:
    return plan_by_recipe(trace(function, args), parse_mesh(mesh, 8), strategy)


BOUNDS = {"segments": 2, "mask": 2, "masked_positions": 4, "masked_weights": 2, "next_sentence": 2}
"""One more than the largest integer, where the vocabulary, classes or rows are not the bound."""


def random_batch(spec: models.ModelSpec, size: int = 16, length: int = 32) -> dict[str, jax.Array]:
    rng = np.random.default_rng(7)
    if isinstance(spec, models.LanguageModelSpec):
        tokens = rng.integers(0, spec.config.vocab_size, (size, length + 1)).astype(np.int32)
        return {"inputs": jnp.asarray(tokens[:, :-1]), "targets": jnp.asarray(tokens[:, 1:])}
    config = spec.config
    bound = getattr(config, "vocab_size", 0) or getattr(config, "num_classes", 0)
    bound = bound or min(getattr(config, "table_rows", (2,)))
    return {
        name: jnp.asarray(
            rng.integers(0, BOUNDS.get(name, bound), leaf.shape)
            if jnp.issubdtype(leaf.dtype, jnp.integer)
            else rng.standard_normal(leaf.shape),
            leaf.dtype,
        )
        for name, leaf in spec.example_batch(size).items()
    }


@dataclass(frozen=True, eq=False)
class Reference:
    """A model's train step on one device."""

    spec: models.ModelSpec
    step: Callable[..., Any]
    state: Any
    batch: Any
    after: Any
    metrics: Any


def perturbed(params: Any) -> Any:
    """Random everywhere: what starts at zero hides the gradients of what it multiplies."""
    rng = np.random.default_rng(3)
    return jax.tree.map(
        lambda p: jnp.asarray(p + 0.02 * rng.standard_normal(p.shape), p.dtype), params
    )


@functools.cache
def reference(model: str) -> Reference:
    """One AdamW step; afterwards `mu` of the optimizer's state is a tenth of the gradient."""
    name, options = MODELS[model]
    spec = models.get(name, **options)
    create, step = models.make_training(spec, optax.adamw(1e-3))
    state = jax.jit(create)(jax.random.key(0))
    state = state.replace(params=perturbed(state.params))
    batch = random_batch(spec)
    after, metrics = jax.jit(step)(state, batch)
    return Reference(spec, step, state, batch, after, metrics)


# Not all of them: hundreds of compiled programs use up the memory maps that a process may have.
@functools.lru_cache(maxsize=24)
def case(model: str, strategy: str, mesh: str) -> Planned:
    """A model's train step under a strategy; compiled once, whoever asks soon."""
    one = reference(model)
    return compile_plan(one.step, (one.state, one.batch), strategy, MESHES[mesh])


def tree_error(found: Any, wanted: Any) -> float:
    """Largest difference over the largest number of the tree."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    worst = max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)
    return worst / max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))


@pytest.fixture(name="case")
def case_fixture() -> Callable[..., Planned]:
    return case


@pytest.fixture(name="reference")
def reference_fixture() -> Callable[..., Reference]:
    return reference


@pytest.fixture(name="compile_plan")
def compile_plan_fixture() -> Callable[..., Planned]:
    return compile_plan


@pytest.fixture(name="plan_of")
def plan_of_fixture() -> Callable[..., Plan]:
    return plan_of


@pytest.fixture(name="tree_error")
def tree_error_fixture() -> Callable[..., float]:
    return tree_error


@pytest.fixture(name="random_batch")
def random_batch_fixture() -> Callable[..., dict[str, jax.Array]]:
    return random_batch
