"""What people write with Flax beside attention: ragged experts, scans, complex recurrences."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

Case = dict[str, Any]  # what `same_on_a_mesh` takes

pytestmark = [pytest.mark.external, pytest.mark.slow]

VOCABULARY, WIDTH = 128, 64
TOKENS = np.random.default_rng(1).integers(0, VOCABULARY, (8, 17), dtype=np.int32)
BATCH = {"x": TOKENS[:, :-1], "y": TOKENS[:, 1:]}


def mean_loss(scores: jax.Array, targets: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(scores, targets).mean()


def linen(mixers: tuple[type[nn.Module], ...]) -> Case:
    """Embedded tokens through mixers, each with a norm and a residual."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, tokens: jax.Array) -> jax.Array:
            x = nn.Embed(VOCABULARY, WIDTH)(tokens)
            for mixer in mixers:
                x = x + mixer()(nn.RMSNorm()(x))
            return nn.Dense(VOCABULARY)(nn.RMSNorm()(x))

    model = Model()
    variables: Any = model.init(jax.random.key(0), BATCH["x"][:1])

    def loss(params: Any, collections: Any, batch: Any, key: jax.Array) -> Any:
        del key
        scores: Any = model.apply({"params": params}, batch["x"])
        return mean_loss(scores, batch["y"]), collections

    return dict(loss=loss, params=variables["params"], collections={}, batch=BATCH)


def combine(left: Any, right: Any) -> Any:
    """Two steps of the recurrence h = a h + b as one."""
    return left[0] * right[0], right[0] * left[1] + right[1]


class Selective(nn.Module):
    """A selective state space (Mamba), its scan associative or a loop."""

    associative: bool = True
    states: int = 8

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        u, gate = jnp.split(nn.Dense(2 * WIDTH)(x), 2, axis=-1)
        u = nn.silu(nn.Conv(WIDTH, (4,), padding="CAUSAL", feature_group_count=WIDTH)(u))
        step = jax.nn.softplus(nn.Dense(WIDTH)(nn.Dense(4)(u)))
        into, out = nn.Dense(self.states)(u), nn.Dense(self.states)(u)
        rates = self.param("rates", nn.initializers.normal(1.0), (WIDTH, self.states))
        a = jnp.exp(-step[..., None] * jnp.exp(rates))
        b = (step * u)[..., None] * into[:, :, None, :]
        if self.associative:
            _, h = jax.lax.associative_scan(combine, (a, b), axis=1)
        else:

            def advance(h: Any, ab: Any) -> Any:
                h = ab[0] * h + ab[1]
                return h, h

            first = jnp.zeros((x.shape[0], WIDTH, self.states))
            _, h = jax.lax.scan(advance, first, (a.swapaxes(0, 1), b.swapaxes(0, 1)))
            h = h.swapaxes(0, 1)
        y = (h * out[:, :, None, :]).sum(axis=-1) + u * self.param("skip", nn.ones, (WIDTH,))
        return nn.Dense(WIDTH)(y * nn.silu(gate))


class Looped(Selective):
    associative: bool = False


class ComplexRecurrence(nn.Module):
    """A linear recurrence with complex eigenvalues, and a filter in the frequency domain."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        half = WIDTH // 2
        decay = self.param("decay", nn.initializers.normal(0.5), (half,))
        angle = self.param("angle", nn.initializers.normal(0.5), (half,))
        real, imaginary = jnp.split(nn.Dense(WIDTH)(x), 2, axis=-1)
        u = jax.lax.complex(real, imaginary)
        rate = jnp.broadcast_to(jnp.exp(jax.lax.complex(-jnp.exp(decay), angle)), u.shape)
        _, h = jax.lax.associative_scan(combine, (rate, u), axis=1)
        spectrum = jnp.fft.rfft(nn.Dense(WIDTH)(x), axis=1)
        kernel = self.param("kernel", nn.initializers.normal(0.1), spectrum.shape[1:])
        filtered = jnp.fft.irfft(spectrum * kernel, n=x.shape[1], axis=1)
        return nn.Dense(WIDTH)(jnp.concatenate([h.real, h.imag], axis=-1) + filtered)


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden: Any = nn.RNN(nn.OptimizedLSTMCell(WIDTH))(x)
        both: Any = nn.Bidirectional(nn.RNN(nn.GRUCell(32)), nn.RNN(nn.GRUCell(32)))(hidden)
        return both


class RaggedExperts(nnx.Module):
    """Tokens sorted by expert, one matrix product over groups of different length."""

    def __init__(self, experts: int, chosen: int, rngs: nnx.Rngs) -> None:
        draw = nnx.initializers.lecun_normal()
        self.experts, self.chosen = experts, chosen
        self.router = nnx.Linear(WIDTH, experts, use_bias=False, rngs=rngs)
        self.up = nnx.Param(draw(rngs.params(), (experts, WIDTH, 2 * WIDTH)))
        self.gate = nnx.Param(draw(rngs.params(), (experts, WIDTH, 2 * WIDTH)))
        self.down = nnx.Param(draw(rngs.params(), (experts, 2 * WIDTH, WIDTH)))

    def __call__(self, x: jax.Array) -> jax.Array:
        tokens = x.reshape(-1, WIDTH)
        weights, expert = jax.lax.top_k(jax.nn.softmax(self.router(tokens)), self.chosen)
        order = jnp.argsort(expert.reshape(-1))
        sizes = jnp.bincount(expert.reshape(-1), length=self.experts)
        sorted_ = jnp.repeat(tokens, self.chosen, axis=0)[order]
        hidden = jax.nn.silu(jax.lax.ragged_dot(sorted_, self.gate[...], sizes))
        hidden = hidden * jax.lax.ragged_dot(sorted_, self.up[...], sizes)
        out = jax.lax.ragged_dot(hidden, self.down[...], sizes)[jnp.argsort(order)]
        out = out.reshape(-1, self.chosen, WIDTH) * weights[..., None]
        return out.sum(axis=1).reshape(x.shape)


class RaggedModel(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(8, WIDTH, decode=False, rngs=rngs)
        self.experts = RaggedExperts(8, 2, rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        x = x + self.attend(x, mask=nnx.make_causal_mask(tokens))
        return self.head(x + self.experts(x))


def ragged() -> Case:
    graph, params, rest = nnx.split(RaggedModel(nnx.Rngs(0)), nnx.Param, ...)

    def loss(params: Any, collections: Any, batch: Any, key: jax.Array) -> Any:
        del key
        model: Any = nnx.merge(graph, params, collections)
        return mean_loss(model(batch["x"]), batch["y"]), collections

    return dict(loss=loss, params=params, collections=rest, batch=BATCH)


CASES = {
    "state space": lambda: linen((Selective, Looped)),
    "complex recurrence": lambda: linen((ComplexRecurrence,)),
    "lstm and gru": lambda: linen((Recurrent,)),
    "ragged experts": ragged,
}


@pytest.mark.parametrize("case", CASES)
def test_mixers(case, same_on_a_mesh):
    same_on_a_mesh(**CASES[case]())
