"""What Flax itself brings: lifted transformations, recurrences and statistics, Linen and NNX."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import nnx

Case = dict[str, Any]  # what `same_on_a_mesh` takes

pytestmark = [pytest.mark.external, pytest.mark.slow]


def normal(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def integers(bound: int, *shape: int) -> Any:
    return np.random.default_rng(1).integers(0, bound, shape, dtype=np.int32)


SEQUENCES = {"x": normal(8, 12, 32), "y": integers(16, 8)}
IMAGES = {"x": normal(8, 16, 16, 3), "y": integers(16, 8)}


def linen(module: nn.Module, batch: dict[str, Any]) -> Case:
    """A case of a Linen classifier that takes `train`."""
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables: Any = module.init(keys, batch["x"][:1], train=False)
    collections = {name: variables[name] for name in variables if name != "params"}

    def loss(params: Any, collections: Any, batch: Any, key: jax.Array) -> Any:
        scores, updated = module.apply(
            {"params": params, **collections},
            batch["x"],
            train=True,
            rngs={"dropout": key},
            mutable=list(collections),
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, batch["y"])
        return losses.mean(), {**collections, **updated}

    return dict(loss=loss, params=variables["params"], collections=collections, batch=batch)


def in_nnx(model: nnx.Module, batch: dict[str, Any]) -> Case:
    """A case of an NNX classifier, its statistics and its random keys beside the parameters."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params: Any, collections: Any, batch: Any, key: jax.Array) -> Any:
        del key  # the module draws from its own
        # Copies, for the variables' values are set inside the gradient.
        merged: Any = nnx.merge(graph, params, collections, copy=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(merged(batch["x"]), batch["y"])
        return losses.mean(), nnx.state(merged, nnx.Not(nnx.Param))

    return dict(loss=loss, params=params, collections=rest, batch=batch)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        y = nn.LayerNorm()(x)
        y = nn.MultiHeadDotProductAttention(num_heads=8)(y, y)
        x = x + y
        y = nn.Dense(128)(nn.LayerNorm()(x))
        return x + nn.Dense(x.shape[-1])(nn.gelu(y)), None


class ScannedStack(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        stack = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        x, _ = stack(name="blocks")(x, None)
        return nn.Dense(16)(x.mean(1))


class LSTM(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y: Any = nn.RNN(nn.OptimizedLSTMCell(64))(x)
        both = nn.Bidirectional(nn.RNN(nn.GRUCell(32)), nn.RNN(nn.GRUCell(32)))
        y = both(y)
        return nn.Dense(16)(y[:, -1])


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for features in (16, 32):
            x = nn.Conv(features, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1))
        return nn.Dense(16)(x)


class NNXBlock(nnx.Module):
    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(8, width, decode=False, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm(x))
        return x + self.dropout(self.down(nnx.gelu(self.up(x))))


class NNXStack(nnx.Module):
    def __init__(self, width: int, layers: int, *, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=layers)
        @nnx.vmap
        def create(rngs: nnx.Rngs) -> NNXBlock:
            return NNXBlock(width, rngs=rngs)

        self.blocks = create(rngs)
        self.head = nnx.Linear(width, 16, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(block: NNXBlock, x: jax.Array) -> jax.Array:
            return block(x)

        return self.head(run(self.blocks, x).mean(1))


class NNXConvNet(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(16 * 8 * 8, 16, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.avg_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), strides=(2, 2))
        return self.head(self.dropout(x.reshape(x.shape[0], -1)))


class NNXRecurrent(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(32, 64, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(64, 16, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y: Any = self.rnn(x)
        return self.head(y[:, -1])


CASES = {
    "linen scan and remat": lambda: linen(ScannedStack(), SEQUENCES),
    "linen recurrences": lambda: linen(LSTM(), SEQUENCES),
    "linen statistics and dropout": lambda: linen(ConvNet(), IMAGES),
    "nnx vmap and scan": lambda: in_nnx(NNXStack(32, 3, rngs=nnx.Rngs(0)), SEQUENCES),
    "nnx statistics and dropout": lambda: in_nnx(NNXConvNet(rngs=nnx.Rngs(0)), IMAGES),
    "nnx recurrence": lambda: in_nnx(NNXRecurrent(rngs=nnx.Rngs(0)), SEQUENCES),
}


@pytest.mark.parametrize("case", CASES)
def test_listed_models(case, same_on_a_mesh):
    same_on_a_mesh(**CASES[case]())
