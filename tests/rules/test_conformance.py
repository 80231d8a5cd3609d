"""Rules that Shardy's registry gives, in our notation.

Source: openxla/shardy, `op_sharding_rule_registry.mlir` (its test cases). Factors are named here in
order of appearance, results last; where we differ on purpose, a comment says why.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from autoshard.rules.catalogue._variant import Variant, bools, c64, f32, i32, u32

CONV = ("NHWC", "HWIO", "NHWC")


def dot(contract, batch=((), ())):
    return lambda x, y: lax.dot_general(x, y, (contract, batch))


def conv(**options):
    return lambda x, w: lax.conv_general_dilated(x, w, dimension_numbers=CONV, **options)


TABLE = [
    ("add", lax.add, [f32(8, 4), f32(8, 4)], "([i, j], [i, j])->([i, j]) {i=8, j=4}"),
    ("add", lax.add, [f32(), f32()], "([], [])->([])"),
    (
        "select_n",
        lax.select_n,
        [bools(), f32(8, 4), f32(8, 4)],
        "([], [i, j], [i, j])->([i, j]) {i=8, j=4}",
    ),
    (
        "clamp",
        lax.clamp,
        [f32(), f32(8, 4), f32()],
        "([], [i, j], [])->([i, j]) {i=8, j=4}",
    ),
    (
        "dot_general",
        dot(((1,), (0,))),
        [f32(8, 32), f32(32, 16)],
        "([i, j], [j, k])->([i, k]) {i=8, j=32, k=16} reduction={j:sum}",
    ),
    (
        "dot_general",
        dot(((0,), (0,))),
        [f32(32), f32(32)],
        "([i], [i])->([]) {i=32} reduction={i:sum}",
    ),
    (
        "dot_general",
        dot(((0,), (0,))),
        [f32(32), f32(32, 8)],
        "([i], [i, j])->([j]) {i=32, j=8} reduction={i:sum}",
    ),
    (
        "dot_general",
        dot(((1,), (0,))),
        [f32(8, 32), f32(32)],
        "([i, j], [j])->([i]) {i=8, j=32} reduction={j:sum}",
    ),
    (
        "dot_general",
        dot(((2,), (1,)), ((0,), (0,))),
        [f32(4, 8, 32), f32(4, 32, 16)],
        "([i, j, k], [i, k, l])->([i, j, l]) {i=4, j=8, k=32, l=16} reduction={k:sum}",
    ),
    (
        "dot_general",
        dot(((5, 4), (1, 2)), ((0, 1), (4, 3))),
        [f32(2, 4, 3, 5, 6, 7), f32(9, 7, 6, 4, 2)],
        "([i, j, k, l, m, n], [o, n, m, j, i])->([i, j, k, l, o]) "
        "{i=2, j=4, k=3, l=5, m=6, n=7, o=9} reduction={m:sum, n:sum}",
    ),
    (
        "broadcast_in_dim",
        lambda x: lax.broadcast_in_dim(x, (2, 13, 4, 5), (0, 2, 3)),
        [f32(2, 4, 5)],
        "([i, j, k])->([i, l, j, k]) {i=2, j=4, k=5, l=13}",
    ),
    # Theirs has a factor of size one at the operand; ours leaves a dimension of size one empty.
    (
        "broadcast_in_dim",
        lambda x: lax.broadcast_in_dim(x, (2, 64, 4), (0, 1, 2)),
        [f32(2, 1, 4)],
        "([i, 1, j])->([i, k, j]) {i=2, j=4, k=64}",
    ),
    (
        "transpose",
        lambda x: lax.transpose(x, (3, 1, 0, 2)),
        [f32(2, 3, 4, 5)],
        "([i, j, k, l])->([l, j, i, k]) {i=2, j=3, k=4, l=5}",
    ),
    ("reshape", lambda x: x.reshape(8), [f32(2, 4)], "([i, j])->([i j]) {i=2, j=4}"),
    ("reshape", lambda x: x.reshape(2, 4), [f32(8)], "([i j])->([i, j]) {i=2, j=4}"),
    (
        "reshape",
        lambda x: x.reshape(2, 4, 3, 5),
        [f32(2, 60)],
        "([i, j k l])->([i, j, k, l]) {i=2, j=4, k=3, l=5}",
    ),
    (
        "reshape",
        lambda x: x.reshape(2, 20, 3),
        [f32(8, 5, 3)],
        "([i j, k, l])->([i, j k, l]) {i=2, j=4, k=5, l=3}",
    ),
    # Theirs calls the factors of one side parallel; whole says that the other side cannot follow.
    (
        "reshape",
        lambda x: x.reshape(2, 3),
        [f32(3, 2)],
        "([i, j])->([k, l]) {i=3, j=2, k=2, l=3} whole={i, j, k, l}",
    ),
    (
        "reshape",
        lambda x: x.reshape(4, 6),
        [f32(6, 4)],
        "([i j, k l])->([i m, n l]) {i=2, j=3, k=2, l=2, m=2, n=3} whole={j, k, m, n}",
    ),
    (
        "reshape",
        lambda x: lax.reshape(x, (4, 1, 5, 1)),
        [f32(1, 4, 5)],
        "([1, i, j])->([i, 1, j, 1]) {i=4, j=5}",
    ),
    (
        "reduce_sum",
        lambda x: x.sum(1),
        [f32(2, 64, 13)],
        "([i, j, k])->([i, k]) {i=2, j=64, k=13} reduction={j:sum}",
    ),
    # Theirs sums a variadic reduction in parts; argmax has no collective.
    (
        "argmax",
        lambda x: lax.argmax(x, 1, jnp.int32),
        [f32(2, 64, 13)],
        "([i, j, k])->([i, k]) {i=2, j=64, k=13} whole={j}",
    ),
    (
        "cumsum",
        lambda x: lax.cumsum(x, 1),
        [f32(4, 8)],
        "([i, j])->([i, j]) {i=4, j=8} whole={j}",
    ),
    (
        "conv_general_dilated",
        conv(window_strides=(8, 4), padding="VALID"),
        [f32(2, 224, 224, 192), f32(8, 4, 192, 64)],
        "([i, j k, l m, n], [k, m, n, o])->([i, j, l, o]) "
        "{i=2, j=28, k=8, l=56, m=4, n=192, o=64} reduction={k:sum, m:sum, n:sum}",
    ),
    (
        "conv_general_dilated",
        conv(window_strides=(8, 4), padding="VALID", feature_group_count=6),
        [f32(2, 224, 224, 192), f32(8, 4, 32, 12)],
        "([i, j k, l m, n o], [k, m, o, n p])->([i, j, l, n p]) "
        "{i=2, j=28, k=8, l=56, m=4, n=6, o=32, p=2} reduction={k:sum, m:sum, o:sum}",
    ),
    (
        "conv_general_dilated",
        conv(window_strides=(8, 4), padding="VALID", batch_group_count=2),
        [f32(8, 224, 224, 192), f32(8, 4, 192, 64)],
        "([i j, k l, m n, o], [l, n, o, i p])->([j, k, m, i p]) "
        "{i=2, j=4, k=28, l=8, m=56, n=4, o=192, p=32} reduction={l:sum, n:sum, o:sum}",
    ),
    (
        "concatenate",
        lambda x, y, z: lax.concatenate([x, y, z], 1),
        [f32(4, 2), f32(4, 4), f32(4, 6)],
        "([i, j], [i, j], [i, j])->([i, j]) {i=4, j=2} halo={j}",
    ),
    (
        "pad",
        lambda x: lax.pad(x, 0.0, ((1, 1, 0), (0, 0, 0))),
        [f32(8, 4)],
        "([i, j], [])->([i, j]) {i=8, j=4} halo={i}",
    ),
    (
        "slice",
        lambda x: lax.slice(x, (0, 2), (8, 6)),
        [f32(8, 8)],
        "([i, j])->([i, j]) {i=8, j=8} halo={j}",
    ),
    ("rev", lambda x: lax.rev(x, [1]), [f32(8, 4)], "([i, j])->([i, j]) {i=8, j=4} halo={j}"),
    (
        "dynamic_slice",
        lambda x, i: lax.dynamic_slice(x, (i, 0), (4, 6)),
        [f32(8, 6), i32()],
        "([i, j], [], [])->([k, j]) {i=8, j=6, k=4} whole={i, k}",
    ),
    # Theirs lets the updated dimension pass; the partitioner gathers it.
    (
        "dynamic_update_slice",
        lambda x, u, i: lax.dynamic_update_slice(x, u, (0, i)),
        [f32(8, 6), f32(8, 2), i32()],
        "([i, j], [i, k], [], [])->([i, j]) {i=8, j=6, k=2} whole={j, k}",
    ),
    (
        "gather",
        lambda x, i: jnp.take(x, i, 0),
        [f32(32, 16), i32(2, 8)],
        "([i, j], [k, l, 1])->([k, l, j]) {i=32, j=16, k=2, l=8} reduction={i:sum}",
    ),
    # Theirs keeps the scattered dimension whole; XLA leaves out what lies on other devices.
    (
        "scatter-add",
        lambda x, i, u: x.at[i].add(u),
        [f32(32, 16), i32(2, 8), f32(2, 8, 16)],
        "([i, j], [k, l, 1], [k, l, j])->([i, j]) {i=32, j=16, k=2, l=8} reduction={k:sum, l:sum}",
    ),
    (
        "sort",
        lambda x, y: lax.sort((x, y), dimension=1),
        [f32(8, 4), i32(8, 4)],
        "([i, j], [i, j])->([i, j], [i, j]) {i=8, j=4} whole={j}",
    ),
    (
        "top_k",
        lambda x: lax.top_k(x, 2),
        [f32(8, 4)],
        "([i, j])->([i, k], [i, k]) {i=8, j=4, k=2} whole={j, k}",
    ),
    (
        "fft",
        lambda x: jnp.fft.fft2(x),
        [c64(4, 8, 16)],
        "([i, j, k])->([i, j, k]) {i=4, j=8, k=16} whole={j, k}",
    ),
    (
        "cholesky",
        lax.linalg.cholesky,
        [f32(2, 8, 8)],
        "([i, j, k])->([i, l, m]) {i=2, j=8, k=8, l=8, m=8} whole={j, k, l, m}",
    ),
    ("iota", lambda: lax.broadcasted_iota(jnp.int32, (4, 8), 0), [], "()->([i, j]) {i=4, j=8}"),
    (
        "rng_bit_generator",
        lambda k: lax.rng_bit_generator(k, (4, 8)),
        [u32(4)],
        "([i])->([j], [k, l]) {i=4, j=4, k=4, l=8} whole={i, j}",
    ),
    (
        "bitcast_convert_type",
        lambda x: lax.bitcast_convert_type(x, jnp.uint16),
        [f32(4, 8)],
        "([i, j])->([i, j, k]) {i=4, j=8, k=2} whole={k}",
    ),
    (
        "bitcast_convert_type",
        lambda x: lax.bitcast_convert_type(x, jnp.uint32),
        [jax.ShapeDtypeStruct((4, 8, 2), jnp.uint16)],
        "([i, j, k])->([i, j]) {i=4, j=8, k=2} whole={k}",
    ),
    # Theirs exchanges borders here; windows side by side have none.
    (
        "reduce_window_max",
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 2), "VALID"),
        [f32(4, 8)],
        "([i, j k])->([i, j]) {i=4, j=4, k=2} whole={k}",
    ),
    (
        "reduce_window_max",
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 3), (1, 2), "SAME"),
        [f32(4, 16)],
        "([i, j])->([i, j]) {i=4, j=16} halo={j}",
    ),
    # Theirs passes the rows; XLA:TPU gathers them, for groups do not end where shards do.
    (
        "ragged_dot_general",
        lax.ragged_dot,
        [f32(8, 4), f32(3, 4, 6), i32(3)],
        "([i, j], [k, j, l], [m])->([i, l]) {i=8, j=4, k=3, l=6, m=3} "
        "reduction={j:sum} whole={i, k, m}",
    ),
    (
        "split",
        lambda x: lax.split(x, (4, 8), axis=1),
        [f32(8, 12)],
        "([i, j])->([i, j], [i, j]) {i=8, j=12} halo={j}",
    ),
    (
        "optimization_barrier",
        lambda x, y: lax.optimization_barrier((x, y)),
        [f32(4), f32(8)],
        "([i], [j])->([i], [j]) {i=4, j=8}",
    ),
]


@pytest.mark.parametrize(
    ("primitive", "function", "operands", "expected"),
    [pytest.param(*row, id=f"{n} {row[0]}") for n, row in enumerate(TABLE)],
)
def test_conformance(primitive, function, operands, expected: str) -> None:
    variant = Variant(primitive=primitive, title="", function=function, avals=tuple(operands))
    assert str(variant.op().rule) == expected
