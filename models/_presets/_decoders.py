"""GPT-2, Llama and Mixtral."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from autoshard.models._rope import RopeScaling
from autoshard.models.gpt2 import GPT2Config
from autoshard.models.llama import LlamaConfig
from autoshard.models.llama_nnx import LlamaNNXConfig
from autoshard.models.mixtral import MixtralConfig


def _in_nnx(config: LlamaConfig) -> LlamaNNXConfig:
    fields = {name: getattr(config, name) for name in asdict(config)}
    return LlamaNNXConfig(**fields)


# Radford et al. (2019), table 2; vocabulary and positions from the released hparams.json files.
_GPT2 = {
    "gpt2": GPT2Config(),
    "gpt2-medium": GPT2Config(hidden=1024, layers=24, heads=16),
    "gpt2-large": GPT2Config(hidden=1280, layers=36, heads=20),
    "gpt2-xl": GPT2Config(hidden=1600, layers=48, heads=25),
}

# config.json of the released checkpoints meta-llama/Llama-2-{7b,13b,70b}-hf,
# meta-llama/Meta-Llama-3-{8B,70B}, meta-llama/Llama-3.1-{8B,70B,405B}, meta-llama/Llama-3.2-{1B,3B}
# and TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T.
_LLAMA_2_7B = LlamaConfig()
_LLAMA_2_13B = LlamaConfig(hidden=5120, intermediate=13824, layers=40, heads=40, kv_heads=40)
_LLAMA_2_70B = LlamaConfig(hidden=8192, intermediate=28672, layers=80, heads=64, kv_heads=8)
_LLAMA_3_8B = LlamaConfig(
    vocab_size=128256, max_positions=8192, intermediate=14336, kv_heads=8, rope_base=500_000.0
)
_LLAMA_3_70B = replace(_LLAMA_3_8B, hidden=8192, intermediate=28672, layers=80, heads=64)
_LLAMA_3_1_8B = replace(_LLAMA_3_8B, max_positions=131072, rope_scaling=RopeScaling(factor=8.0))
_LLAMA_3_1_70B = replace(_LLAMA_3_1_8B, hidden=8192, intermediate=28672, layers=80, heads=64)
_LLAMA_3_1_405B = replace(_LLAMA_3_1_8B, hidden=16384, intermediate=53248, layers=126, heads=128)
_LLAMA_3_2_1B = replace(
    _LLAMA_3_1_8B,
    hidden=2048,
    intermediate=8192,
    layers=16,
    rope_scaling=RopeScaling(factor=32.0),
    tie_head=True,
)
_LLAMA_3_2_3B = replace(_LLAMA_3_2_1B, hidden=3072, layers=28, heads=24)
_LLAMA = {
    "llama-2-7b": _LLAMA_2_7B,
    "llama-2-13b": _LLAMA_2_13B,
    "llama-2-70b": _LLAMA_2_70B,
    "llama-3-8b": _LLAMA_3_8B,
    "llama-3-70b": _LLAMA_3_70B,
    "llama-3.1-8b": _LLAMA_3_1_8B,
    "llama-3.1-70b": _LLAMA_3_1_70B,
    "llama-3.1-405b": _LLAMA_3_1_405B,
    "llama-3.2-1b": _LLAMA_3_2_1B,
    "llama-3.2-3b": _LLAMA_3_2_3B,
    "tinyllama-1.1b": LlamaConfig(
        max_positions=2048, hidden=2048, intermediate=5632, layers=22, kv_heads=4
    ),
    "llama-nnx-3-8b": _in_nnx(_LLAMA_3_8B),
    "llama-nnx-3.2-1b": _in_nnx(_LLAMA_3_2_1B),
}

# config.json of the released checkpoints mistralai/Mixtral-8x{7B,22B}-v0.1.
_MIXTRAL = {
    "mixtral-8x7b": MixtralConfig(),
    "mixtral-8x22b": MixtralConfig(
        max_positions=65536,
        hidden=6144,
        intermediate=16384,
        layers=56,
        heads=48,
        balance_weight=0.001,
    ),
}

# Models of the league that were published under other names, or are ours: `moe-8x` is a Mixtral of
# width 1024 with the proportions of the 8x7B in its MLP and its groups of heads.
_LEAGUE = {
    "llama-1b": replace(_in_nnx(_LLAMA_3_2_1B), dtype="bfloat16"),
    "llama-8b": replace(_LLAMA_3_8B, dtype="bfloat16", remat="full"),
    "moe-8x": MixtralConfig(
        max_positions=1024,
        hidden=1024,
        intermediate=3584,
        layers=8,
        heads=16,
        kv_heads=4,
        dtype="bfloat16",
    ),
}

DECODERS: Mapping[str, Any] = {**_GPT2, **_LLAMA, **_MIXTRAL, **_LEAGUE}
