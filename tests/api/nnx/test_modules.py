"""NNX module classes: instances born sharded, calls planned, objects updated as always."""

import gc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

import autoshard


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((16, 16), dtype=np.float32)


@pytest.fixture
def expected(net):
    return net(rngs=nnx.Rngs(0))


def test_construction_and_calls(layout, net, expected, x, same):
    Planned = autoshard.parallelize(net, **layout, example=(x,))
    rngs, other = nnx.Rngs(0), nnx.Rngs(0)
    model = Planned(rngs=rngs)
    net(rngs=other)
    same(rngs, other)
    same(model, expected)
    plan = Planned.parallelized.last_plan
    kernel = plan.leaf("self/embed/kernel").spec.partition_spec()
    assert model.embed.kernel[...].sharding.spec == kernel
    for _ in range(2):
        np.testing.assert_allclose(np.asarray(model(x)), np.asarray(expected(x)), rtol=0, atol=2e-5)
    same(model, expected)  # statistics and streams went on
    assert model.embed.kernel[...].sharding.spec == kernel


def test_without_an_example_arrays_are_stored_by_size(net, x):
    Planned = autoshard.parallelize(net, mesh="data=2,model=4", strategy="zero3+tensor")
    model = Planned(rngs=nnx.Rngs(0))
    per_device = model.embed.kernel[...].addressable_shards[0].data
    assert per_device.size * 8 == model.embed.kernel[...].size
    model(x)  # the plan wants it elsewhere, and there it stays
    kernel = model.embed.kernel[...]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec("data", "model")
    model(x)
    assert model.embed.kernel[...] is kernel


def test_never_whole_on_one_device(x):
    class Wide(nnx.Module):
        def __init__(self, *, rngs):
            self.up = nnx.Linear(16, 65536, rngs=rngs)

        def __call__(self, x):
            return self.up(x)

    gc.collect()
    model = autoshard.parallelize(Wide, strategy="zero3")(rngs=nnx.Rngs(0))
    kernel = model.up.kernel[...]
    whole = [
        a
        for a in jax.live_arrays()
        if a.shape == kernel.shape and a.addressable_shards[0].data.size == kernel.size
    ]
    assert kernel.addressable_shards[0].data.shape == (16, 8192)
    assert whole == []


def test_what_it_is(net, x):
    Planned = autoshard.parallelize(net, strategy="dp")
    model = Planned(rngs=nnx.Rngs(0))
    assert Planned.__name__ == "Net" and Planned.__module__ == net.__module__
    assert issubclass(Planned, net) and type(model) is Planned and isinstance(model, nnx.Module)

    class Deeper(Planned):  # pyright: ignore[reportUntypedBaseClass]
        def __init__(self, *, rngs):
            super().__init__(rngs=rngs)
            self.last = nnx.Linear(8, 4, rngs=rngs)

        def __call__(self, x):
            return self.last(super().__call__(x))

    assert Deeper(rngs=nnx.Rngs(0))(x).shape == (16, 4)


def test_an_instance(net, expected, x):
    model = net(rngs=nnx.Rngs(0))
    planned = autoshard.wrap(model, mesh="data=2,model=4", strategy="zero3+tensor")
    assert isinstance(planned, net) and planned.embed is model.embed
    np.testing.assert_allclose(np.asarray(planned(x)), np.asarray(expected(x)), atol=2e-5)
    assert model.embed.kernel[...].sharding.mesh == planned.parallelized.mesh


def test_inside_nnx_jit_and_planned_steps(net, step_function, batch, make, same):
    """The class is planned where it is called outermost; inside a step, the step is planned."""
    Planned = autoshard.parallelize(net, mesh="data=2,model=4", strategy="zero3+tensor")
    theirs = make()
    for _ in range(2):
        nnx.jit(step_function)(*theirs, batch)
    for run in (nnx.jit(step_function), autoshard.parallelize(step_function, strategy="zero3")):
        model = Planned(rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)
        trace = optimizer.opt_state[0].trace["embed"]["kernel"][...]
        assert not trace.sharding.is_fully_replicated  # the optimizer's state is born as they are
        mine = (model, optimizer, nnx.metrics.Average())
        for _ in range(2):
            run(*mine, batch)
        same(mine, theirs)


