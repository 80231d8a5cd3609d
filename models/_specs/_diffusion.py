"""Models that learn to take noise out of images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autoshard.models._specs._base import Batch, ModelSpec, Rngs, refuse_seq
from autoshard.models.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionModelSpec(ModelSpec):
    """A model that predicts the noise in an image.

    Batches hold clean `images` alone, float32 `[batch, size, size, channels]` in [-1, 1]: the
    train step draws noise and its strength itself, from the key "noise".
    """

    def loss_and_collections(
        self, params: Any, collections: Mapping[str, Any], batch: Batch, rngs: Rngs | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Mean square of what the predicted noise is off (Ho et al. 2020, equation 14).

        Raises:
            ModelError: `rngs` holds no key "noise".
        """
        keys = dict(rngs or {})
        if "noise" not in keys:
            raise ModelError(
                f"{self.name} learns from random noise: pass rngs={{'noise': jax.random.key(0)}}."
            )
        images = batch["images"]
        step_key, noise_key = jax.random.split(keys.pop("noise"))
        steps = jax.random.randint(step_key, images.shape[:1], 0, self.config.diffusion_steps)
        noise = jax.random.normal(noise_key, images.shape, images.dtype)
        kept = jnp.asarray(_kept_variance(self.config.diffusion_steps))[steps, None, None, None]
        predicted: Any = self.module.apply(
            {"params": params, **collections},
            jnp.sqrt(kept) * images + jnp.sqrt(1 - kept) * noise,
            steps,
            deterministic="dropout" not in keys,
            rngs=keys,
        )
        loss = jnp.mean(jnp.square(predicted.astype(jnp.float32) - noise))
        return loss, dict(collections)

    @property
    def rng_names(self) -> tuple[str, ...]:
        """The noise, and dropout where there is some."""
        # super() alone would look for the class as it was before it got its slots.
        return ("noise", *super(DiffusionModelSpec, self).rng_names)

    def _batch_shapes(self, batch: int, seq: int | None) -> dict[str, jax.ShapeDtypeStruct]:
        refuse_seq(self, seq, "makes images")
        size = self.config.image_size
        shape = (batch, size, size, self.config.channels)
        return {"images": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def _model_inputs(self, batch: Batch) -> tuple[Any, ...]:
        images = batch["images"]
        return images, jnp.zeros(images.shape[0], jnp.int32)


def _kept_variance(steps: int) -> np.ndarray:
    """The image's share of the variance after each step (Ho et al. 2020, sections 2 and 4)."""
    return np.cumprod(1.0 - np.linspace(1e-4, 0.02, steps)).astype(np.float32)
