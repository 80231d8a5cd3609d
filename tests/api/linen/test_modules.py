"""Linen modules: ``init`` and ``apply`` on a mesh, with everything that ``apply`` can do."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

import autoshard
from autoshard.errors import ModelKindError, ModelOptionError, StaticArgumentError

LAYOUTS = [
    ("data=8", "dp"),
    ("data=2,model=4", "zero3"),
    ("model=8", "tensor"),
    ("data=2,model=4", "zero3+tensor"),
]
KEY = jax.random.key(0)


class Net(nn.Module):
    """Convolution, statistics, dropout, an intermediate, a second method."""

    width: int = 32

    def setup(self) -> None:
        self.conv = nn.Conv(self.width, (3, 3))
        self.norm = nn.BatchNorm(momentum=0.9)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Dense(8)

    def features(self, x, train=True):
        x = nn.relu(self.norm(self.conv(x), use_running_average=not train))
        self.sow("intermediates", "features", x)
        return self.drop(x, deterministic=not train).mean((1, 2))

    def __call__(self, x, train=True):
        return self.head(self.features(x, train))


SLOW = ("dp", "zero3", "tensor")


def some(layouts):
    """The layouts, some of them for the slow set alone."""
    return [
        pytest.param(x, marks=pytest.mark.slow if x[1] in SLOW else (), id=x[1]) for x in layouts
    ]


@pytest.fixture(params=some(LAYOUTS))
def pair(request):
    """A planned module and the plain one."""
    mesh, strategy = request.param
    return autoshard.wrap(Net(), mesh=mesh, strategy=strategy), Net()


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((16, 8, 8, 3), dtype=np.float32)


def close(left, right, tolerance=2e-5):
    """Compare two trees, relative to the largest number in them."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    one, two = ([np.asarray(a) for a in jax.tree.leaves(t)] for t in (left, right))
    scale = max(float(np.abs(b).max(initial=0)) for b in two)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def test_training(pair, x):
    """Born sharded; statistics and dropout; gradients through ``apply``; the planned step."""
    planned, plain = pair
    variables = planned.init(KEY, x[:1], train=False)
    expected = plain.init(KEY, x[:1], train=False)
    close(variables, expected)
    where = planned.parallelized.last_plan
    kernel = where.leaf("variables/params/head/kernel").spec.partition_spec()
    assert variables["params"]["head"]["kernel"].sharding.spec == kernel

    def loss(model, params, stats, key):
        out, mutated = model.apply(
            {"params": params, "batch_stats": stats},
            x,
            mutable=["batch_stats", "intermediates"],
            rngs={"dropout": key},
        )
        return jnp.mean(out**2), mutated

    results = []
    for model, v in ((planned, variables), (plain, expected)):
        grad = jax.jit(jax.grad(functools.partial(loss, model), has_aux=True))
        results.append(grad(v["params"], v["batch_stats"], KEY))
        results[-1] += (loss(model, v["params"], v["batch_stats"], KEY),)
    close(*results)


def test_methods_and_captured_intermediates(x):
    planned, plain = autoshard.wrap(Net(), strategy="zero3"), Net()
    variables = plain.init(KEY, x)
    cases: list[dict[str, Any]] = [
        {"method": "features"},
        {"method": Net.features},
        {"mutable": True},
        {"capture_intermediates": True, "mutable": ["intermediates"]},
        {"capture_intermediates": _dense_alone, "mutable": "intermediates"},
    ]
    for options in cases:
        one, two = (m.apply(variables, x, train=False, **options) for m in (planned, plain))
        close(one, two)


def _dense_alone(module, method):
    return isinstance(module, nn.Dense)


def test_what_it_is(x):
    Planned = autoshard.parallelize(Net, strategy="dp")
    assert Planned.__name__ == "Net" and issubclass(Planned, Net)
    assert Planned.__module__ == Net.__module__ and Planned.__doc__ == Net.__doc__
    model = autoshard.parallelize(Net(width=16))
    assert isinstance(model, Net) and model.width == 16 and model == model.clone()
    assert "Net(" in repr(model)
    assert Planned(width=64).width == 64
    variables: Any = Planned(width=64).init(KEY, x)
    assert variables["params"]["conv"]["kernel"].shape == (3, 3, 3, 64)
    model.bind(variables)  # what is not planned is as it was


def test_as_a_submodule(x):
    """Parameter names stay, and the outermost ``apply`` is the one that is planned."""
    Planned = autoshard.parallelize(Net, strategy="zero3")

    class Outer(nn.Module):
        inner: type

        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(self.inner()(x, train=False))

    outer = autoshard.wrap(Outer(Planned), strategy="zero3")
    variables, expected = outer.init(KEY, x), Outer(Net).init(KEY, x)
    close(variables, expected)
    close(outer.apply(variables, x), Outer(Net).apply(expected, x))
    close(Outer(Planned).apply(expected, x), Outer(Net).apply(expected, x))


