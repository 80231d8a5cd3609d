import jax
import numpy as np
import pytest

from autoshard import models
from autoshard.models import dlrm


def test_matches_an_independent_numpy_forward(batch_of, params_of):
    spec = models.get("dlrm-tiny")
    batch = batch_of(spec)
    params = params_of(spec.param_shapes())
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def layers(x, mlp):
        for index in range(len(mlp)):
            layer = mlp[f"dense_{index}"]
            x = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
        return x

    expected = []
    for dense, sparse in zip(batch["dense"], np.asarray(batch["sparse"]), strict=True):
        x = layers(np.asarray(dense, np.float64), p["bottom"])
        features = [x, *(p[f"table_{i}"]["embedding"][row] for i, row in enumerate(sparse))]
        products = [a @ b for i, a in enumerate(features) for b in features[:i]]
        y = layers(np.concatenate([x, products]), p["top"])
        expected.append(float((y @ p["head"]["kernel"] + p["head"]["bias"]).item()))
    logits = jax.jit(spec.module.apply)({"params": params}, batch["dense"], batch["sparse"])
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    labels = np.asarray(batch["labels"])
    losses = np.log1p(np.exp(np.where(labels == 1, -1, 1) * np.array(expected)))
    np.testing.assert_allclose(jax.jit(spec.loss)(params, batch), losses.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "largest"),
    [
        (dlrm.CRITEO_KAGGLE, 10_131_227),
        (dlrm.CRITEO_TERABYTE_10M, 9_994_222),
        (dlrm.CRITEO_TERABYTE_40M, 39_979_771),
    ],
)
def test_the_criteo_tables(sizes, largest):
    assert (len(sizes), max(sizes)) == (26, largest)


def test_tables_start_within_their_published_bounds():
    table = jax.jit(models.get("dlrm-tiny").init)(jax.random.key(0))["params"]["table_5"]
    assert 0.9 * 1000**-0.5 < np.abs(table["embedding"]).max() <= 1000**-0.5


def test_the_bottom_must_end_in_the_width_of_the_tables():
    with pytest.raises(models.ModelConfigError, match=r"bottom=\(32, 8\) must end in embedding=16"):
        models.get("dlrm-tiny", bottom=(32, 8))
    with pytest.raises(models.ModelConfigError, match=r"table_rows=\(\) needs at least one"):
        models.get("dlrm-tiny", table_rows=())
