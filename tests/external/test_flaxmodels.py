"""Models of `flaxmodels`."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
import optax
import pytest

Case = dict[str, Any]  # what `same_on_a_mesh` takes

pytestmark = [
    pytest.mark.external,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("flaxmodels") is None, reason="needs the extra [external]: flaxmodels"
    ),
]


def normal(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def integers(bound: int, *shape: int) -> Any:
    return np.random.default_rng(1).integers(0, bound, shape, dtype=np.int32)


IMAGES = {"images": normal(8, 32, 32, 3), "labels": integers(16, 8)}


def build(module: Any) -> Case:
    variables = jax.jit(module.init)(jax.random.key(0), IMAGES["images"][:1])
    collections = {name: variables[name] for name in variables if name != "params"}

    def loss(params: Any, collections: Any, batch: Any, key: jax.Array) -> Any:
        scores, collections = module.apply(
            {"params": params, **collections},
            batch["images"],
            train=True,
            mutable=list(collections),
            rngs={"dropout": key},
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, batch["labels"])
        return losses.mean(), collections

    return dict(loss=loss, params=variables["params"], collections=collections, batch=IMAGES)


def resnet18() -> Case:
    options: dict[str, Any] = {"pretrained": None, "normalize": False, "num_classes": 16}
    return build(import_module("flaxmodels").ResNet18(output="logits", **options))


LISTED = [resnet18]


@pytest.mark.parametrize("case", LISTED, ids=lambda case: case.__name__)
def test_listed_models(case, same_on_a_mesh):
    same_on_a_mesh(**case())
