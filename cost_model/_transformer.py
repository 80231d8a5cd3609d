"""A transformer as the predictor sees it: widths, counts, and what they cost in FLOPs.

FLOPs of one token forward through one layer (Narayanan et al. SC21, appendix; Megatron's
`num_floating_point_operations`):

    2 h (a d + 2 k d) + 2 a d h + 2 (2 or 3) h f + 4 s_eff a d

with `h` hidden, `a` query heads, `k` key-value heads, `d` head width, `f` feed-forward width, and
`s_eff` the keys one query meets. The head adds 2 h V. A training step costs three forwards.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from typing import Any

from ._check import fraction, positive_int
from .errors import ContradictionError, InvalidFieldError, UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """A decoder-only transformer.

    Attributes:
        name: for reports.
        layers: blocks.
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: key-value heads; default: `heads`.
        head_dim: width of one head; default: hidden / heads.
        ffn: feed-forward width of a dense block.
        gated: whether the feed-forward has a gate (SwiGLU): three matrices instead of two.
        vocab: vocabulary.
        seq: sequence length, tokens.
        tied: whether embedding and head share their matrix.
        window: keys that a sliding-window layer sees; 0 for none.
        window_share: share of layers with that window.
        experts: routed experts per MoE layer; 0 for a dense model.
        top_k: experts per token.
        expert_ffn: width of one expert.
        shared_experts: experts that every token visits.
        moe_every: one MoE layer in this many.
        dense_layers: leading layers without experts.
        latent: ranks of multi-head latent attention (query, key-value), head parts (no-position,
            rotary, value); empty for ordinary attention.
    """

    name: str = "transformer"
    layers: int
    hidden: int
    heads: int
    kv_heads: int = 0
    head_dim: int = 0
    ffn: int = 0
    gated: bool = False
    vocab: int = 50304
    seq: int = 2048
    tied: bool = False
    window: int = 0
    window_share: float = 1.0
    experts: int = 0
    top_k: int = 1
    expert_ffn: int = 0
    shared_experts: int = 0
    moe_every: int = 1
    dense_layers: int = 0
    latent: tuple[int, int, int, int, int] | tuple[()] = ()

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "vocab", "seq", "moe_every", "top_k"):
            positive_int(name, getattr(self, name))
        put = object.__setattr__
        if not self.kv_heads:
            put(self, "kv_heads", self.heads)
        if not self.head_dim:
            if self.hidden % self.heads:
                raise InvalidFieldError(
                    "heads", self.heads, f"a divisor of hidden={self.hidden}, or set head_dim"
                )
            put(self, "head_dim", self.hidden // self.heads)
        if not self.ffn:
            put(self, "ffn", 4 * self.hidden)
        for name in ("kv_heads", "head_dim", "ffn"):
            positive_int(name, getattr(self, name))
        if self.heads % self.kv_heads:
            raise InvalidFieldError("kv_heads", self.kv_heads, f"a divisor of heads={self.heads}")
        for name in ("experts", "expert_ffn", "shared_experts", "dense_layers", "window"):
            value = getattr(self, name)
            if value:
                positive_int(name, value)
        fraction("window_share", self.window_share)
        if self.experts:
            if self.top_k > self.experts:
                raise InvalidFieldError("top_k", self.top_k, f"1 to experts={self.experts}")
            if not self.expert_ffn:
                put(self, "expert_ffn", self.ffn)
        elif self.shared_experts or self.expert_ffn:
            raise ContradictionError(
                [f"experts={self.experts}", f"expert_ffn={self.expert_ffn}"],
                "a dense model has no experts",
                "Set experts to the number of routed experts",
            )

    @property
    def moe_layers(self) -> int:
        """Layers whose feed-forward is a mixture of experts."""
        return (self.layers - self.dense_layers) // self.moe_every if self.experts else 0

    @property
    def attention_parameters(self) -> int:
        """Weights of one layer's attention."""
        h = self.hidden
        if self.latent:
            query_rank, kv_rank, plain, rotary, value = self.latent
            a = self.heads
            return (
                h * query_rank
                + query_rank * a * (plain + rotary)
                + h * (kv_rank + rotary)
                + kv_rank * a * (plain + value)
                + a * value * h
            )
        width = self.heads * self.head_dim
        return 2 * h * width + 2 * h * self.kv_heads * self.head_dim

    @property
    def qkv_width(self) -> int:
        """Elements of one token's queries, keys and values."""
        if self.latent:
            _, _, plain, rotary, value = self.latent
            return self.heads * (2 * (plain + rotary) + value)
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def qkv_parameters(self) -> int:
        """Weights of one layer that make queries, keys and values."""
        value = self.latent[-1] if self.latent else self.head_dim
        return self.attention_parameters - self.heads * value * self.hidden

    @property
    def score_width(self) -> float:
        """Multiply-adds per (query, key) pair and layer: scores and weighted sum."""
        if self.latent:
            _, _, plain, rotary, value = self.latent
            return self.heads * (plain + rotary + value)
        return 2 * self.heads * self.head_dim

    @property
    def dense_ffn_parameters(self) -> int:
        """Weights of one dense feed-forward."""
        return (3 if self.gated else 2) * self.hidden * self.ffn

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert."""
        return (3 if self.gated else 2) * self.hidden * self.expert_ffn

    @property
    def layer_parameters(self) -> float:
        """Weights of an average layer, norms and biases included."""
        return (self.parameters - self.embedding_parameters) / self.layers

    @property
    def embedding_parameters(self) -> int:
        """Weights of embedding and head."""
        return (1 if self.tied else 2) * self.vocab * self.hidden

    @property
    def routed_parameters(self) -> int:
        """Weights of all routed experts."""
        return self.moe_layers * self.experts * self.expert_parameters

    @property
    def parameters(self) -> int:
        """All weights."""
        moe = self.moe_layers
        per_token = self.shared_experts * self.expert_parameters + self.hidden * self.experts
        norms = 4 * self.hidden
        return (
            self.layers * (self.attention_parameters + norms)
            + (self.layers - moe) * self.dense_ffn_parameters
            + moe * per_token
            + self.routed_parameters
            + self.embedding_parameters
        )

    @property
    def active_parameters(self) -> int:
        """Weights that one token meets."""
        used = self.moe_layers * self.top_k * self.expert_parameters
        return self.parameters - self.routed_parameters + used

    def keys_per_query(self, *, causal: bool) -> float:
        """Keys an average query meets, over all layers.

        Args:
            causal: count only the past (half a sequence), as causal kernels compute it.
        """
        full = self.seq / 2 if causal else float(self.seq)
        if not self.window or self.window >= self.seq:
            return full
        return self.window_share * min(self.window, full) + (1 - self.window_share) * full

    def forward_flops_per_token(self, *, causal: bool = False) -> float:
        """FLOPs of one token forward, head included.

        Args:
            causal: count causal attention at half; Megatron, Mosaic and early MaxText do not.
        """
        matrices = self.active_parameters - self.embedding_parameters
        matrices += self.hidden * self.vocab
        scores = 2 * self.keys_per_query(causal=causal) * self.score_width
        return 2 * matrices + self.layers * scores

    def train_flops_per_token(self, *, causal: bool = False, recompute: str = "none") -> float:
        """FLOPs of one token in training: three forwards, four with full recomputation.

        Args:
            causal: see `forward_flops_per_token`.
            recompute: policy whose replayed products count too (hardware, not model FLOPs).
        """
        forward = self.forward_flops_per_token(causal=causal)
        if recompute == "full":
            return 4 * forward
        if recompute == "save_qkv":
            return 4 * forward - 2 * self.layers * self.qkv_parameters
        return 3 * forward


@cache
def model_presets() -> Mapping[str, Transformer]:
    """Models known by name, from the package's table."""
    text = resources.files("autoshard.cost_model").joinpath("data/models.json").read_text("utf-8")
    return {name: transformer_from(name, row) for name, row in json.loads(text)["models"].items()}


def transformer_from(name: str, row: Mapping[str, Any]) -> Transformer:
    """Build a model from a plain mapping, e.g. a row of JSON.

    Args:
        name: its name.
        row: field -> value.

    Raises:
        InvalidFieldError: an unknown field or a bad value.
    """
    known = {f.name for f in fields(Transformer)}
    for key in row:
        if key not in known:
            raise InvalidFieldError(f"model.{key}", row[key], ", ".join(sorted(known)))
    values = dict(row)
    if "latent" in values:
        values["latent"] = tuple(values["latent"])
    values["name"] = name
    return Transformer(**values)


def model(name: str, **changes: Any) -> Transformer:
    """Look up a preset, with some fields changed.

    Args:
        name: e.g. "llama3-8b", "gpt3-175b".
        **changes: fields of `Transformer` to replace, e.g. `seq=8192`.

    Raises:
        UnknownNameError: no preset of that name.
    """
    presets = model_presets()
    if name.lower() not in presets:
        raise UnknownNameError("model", name, sorted(presets))
    return replace(presets[name.lower()], **changes)
