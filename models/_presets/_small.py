"""Ours, for tests and demonstrations.

Head, channel and expert counts are multiples of eight, so that eight devices can share them, and
the vocabulary is the 256 byte values.
"""

from collections.abc import Mapping
from typing import Any

from autoshard.models.bert import BertConfig
from autoshard.models.dlrm import DLRMConfig
from autoshard.models.gpt2 import GPT2Config
from autoshard.models.llama import LlamaConfig
from autoshard.models.llama_nnx import LlamaNNXConfig
from autoshard.models.mixtral import MixtralConfig
from autoshard.models.resnet import ResNetConfig
from autoshard.models.t5 import T5Config
from autoshard.models.unet import UNetConfig
from autoshard.models.vit import ViTConfig

SMALL: Mapping[str, Any] = {
    "gpt-tiny": GPT2Config(
        vocab_size=256, max_positions=128, hidden=64, layers=2, heads=8, dropout=0.0
    ),
    "gpt-small": GPT2Config(
        vocab_size=256, max_positions=256, hidden=128, layers=4, heads=8, dropout=0.0
    ),
    "llama-tiny": LlamaConfig(
        vocab_size=256,
        max_positions=128,
        hidden=64,
        intermediate=192,
        layers=2,
        heads=8,
        kv_heads=4,
    ),
    "llama-small": LlamaConfig(
        vocab_size=256,
        max_positions=256,
        hidden=128,
        intermediate=384,
        layers=4,
        heads=8,
        kv_heads=4,
    ),
    "llama-nnx-tiny": LlamaNNXConfig(
        vocab_size=256,
        max_positions=128,
        hidden=64,
        intermediate=192,
        layers=2,
        heads=8,
        kv_heads=4,
    ),
    "moe-tiny": MixtralConfig(
        vocab_size=256,
        max_positions=128,
        hidden=64,
        intermediate=128,
        layers=2,
        heads=8,
        kv_heads=4,
    ),
    "bert-tiny": BertConfig(
        vocab_size=256,
        max_positions=64,
        hidden=64,
        intermediate=128,
        layers=2,
        heads=8,
        dropout=0.0,
    ),
    "t5-tiny": T5Config(
        vocab_size=256,
        input_length=32,
        target_length=16,
        hidden=64,
        intermediate=128,
        layers=2,
        decoder_layers=2,
        heads=8,
        head_size=8,
        buckets=8,
        max_distance=16,
        dropout=0.0,
    ),
    "vit-tiny": ViTConfig(
        num_classes=16,
        image_size=16,
        patch_size=4,
        hidden=64,
        intermediate=128,
        layers=2,
        heads=8,
        dropout=0.0,
    ),
    "resnet-tiny": ResNetConfig(
        num_classes=16, image_size=16, blocks=(1, 1), width=16, block="basic", stem="cifar"
    ),
    "unet-tiny": UNetConfig(
        image_size=8,
        width=16,
        multipliers=(1, 2),
        blocks=1,
        attention_sizes=(),
        groups=8,
        dropout=0.0,
    ),
    "dlrm-tiny": DLRMConfig(
        table_rows=(64, 40, 3, 256, 17, 1000), embedding=16, bottom=(32, 16), top=(32, 32)
    ),
}
