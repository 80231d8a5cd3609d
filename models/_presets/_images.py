"""ResNet, ViT and U-Net."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autoshard.models.resnet import ResNetConfig
from autoshard.models.unet import UNetConfig
from autoshard.models.vit import ViTConfig

# He et al. (2015), table 1.
_RESNET = {
    "resnet-18": ResNetConfig(blocks=(2, 2, 2, 2), block="basic"),
    "resnet-34": ResNetConfig(blocks=(3, 4, 6, 3), block="basic"),
    "resnet-50": ResNetConfig(),
    "resnet-101": ResNetConfig(blocks=(3, 4, 23, 3)),
    "resnet-152": ResNetConfig(blocks=(3, 8, 36, 3)),
}

# Dosovitskiy et al. (2021), table 1; patch sizes 16, 16 and 14. The small one is Touvron et al.
# (2021), table 1.
_VIT = {
    "vit-small": ViTConfig(hidden=384, intermediate=1536, heads=6),
    "vit-base": ViTConfig(),
    "vit-large": ViTConfig(hidden=1024, intermediate=4096, layers=24, heads=16),
    "vit-huge": ViTConfig(patch_size=14, hidden=1280, intermediate=5120, layers=32, heads=16),
}

# Ho et al. (2020), appendix B.
_DDPM_256 = UNetConfig(image_size=256, multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0)
_UNET = {
    "ddpm-cifar10": UNetConfig(),
    "ddpm-256": _DDPM_256,
    # Of the league: the network for 256² without its lowest resolution, on images of half the size.
    "unet": replace(_DDPM_256, image_size=128, multipliers=(1, 1, 2, 2, 4), dtype="bfloat16"),
}

IMAGES: Mapping[str, Any] = {**_RESNET, **_VIT, **_UNET}
