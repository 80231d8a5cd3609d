"""Bytes of activations that one layer keeps for its backward pass.

Korthikanti et al. (arXiv:2205.05198, section 4) count, for s tokens, batch b, width h, a heads and
16-bit storage, per layer

    s b h (34 + 5 a s / h)

of which 10 s b h lie outside the tensor-parallel blocks (two layer-norm inputs, two block inputs,
two dropout masks), 24 s b h inside, and 5 a s^2 b in the score matrix. Here the 24 is taken apart,
so that other feed-forward widths, gates and grouped heads have their own count: queries, keys,
values and the projection's input make 4 (a + k) d / h, the feed-forward 4 f / h (6 with a gate).
"""

from ._parallel import Parallelism
from ._transformer import Transformer

# Bytes per token and unit of width outside the tensor-parallel blocks; 2 of them are dropout
# masks, which modern models do not have.
OUTSIDE = 10.0


def inside_bytes(model: Transformer, plan: Parallelism) -> float:
    """Bytes per token inside the tensor-parallel blocks of one average layer, before sharding."""
    if model.latent:
        query_rank, kv_rank, plain, rotary, value = model.latent
        attention = 2.0 * (query_rank + kv_rank + rotary)
        attention += 2.0 * model.heads * (2 * (plain + rotary) + 2 * value)
    else:
        attention = 4.0 * model.head_dim * (model.heads + model.kv_heads)
    per_width = 6.0 if model.gated else 4.0
    share = model.moe_layers / model.layers
    dense = per_width * model.ffn
    routed = model.top_k * (per_width * model.expert_ffn + 4.0 * model.hidden)
    routed += model.shared_experts * per_width * model.expert_ffn
    return attention + (1 - share) * dense + share * routed


def score_bytes(model: Transformer, tokens: float) -> float:
    """Bytes of the score matrix, its softmax and its dropout mask: 5 a s per token."""
    return 5.0 * model.heads * model.seq * tokens


def layer_activation_bytes(
    model: Transformer, plan: Parallelism, *, flash: bool, microbatch: int | None = None
) -> float:
    """Bytes that one layer keeps for one microbatch on one device.

    Args:
        model: the transformer.
        plan: degrees and recomputation.
        flash: whether the score matrix is never stored.
        microbatch: sequences; default: the plan's.

    Returns:
        Bytes. With full recomputation only the layer's input remains (2 s b h, divided by tp
        under sequence parallelism), with save_qkv also queries, keys and values; selective
        recomputation drops the score matrix, or, where a flash kernel never stores it, half of
        the products.
    """
    tokens = (microbatch or plan.microbatch) * model.seq / plan.cp
    rows = plan.tp if plan.sequence_parallel else 1
    entry = 2.0 * tokens * model.hidden / rows
    if plan.recompute == "full":
        return entry
    if plan.recompute == "save_qkv":
        return entry + 2.0 * tokens * model.qkv_width / plan.tp
    outside = OUTSIDE * tokens * model.hidden / rows
    inside = tokens * inside_bytes(model, plan) / plan.tp
    if plan.recompute == "selective" and flash:
        # No score matrix to drop: policies keep the residual stream and every other product.
        return 0.4 * outside + 0.5 * inside
    keep_scores = plan.recompute == "none" and not flash
    scores = score_bytes(model, tokens) / plan.tp if keep_scores else 0.0
    return outside + inside + scores
