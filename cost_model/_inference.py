"""Serving: seconds to the first token, seconds per token, and how many requests fit.

Prefill is a forward pass over the prompt and bound by arithmetic. Decode reads every weight and
the whole key-value cache for one token per sequence and is bound by memory. Source: GenZ
(arXiv:2406.01698), sections 3 and 4; Pope et al., arXiv:2211.05102.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ._check import non_negative, positive_int
from ._collectives import all_reduce, permute
from ._estimate import resolve
from ._layer import layer_forward, rates
from ._memory import BUDGET
from ._meshlinks import step_links
from ._parallel import Parallelism, Precision
from ._profile import Profile
from ._topology import Topology, parse_topology
from ._transformer import Transformer, model
from .errors import DegreesMismatchError, InvalidFieldError, NothingFitsError

_WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceEstimate:
    """What serving costs on one replica.

    Attributes:
        model: what is served.
        topology: where.
        tp: tensor-parallel degree.
        pp: pipeline stages.
        batch: sequences decoded together.
        prompt: tokens of a prompt.
        output: tokens of an answer.
        ttft_s: time to first token: the prefill of one prompt.
        tpot_s: time per output token and sequence.
        tokens_per_s: output tokens of all sequences per second, prefill included.
        batch_limit: sequences whose cache fits beside the weights.
        weight_bytes: per device.
        cache_bytes: key-value cache per device at full length.
        terms: seconds of one decode step by term.
        energy_j_per_token: joules per output token; 0 if the power is not known.
        price: cost per million output tokens, where an hourly price was given.
    """

    model: Transformer
    topology: Topology
    tp: int
    pp: int
    batch: int
    prompt: int
    output: int
    ttft_s: float
    tpot_s: float
    tokens_per_s: float
    batch_limit: int
    weight_bytes: float
    cache_bytes: float
    terms: Mapping[str, float] = field(default_factory=dict)
    energy_j_per_token: float = 0.0
    price: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "model": self.model.name,
            "topology": str(self.topology),
            "tp": self.tp,
            "pp": self.pp,
            "batch": self.batch,
            "prompt": self.prompt,
            "output": self.output,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "tokens_per_s": self.tokens_per_s,
            "batch_limit": self.batch_limit,
            "weight_bytes": self.weight_bytes,
            "cache_bytes": self.cache_bytes,
            "decode_terms_s": dict(self.terms),
            "energy_j_per_token": self.energy_j_per_token,
            "price_per_million_tokens": self.price,
        }


def cache_bytes_per_token(network: Transformer, itemsize: float = 2.0) -> float:
    """Bytes of key-value cache per token, all layers, before sharding.

    Latent attention keeps its compressed vector and the rotary key instead (DeepSeek-V2,
    arXiv:2405.04434, section 2.1); a sliding window bounds the length, not the width.
    """
    if network.latent:
        _, rank, _, rotary, _ = network.latent
        return itemsize * network.layers * (rank + rotary)
    return 2.0 * itemsize * network.layers * network.kv_heads * network.head_dim


def estimate_inference(
    what: Transformer | str,
    topology: Topology | str,
    *,
    batch: int = 1,
    prompt: int = 1024,
    output: int = 256,
    tp: int | None = None,
    pp: int = 1,
    precision: Precision = "bf16",
    stack: str | None = None,
    profile: Profile | None = None,
    dollars_per_device_hour: float | None = None,
) -> InferenceEstimate:
    """Price prefill and decode of one replica that spans the topology.

    Args:
        what: a model or the name of a preset.
        topology: devices, or text.
        batch: sequences decoded together.
        prompt: tokens of a prompt.
        output: tokens of an answer.
        tp: tensor-parallel degree; default: all devices.
        pp: pipeline stages.
        precision: of weights and arithmetic; the cache stays in 16 bits.
        stack: software.
        profile: a calibration of the devices at hand.
        dollars_per_device_hour: price, for the cost per million output tokens.

    Returns:
        The estimate.

    Raises:
        DegreesMismatchError: tp x pp is not the number of devices.
        NothingFitsError: weights and one sequence exceed the memory.
        InvalidFieldError: a batch beyond the limit, or a size that is not positive.
    """
    network = model(what) if isinstance(what, str) else what
    place = parse_topology(topology) if isinstance(topology, str) else topology
    for name, value in (("batch", batch), ("prompt", prompt), ("output", output), ("pp", pp)):
        positive_int(name, value)
    degree = tp or place.devices // pp
    positive_int("tp", degree)
    if degree * pp != place.devices:
        raise DegreesMismatchError(
            {"tp": degree, "pp": pp}, place.devices, f"Set tp={place.devices // pp}."
        )
    if network.heads % degree:
        raise InvalidFieldError("tp", degree, f"a divisor of heads={network.heads}")
    device = place.device
    software, constants, _, _ = resolve(place, stack, None, profile)
    plan = Parallelism(tp=degree, pp=pp, microbatch=1)
    links = step_links(place, plan, constants)
    r = rates(device, constants, precision)
    width = _WEIGHT_BYTES[precision]

    weights = network.parameters * width / (degree * pp)
    kv_shards = min(degree, network.kv_heads) if not network.latent else 1
    per_sequence = cache_bytes_per_token(network) * (prompt + output) / (kv_shards * pp)
    room = BUDGET * device.hbm_bytes - weights
    limit = max(0, math.floor(room / per_sequence))
    if limit == 0:
        raise NothingFitsError(1, weights + per_sequence, device.hbm_bytes)
    if batch > limit:
        raise InvalidFieldError("batch", batch, f"1 to {limit}", "The cache would not fit.")

    # Prefill: one prompt through all stages.
    once = replace(network, seq=prompt)
    layer = layer_forward(once, plan, device, software, constants, r)
    launch = 0.0 if software.compiled else layer.kernels * constants.launch_s
    reduce = 2 * all_reduce(prompt * network.hidden * 2.0, links.tp)
    hop = permute(prompt * network.hidden * 2.0, links.pp) if pp > 1 else 0.0
    head = 2.0 * network.hidden * network.vocab / degree / r.matmul16
    ttft = network.layers * (max(layer.busy_s, launch) + reduce) + (pp - 1) * hop + head

    # Decode: every weight a sequence of the batch meets is read once per step. Serving engines
    # replay the step as one captured graph, so there is no launch floor.
    dense = network.parameters - network.routed_parameters - network.vocab * network.hidden
    touched = 1.0
    if network.experts:
        touched = 1.0 - (1.0 - network.top_k / network.experts) ** batch
    read = (dense + touched * network.routed_parameters) * width / degree
    context = prompt + output / 2
    cache = batch * cache_bytes_per_token(network) * context / kv_shards
    flops = batch * (network.forward_flops_per_token() - _core_flops(network)) / degree
    flops += batch * 4.0 * context * network.heads * network.head_dim * network.layers / degree
    weights_s = read / r.memory
    cache_s = cache / r.memory
    compute_s = flops / r.matmul
    token_bytes = batch * network.hidden * 2.0
    reduce_s = network.layers * 2 * all_reduce(token_bytes, links.tp)
    hop_s = pp * permute(token_bytes, links.pp) if pp > 1 else 0.0
    memory_s = weights_s + cache_s
    tpot = max(memory_s, compute_s) + reduce_s + hop_s
    terms = {
        "weights": weights_s,
        "cache": cache_s,
        "compute": max(0.0, compute_s - memory_s),
        "tensor": reduce_s,
        "transfer": hop_s,
    }
    whole = batch * ttft + output * tpot
    rate = batch * output / whole
    price = None
    if dollars_per_device_hour is not None:
        non_negative("dollars_per_device_hour", dollars_per_device_hour)
        price = dollars_per_device_hour * place.devices / 3600 / rate * 1e6
    return InferenceEstimate(
        model=network,
        topology=place,
        tp=degree,
        pp=pp,
        batch=batch,
        prompt=prompt,
        output=output,
        ttft_s=ttft,
        tpot_s=tpot,
        tokens_per_s=rate,
        batch_limit=limit,
        weight_bytes=weights,
        cache_bytes=per_sequence * batch,
        terms=terms,
        energy_j_per_token=device.power_w * place.devices / rate,
        price=price,
    )


def _core_flops(network: Transformer) -> float:
    return network.layers * 2 * network.keys_per_query(causal=False) * network.score_width
