import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard import models


def _score(query, key, query_position, key_position, **kwargs):
    positions = jnp.array([query_position, key_position])
    cos, sin = models.rope_table(positions, query.size, base=10_000.0, **kwargs)
    rotated = [
        models.apply_rope(x[None, None, None], (cos[i : i + 1], sin[i : i + 1]))
        for i, x in enumerate((query, key))
    ]
    return float(jnp.vdot(*rotated))


@pytest.mark.parametrize("scaling", [None, models.RopeScaling(factor=8.0)])
def test_scores_depend_on_relative_position_only(scaling):
    query, key = jax.random.normal(jax.random.key(0), (2, 16))
    scores = [_score(query, key, 7 + shift, 3 + shift, scaling=scaling) for shift in (0, 5, 90)]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-4)
    assert abs(scores[0] - _score(query, key, 8, 3, scaling=scaling)) > 1e-2


def test_rotation_keeps_length_and_type():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 8)).astype(jnp.bfloat16)
    rotated = models.apply_rope(x, models.rope_table(jnp.arange(5), 8, base=100.0))
    assert rotated.dtype == x.dtype
    norms = [jnp.linalg.norm(t.astype(jnp.float32), axis=-1) for t in (x, rotated)]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-2)


def test_position_zero_is_not_rotated():
    x = jax.random.normal(jax.random.key(0), (1, 1, 2, 8))
    table = models.rope_table(jnp.zeros(1, jnp.int32), 8, base=10_000.0)
    np.testing.assert_array_equal(models.apply_rope(x, table), x)


def test_scaling_keeps_fast_rotations_and_divides_slow_ones():
    """The bounds of Llama 3.1: wavelengths below 8192/4 tokens stay, above 8192/1 are stretched."""
    base, size, factor = 500_000.0, 128, 8.0
    wavelengths = 2 * np.pi * base ** (np.arange(0, size, 2) / size)
    plain, scaled = (_angles(base, size, s) for s in (None, models.RopeScaling(factor=factor)))
    fast, slow = wavelengths < 8192 / 4, wavelengths > 8192
    np.testing.assert_allclose(scaled[fast], plain[fast], rtol=1e-5)
    np.testing.assert_allclose(scaled[slow], plain[slow] / factor, rtol=1e-5)
    between = ~fast & ~slow
    assert between.any()
    assert np.all((scaled[between] < plain[between]) & (scaled[between] > plain[between] / factor))


def _angles(base, size, scaling):
    """Rotation angles of position 1."""
    cos, sin = models.rope_table(jnp.array([1]), size, base=base, scaling=scaling)
    return np.arctan2(np.asarray(sin), np.asarray(cos))[0]