def test_arguments_that_are_no_arrays_are_static(x):
    class Branches(nnx.Module):
        def __init__(self, features, *, rngs, scale=1.0):
            self.linear = nnx.Linear(16, features, rngs=rngs)
            self.scale = scale

        def __call__(self, x, *, double=False, mode="sum"):
            y = self.linear(x) * (2 if double else 1)
            return y.sum() if mode == "sum" else y

    Planned = autoshard.parallelize(Branches, strategy="dp")
    mine, theirs = (c(8, rngs=nnx.Rngs(0), scale=2.0) for c in (Planned, Branches))
    cases: list[dict[str, Any]] = [{}, {"double": True}, {"mode": "none"}]
    for options in cases:
        left, right = mine(x, **options), theirs(x, **options)
        assert left.shape == right.shape
        np.testing.assert_allclose(np.asarray(left), np.asarray(right), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", ["sharding", "sharding_names", "out_sharding"])
@pytest.mark.filterwarnings("ignore:'sharding")  # flax renamed it twice
def test_annotated_parameters_need_no_mesh(key, x):
    class Annotated(nnx.Module):
        def __init__(self, *, rngs):
            init = nnx.initializers.lecun_normal()
            names: dict[str, Any] = {key: ("fsdp", "tp")}
            self.w = nnx.Param(init(rngs.params(), (16, 32)), **names)

        def __call__(self, x):
            return x @ self.w

    def create(key):
        model = Annotated(rngs=nnx.Rngs(key))
        return model, nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    def step(model, optimizer, x):
        optimizer.update(model, nnx.grad(lambda m: jnp.mean(m(x) ** 2))(model))

    model = autoshard.parallelize(Annotated, strategy="zero3")(rngs=nnx.Rngs(0))
    assert model(x).shape == (16, 32)
    planned = autoshard.parallelize(step, mesh="data=2,model=4", strategy="zero3+tensor")
    model, optimizer = planned.init(create, jax.random.key(0), step_args=(x,))
    before = np.asarray(model.w[...])
    for _ in range(2):
        planned(model, optimizer, x)
    assert not np.array_equal(before, np.asarray(model.w[...]))
    assert model.w.get_metadata()["out_sharding"] == ("fsdp", "tp")


@pytest.mark.parametrize("key", ["sharding", "sharding_names", "out_sharding"])
@pytest.mark.filterwarnings("ignore:'sharding")  # flax renamed it twice
def test_annotations_with_axes_of_the_mesh_are_hints(key, x):
    class Annotated(nnx.Module):
        def __init__(self, *, rngs):
            init = nnx.initializers.lecun_normal()

            def param(shape, *names):
                metadata: dict[str, Any] = {key: names}
                return nnx.Param(init(rngs.params(), shape), **metadata)

            self.up = param((16, 32), "model", None)  # not what "tensor" would do
            self.odd = param((32, 6), None, "model")  # 4 does not divide 6
            self.down = param((6, 16), "embed", "mlp")  # names, but no axes

        def __call__(self, x):
            return jnp.tanh(x @ self.up) @ self.odd @ self.down

    def step(model, optimizer, x):
        loss, gradients = nnx.value_and_grad(lambda m: jnp.mean(m(x) ** 2))(model)
        optimizer.update(model, gradients)
        return loss

    def make():
        with nnx.use_eager_sharding(False):
            model = Annotated(rngs=nnx.Rngs(0))
        return model, nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)

    options: dict[str, Any] = {"mesh": "data=2,model=4", "strategy": "zero3+tensor"}
    plan = autoshard.parallelize(step, **options).plan(*make(), x)
    assert str(plan.leaf("model/up").spec).startswith("P(model")
    assert "model: pinned by the annotation of its variable" in plan.leaf("model/up").reason
    assert "model" not in str(plan.leaf("model/odd").spec).split(",")[-1]
    assert any("arrays are cut as their annotations say, such as model/up" in n for n in plan.notes)
    assert any(note.startswith("not followed: ") and "model/odd" in note for note in plan.notes)
    pinned = autoshard.parallelize(step, **options, pins={"model/up": PartitionSpec(None, "model")})
    assert str(pinned.plan(*make(), x).leaf("model/up").spec) == "P(-, model)"

    planned, (model, optimizer) = autoshard.parallelize(step, **options), make()
    twin, theirs = make()
    for _ in range(3):
        np.testing.assert_allclose(planned(model, optimizer, x), step(twin, theirs, x), rtol=1e-5)
    np.testing.assert_allclose(model.up[...], twin.up[...], rtol=1e-4, atol=1e-6)


def test_stacks_of_layers(x, same):
    """`nnx.vmap` makes the layers, `nnx.scan` runs them, `nnx.remat` forgets in between."""

    class Layer(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(16, 16, rngs=rngs)
            self.drop = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x):
            return x + self.drop(nnx.tanh(self.linear(x)))

    class Stack(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=3)
            @nnx.vmap
            def make(rngs):
                return Layer(rngs)

            self.layers = make(rngs)

        def __call__(self, x):
            @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
            @nnx.remat
            def run(layer, x):
                return layer(x)

            return run(self.layers, x)

    def step(model, optimizer, x):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean(m(x) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    results = []
    for make, run in (
        (
            autoshard.parallelize(Stack, mesh="data=2,model=4", strategy="zero3+tensor"),
            autoshard.parallelize(step, mesh="data=2,model=4", strategy="zero3+tensor"),
        ),
        (Stack, nnx.jit(step)),
    ):
        model = make(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
        for _ in range(3):
            run(model, optimizer, x)
        results.append((model, optimizer))
    same(*results)
