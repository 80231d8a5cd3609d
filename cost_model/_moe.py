"""How unevenly tokens fall on experts, and what capacity limits make of it.

Published benchmarks force balanced routing; real routers are not balanced, and the fullest expert
sets the pace of all devices.
"""

import math

from ._check import positive, positive_int


def expert_imbalance(tokens: int, experts: int, *, top_k: int = 1, skew: float = 0.0) -> float:
    """Load of the fullest expert over the average.

    Independent uniform routing of n = tokens x top_k rows gives a maximum of about
    mean + sqrt(2 mean ln experts) (balls into bins; Raab and Steger 1998). `skew` adds what a
    router that prefers some experts does on top.

    Args:
        tokens: tokens routed together.
        experts: experts they are spread over.
        top_k: experts per token.
        skew: relative surplus of the favoured expert; measured, not predicted.

    Returns:
        At least 1.
    """
    positive_int("tokens", tokens)
    positive_int("experts", experts)
    positive_int("top_k", top_k)
    mean = tokens * top_k / experts
    return 1.0 + math.sqrt(2.0 * math.log(experts) / mean) + skew if experts > 1 else 1.0


def capacity_slots(
    tokens: int, experts: int, *, top_k: int = 1, capacity_factor: float = 1.25
) -> int:
    """Rows that each expert computes under a capacity limit, padding included.

    Args:
        tokens: tokens routed together.
        experts: experts.
        top_k: experts per token.
        capacity_factor: slots over the balanced load (Switch Transformer, arXiv:2101.03961,
            section 2.2).

    Returns:
        Slots per expert: padded rows are computed like real ones, tokens beyond them are dropped.
    """
    positive("capacity_factor", capacity_factor)
    return math.ceil(capacity_factor * tokens * top_k / experts)
