import jax
import numpy as np
import pytest

from autoshard import models

PARAMS = {
    "wte": np.ones(3),
    **{f"h_{i}": {"kernel": np.full((2, 2), i), "bias": np.full(2, -i)} for i in range(11)},
}


def test_layers_stack_in_numeric_order_and_back():
    stacked = models.stack_layers(PARAMS, "h")
    assert set(stacked) == {"wte", "h"}
    np.testing.assert_array_equal(stacked["h"]["kernel"][:, 0, 0], np.arange(11))
    jax.tree.map(np.testing.assert_array_equal, models.unstack_layers(stacked, "h"), PARAMS)


def test_a_gap_or_a_missing_name_is_refused():
    gap = {key: value for key, value in PARAMS.items() if key != "h_4"}
    with pytest.raises(models.ModelError, match="without a gap"):
        models.stack_layers(gap, "h")
    with pytest.raises(models.ModelError, match="found none among"):
        models.stack_layers({"wte": 0}, "h")
    with pytest.raises(models.ModelError, match="no entry 'h' among"):
        models.unstack_layers({"wte": 0}, "h")
