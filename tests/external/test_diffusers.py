"""Models of `diffusers` 0.24: the U-Net of Stable Diffusion, its autoencoder and a ControlNet."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

Case = dict[str, Any]  # what `same_on_a_mesh` takes

pytestmark = [
    pytest.mark.external,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("diffusers") is None, reason="needs the extra [external]: diffusers"
    ),
    # Of diffusers: names of jax and of its own that have new ones.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def downloads_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """It imports a function that its hub's client has dropped; nothing here downloads."""
    hub = import_module("huggingface_hub")
    monkeypatch.setattr(hub, "cached_download", None, raising=False)


def normal(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


DIFFUSION = {
    "noisy": normal(8, 4, 16, 16),
    "step": np.random.default_rng(1).integers(0, 1000, (8,), dtype=np.int32),
    "text": normal(8, 6, 32),
    "target": normal(8, 4, 16, 16),
}
SIZES: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "cross_attention_dim": 32,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
}


def build(module: Any, names: tuple[str, ...], batch: Any, output: Any, **options: Any) -> Case:
    """A case that is called with some arrays of its batch and meets its target in the mean."""

    def run(params: Any, batch: Any, key: jax.Array) -> Any:
        rngs = {"dropout": key, "gaussian": key}
        arrays = [jnp.asarray(batch[name]) for name in names]
        return output(module.apply(params, *arrays, rngs=rngs, **options))

    def init(key: jax.Array) -> Any:
        arrays = [jnp.asarray(batch[name]) for name in names]
        return module.init({"params": key, "dropout": key, "gaussian": key}, *arrays, **options)

    variables: Any = jax.jit(init)(jax.random.key(0))

    def loss(params: Any, collections: Any, batch: Any, key: jax.Array) -> Any:
        error = run({"params": params}, batch, key) - batch["target"]
        return jnp.mean(error**2), collections

    return dict(loss=loss, params=variables["params"], collections={}, batch=batch)


def unet() -> Case:
    module = import_module("diffusers.models.unet_2d_condition_flax").FlaxUNet2DConditionModel(
        sample_size=16, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **SIZES
    )
    return build(module, ("noisy", "step", "text"), DIFFUSION, lambda out: out.sample)


def controlnet() -> Case:
    module = import_module("diffusers.models.controlnet_flax").FlaxControlNetModel(
        sample_size=8, conditioning_embedding_out_channels=(16, 32), **SIZES
    )
    batch = DIFFUSION | {
        "noisy": normal(8, 4, 8, 8),
        "condition": normal(8, 3, 16, 16),
        "target": normal(8, 4, 4, 64),
    }
    names = ("noisy", "step", "text", "condition")
    return build(module, names, batch, lambda out: out.mid_block_res_sample)


def autoencoder() -> Case:
    module = import_module("diffusers.models.vae_flax").FlaxAutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
    )
    images = {"images": normal(8, 3, 16, 16), "target": normal(8, 3, 16, 16)}
    return build(module, ("images",), images, lambda out: out.sample, deterministic=False)


@pytest.mark.parametrize("case", [unet, controlnet, autoencoder], ids=lambda c: c.__name__)
def test_models(case, same_on_a_mesh):
    same_on_a_mesh(**case())
