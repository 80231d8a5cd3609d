"""What type checkers see of the decorator: `make lint` checks the same statements."""

from typing import Any, assert_type

import flax.linen as nn
from flax import nnx

import autoshard


@autoshard.parallelize
def bare(x: Any) -> Any:
    return x


@autoshard.parallelize(strategy="dp", reduce_dtype="bfloat16")
def with_options(x: Any) -> Any:
    return x


@autoshard.parallelize(strategy="dp")
class Decorated(nnx.Module):
    def __init__(self, size: int) -> None:
        self.size = size


@autoshard.parallelize
class Plain(nn.Module):
    width: int = 3


def test_functions():
    assert isinstance(assert_type(bare, autoshard.Parallelized), autoshard.Parallelized)
    assert isinstance(assert_type(with_options, autoshard.Parallelized), autoshard.Parallelized)
    again = autoshard.parallelize(lambda x: x, mesh="data=8", like=with_options)
    assert isinstance(assert_type(again, autoshard.Parallelized), autoshard.Parallelized)


def test_classes():
    assert issubclass(assert_type(Decorated, type[Decorated]), nnx.Module)
    assert assert_type(Decorated(4).size, int) == 4
    assert assert_type(Plain(width=5), Plain).width == 5
    assert issubclass(assert_type(autoshard.wrap(nn.Dense), type[nn.Dense]), nn.Dense)


def test_instances():
    assert isinstance(assert_type(autoshard.parallelize(nn.Dense(8)), nn.Dense), nn.Dense)
    planned = autoshard.wrap(nnx.Linear(8, 8, rngs=nnx.Rngs(0)), strategy="zero3")
    assert isinstance(assert_type(planned, nnx.Linear), nnx.Linear)