def test_inside_a_planned_step(x):
    """A ``TrainState`` whose ``apply_fn`` is planned, in a step that is planned as a whole."""
    states = []
    for model, wrap in ((autoshard.wrap(Net()), autoshard.parallelize), (Net(), jax.jit)):
        variables = Net().init(KEY, x)
        state = TrainState.create(
            apply_fn=model.apply, params=variables["params"], tx=optax.sgd(0.1, momentum=0.9)
        )
        step = wrap(functools.partial(_step, stats=variables["batch_stats"]))
        state, _ = step(state, {"x": x})
        state, loss = step(state, {"x": x})
        states.append((state.params, state.opt_state, loss))
    close(*states)


def _step(state, batch, stats):
    def loss(params):
        out = state.apply_fn({"params": params, "batch_stats": stats}, batch["x"], train=False)
        return jnp.mean(out**2)

    value, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads), value


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        hidden = nn.gelu(nn.Dense(64)(nn.LayerNorm()(x)))
        return x + nn.Dense(32)(hidden), None


class Scanned(nn.Module):
    """`nn.scan` over `nn.remat`."""

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        return nn.Dense(8)(layers()(x, None)[0])


class Cached(nn.Module):
    """Attention that decodes one token at a time from a cache."""

    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(num_heads=4, decode=True)(x)


@pytest.mark.parametrize("layout", some(LAYOUTS[2:]))
def test_scan_and_remat(layout):
    mesh, strategy = layout
    x = np.random.default_rng(1).standard_normal((16, 4, 32), dtype=np.float32)
    planned, plain = autoshard.wrap(Scanned(), mesh=mesh, strategy=strategy), Scanned()
    variables, expected = planned.init(KEY, x), plain.init(KEY, x)
    models: list[Any] = [planned, plain]
    grads = [
        jax.jit(jax.grad(lambda v, m=m: jnp.mean(m.apply(v, x) ** 2)))(expected) for m in models
    ]
    close((variables, *grads[:1]), (expected, *grads[1:]))


def test_decoding_from_a_cache():
    x = np.random.default_rng(1).standard_normal((8, 6, 32), dtype=np.float32)
    planned = autoshard.wrap(Cached(), mesh="data=2,model=4", strategy="zero3+tensor")
    variables = planned.init(KEY, x)
    expected = Cached().init(KEY, x)
    outputs = []
    runs: list[tuple[Any, Any]] = [(planned, variables), (Cached(), expected)]
    for model, v in runs:
        cache, outs = v["cache"], []
        for i in range(3):
            out, mutated = model.apply(
                {"params": v["params"], "cache": cache}, x[:, i : i + 1], mutable=["cache"]
            )
            if model is planned and i > 0:  # it keeps its sharding from step to step
                key = cache["MultiHeadDotProductAttention_0"]["cached_key"]
                new = mutated["cache"]["MultiHeadDotProductAttention_0"]["cached_key"]
                assert new.sharding == key.sharding
            cache = mutated["cache"]
            outs.append(out)
        outputs.append((outs, cache))
    close(*outputs)
    for leaf in planned.parallelized.last_plan.state:
        array: Any = variables
        for part in leaf.path.split("/")[1:]:
            array = array[part]
        if "/params/" in leaf.path:  # they never move
            assert array.sharding.spec == leaf.spec.partition_spec()


def test_recurrence():
    x = np.random.default_rng(1).standard_normal((16, 5, 12), dtype=np.float32)
    plain = nn.RNN(nn.LSTMCell(32), name="rnn")
    planned = autoshard.wrap(plain, mesh="data=2,model=4", strategy="zero3+tensor")
    variables = planned.init(KEY, x)
    close(variables, plain.init(KEY, x))
    close(planned.apply(variables, x), plain.apply(plain.init(KEY, x), x))


def test_annotated_parameters_and_boxes(x):
    init = nn.with_partitioning(nn.initializers.lecun_normal(), ("fsdp", "tp"))
    plain = nn.Dense(16, kernel_init=init)
    planned = autoshard.wrap(plain, strategy="zero3")
    data = x[:, 0, 0]
    variables = planned.init(KEY, data)
    assert isinstance(variables["params"]["kernel"], nn.Partitioned)
    close(planned.apply(variables, data), plain.apply(plain.init(KEY, data), data))


def test_shapes_only(x):
    planned = autoshard.wrap(Net(), mesh="data=2,model=4", strategy="zero3+tensor")
    shapes = jax.eval_shape(Net().init, KEY, x)
    plan = planned.parallelized.plan(shapes, jax.ShapeDtypeStruct(x.shape, x.dtype), train=False)
    assert str(plan.leaf("variables/params/head/kernel").spec) == "P(model, data)"
    assert [leaf.path for leaf in plan.arguments if not leaf.carried] == ["x"]


def test_options(x):
    with pytest.raises(ModelOptionError, match="cannot be said of the model Net"):
        autoshard.parallelize(Net, static_argnames="train")
    with pytest.raises(ModelKindError, match="decorate a function"):
        autoshard.wrap(len)  # type: ignore[type-var]
    model = autoshard.wrap(Net())
    with pytest.raises(StaticArgumentError, match="cannot be hashed"):
        model.apply(model.init(KEY, x), x, train=_Unhashable())


class _Unhashable:
    __hash__ = None  # type: ignore[assignment]
