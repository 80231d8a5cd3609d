"""Mixtral: a Llama whose MLPs are sparse mixtures of experts, dispatched by einsum.

Jiang et al., "Mixtral of Experts" (2024), section 2. Tokens go to experts as in Lepikhin et al.,
"GShard" (2020), section 3.2: every expert takes a fixed number of tokens from each sequence, so
that all shapes are static, and what exceeds it passes by the layer.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from autoshard.models._blocks import require_positive
from autoshard.models.errors import ModelConfigError
from autoshard.models.llama import GroupedQueryAttention, Llama, LlamaConfig, rms_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtralConfig(LlamaConfig):
    """Shape and numerics of a Mixtral. The defaults are Mixtral 8x7B.

    Attributes:
        experts: Experts in each layer; `intermediate` is the width of one.
        experts_per_token: How many of them a token visits.
        capacity_factor: Tokens that an expert takes, over those that it would get if all got as
            many. The published model drops no token; `experts / experts_per_token` does not either.
        balance_weight: Weight of the load-balancing loss.
    """

    max_positions: int = 32768
    intermediate: int = 14336
    kv_heads: int = 8
    rope_base: float = 1e6
    experts: int = 8
    experts_per_token: int = 2
    capacity_factor: float = 1.25
    balance_weight: float = 0.02

    def __post_init__(self) -> None:
        LlamaConfig.__post_init__(self)  # super() would look for the class without slots
        require_positive(self, "experts", "experts_per_token")
        if self.experts_per_token > self.experts:
            raise ModelConfigError(
                f"experts_per_token={self.experts_per_token} exceeds experts={self.experts}."
            )
        if self.capacity_factor <= 0:
            raise ModelConfigError(f"capacity_factor={self.capacity_factor} must exceed 0.")

    def capacity(self, length: int) -> int:
        """How many tokens each expert takes from a sequence.

        Args:
            length: Tokens of the sequence.
        """
        share = self.experts_per_token * length / self.experts
        return min(length, math.ceil(share * self.capacity_factor))


class SparseMLP(nn.Module):
    """Sends each token to its best experts and adds up what they return, weighted.

    Sows the load-balancing loss of its layer into the collection `losses`.
    """

    config: MixtralConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps activations `[batch, length, hidden]` to the same shape."""
        config = self.config
        # The router computes in float32: rounding would change who gets which token.
        logits = nn.Dense(
            config.experts,
            use_bias=False,
            kernel_init=nn.initializers.normal(0.02),
            dtype=jnp.float32,
            param_dtype=config.param_dtype,
            name="router",
        )(x.astype(jnp.float32))
        probabilities = jax.nn.softmax(logits, axis=-1)
        chosen, combine = route(
            probabilities, config.experts_per_token, config.capacity(x.shape[1])
        )
        if not self.is_initializing():
            self.sow("losses", "load_balancing", load_balancing_loss(probabilities, chosen))
        dispatch = (combine > 0).astype(x.dtype)
        inputs = jnp.einsum("bsec,bsd->ebcd", dispatch, x)
        outputs = Experts(config, name="experts")(inputs)
        return jnp.einsum("bsec,ebcd->bsd", combine.astype(x.dtype), outputs)


class Experts(nn.Module):
    """As many SwiGLU MLPs as there are experts, their weights stacked along a first dimension."""

    config: MixtralConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps the tokens of each expert, `[experts, batch, capacity, hidden]`."""
        config = self.config
        gate = jnp.einsum("ebcd,edf->ebcf", x, self._kernel("gate", config.hidden))
        up = jnp.einsum("ebcd,edf->ebcf", x, self._kernel("up", config.hidden))
        down = self._kernel("down", config.intermediate)
        return jnp.einsum("ebcf,efd->ebcd", nn.silu(gate) * up, down)

    def _kernel(self, name: str, inputs: int) -> jax.Array:
        config = self.config
        outputs = config.hidden + config.intermediate - inputs
        shape = (config.experts, inputs, outputs)
        kernel: Any = self.param(name, nn.initializers.normal(0.02), shape, config.param_dtype)
        return kernel.astype(config.dtype)


class MixtralBlock(nn.Module):
    """Grouped-query attention and experts, each behind a norm and a residual connection."""

    config: MixtralConfig

    @nn.compact
    def __call__(self, x: jax.Array, table: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        """Maps `[batch, length, hidden]` to the same shape; the pair suits `nn.scan`."""
        config = self.config
        y = rms_norm(config, "input_norm")(x)
        x = x + GroupedQueryAttention(config, name="attention")(y, table)
        y = rms_norm(config, "post_attention_norm")(x)
        return x + SparseMLP(config, name="moe")(y), None


class Mixtral(Llama):
    """Mixtral language model.

    Attributes:
        config: Shape and numerics.
    """

    block: ClassVar[type[nn.Module]] = MixtralBlock


def route(
    probabilities: jax.Array, experts_per_token: int, capacity: int
) -> tuple[jax.Array, jax.Array]:
    """Gives each token a place in the queues of its best experts, as long as these have room.

    All tokens' first choices come before their second ones, earlier tokens before later ones.

    Args:
        probabilities: The router's softmax, float32 `[batch, length, experts]`.
        experts_per_token: Choices per token.
        capacity: Places in the queue of each expert, for each sequence.

    Returns:
        Which experts a token chose, float32 0 or 1 `[batch, length, experts]`; and the weight of
        each token in each place, float32 `[batch, length, experts, capacity]`. A token's weights
        sum to 1 if none of its experts was full.
    """
    experts = probabilities.shape[-1]
    weights, choices = jax.lax.top_k(probabilities, experts_per_token)
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    chosen = jnp.zeros_like(probabilities)
    combine = jnp.zeros((*probabilities.shape, capacity), probabilities.dtype)
    for choice in range(experts_per_token):
        mine = jax.nn.one_hot(choices[..., choice], experts, dtype=probabilities.dtype)
        taken = jnp.sum(chosen, axis=1, keepdims=True)
        before = jnp.cumsum(mine, axis=1) - mine + taken
        place = jnp.sum(before * mine, axis=-1).astype(jnp.int32)
        # A place beyond the capacity is a row of zeros: the token passes by.
        places = jax.nn.one_hot(place, capacity, dtype=probabilities.dtype)
        weighted = mine * weights[..., choice, None]
        combine = combine + weighted[..., None] * places[..., None, :]
        chosen = chosen + mine
    return chosen, combine


def load_balancing_loss(probabilities: jax.Array, chosen: jax.Array) -> jax.Array:
    """Share of tokens times mean probability, summed over experts, averaged over sequences.

    Fedus et al., "Switch Transformers" (2021), equation 4, with several choices per token.

    Args:
        probabilities: The router's softmax `[batch, length, experts]`.
        chosen: 0 or 1, `[batch, length, experts]`.

    Returns:
        A scalar: the number of choices per token if all experts get as much, more otherwise.
    """
    share = jnp.mean(chosen, axis=1)
    experts = probabilities.shape[-1]
    return experts * jnp.mean(jnp.sum(share * jnp.mean(probabilities, axis=1), axis=-1))
