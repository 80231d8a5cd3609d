"""BERT and T5."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autoshard.models.bert import BertConfig
from autoshard.models.t5 import T5Config

# Devlin et al. (2018), section 3; vocabulary and positions from the released bert_config.json.
_BERT = {
    "bert-base": BertConfig(),
    "bert-large": BertConfig(hidden=1024, intermediate=4096, layers=24, heads=16),
}

# Raffel et al. (2020), section 3.7, and config.json of the released checkpoints
# google-t5/t5-{small,base,large,3b,11b} and google/t5-v1_1-{small,base,large,xl,xxl}.
_T5_LARGE = T5Config(hidden=1024, intermediate=4096, layers=24, decoder_layers=24, heads=16)
_T5 = {
    "t5-small": T5Config(hidden=512, intermediate=2048, layers=6, decoder_layers=6, heads=8),
    "t5-base": T5Config(),
    "t5-large": _T5_LARGE,
    "t5-3b": replace(_T5_LARGE, intermediate=16384, heads=32, head_size=128),
    "t5-11b": replace(_T5_LARGE, intermediate=65536, heads=128, head_size=128),
}
_T5_1_1_BASE = T5Config(intermediate=2048, gated=True, tie_head=False)
_T5_1_1_LARGE = replace(
    _T5_1_1_BASE, hidden=1024, intermediate=2816, layers=24, decoder_layers=24, heads=16
)
_T5_1_1 = {
    "t5-1.1-small": replace(
        _T5_1_1_BASE, hidden=512, intermediate=1024, layers=8, decoder_layers=8, heads=6
    ),
    "t5-1.1-base": _T5_1_1_BASE,
    "t5-1.1-large": _T5_1_1_LARGE,
    "t5-1.1-xl": replace(_T5_1_1_LARGE, hidden=2048, intermediate=5120, heads=32),
    "t5-1.1-xxl": replace(_T5_1_1_LARGE, hidden=4096, intermediate=10240, heads=64),
}

ENCODERS: Mapping[str, Any] = {**_BERT, **_T5, **_T5_1_1}
