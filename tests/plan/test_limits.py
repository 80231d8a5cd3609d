"""Labels that are refused because the compiler gets them wrong, and that it still does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from autoshard.errors import LabellingError
from autoshard.plan import Labelling, parse_mesh
from autoshard.rules import with_rules
from autoshard.tracing import trace


def conv(x, w):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_the_partitioner_still_gets_height_and_output_channels_wrong():
    """When this fails, `autoshard.plan._limits` can go."""
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    x = jax.random.normal(jax.random.key(0), (4, 16, 16, 4))
    w = jax.random.normal(jax.random.key(1), (3, 3, 4, 16))
    specs = (P(None, "data"), P(None, None, None, "model"))
    cut = jax.jit(conv, in_shardings=tuple(NamedSharding(mesh, s) for s in specs))
    assert np.abs(np.asarray(cut(x, w)) - np.asarray(conv(x, w))).max() > 1


def test_it_is_refused():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((4, 16, 16, 4), (3, 3, 4, 16))]
    program = trace(conv, tuple(shapes))
    ruled = with_rules(program)
    (op,) = [op for op in program.ops if op.primitive == "conv_general_dilated"]
    rule = ruled.rules[op.id]
    assert rule is not None
    height, channels = rule.results[0][1][0], rule.results[0][3][0]
    mesh = parse_mesh("data=2,model=4", 8)
    for label in ({height: ("data",)}, {channels: ("model",)}):
        Labelling(ruled, mesh, {op.id: label})
    with pytest.raises(LabellingError, match="compiler gets"):
        Labelling(ruled, mesh, {op.id: {height: ("data",), channels: ("model",)}})
