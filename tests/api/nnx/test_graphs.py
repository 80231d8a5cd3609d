"""What a step may do to the graph: share, add, remove, replace, return."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import autoshard


@pytest.fixture(params=["dp", "zero3"])
def plan(request):
    return lambda f: autoshard.parallelize(f, strategy=request.param)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((16, 16), dtype=np.float32)


class Tied(nnx.Module):
    """One variable at two places."""

    def __init__(self, rngs):
        self.inner = nnx.Linear(16, 16, rngs=rngs)
        self.outer = nnx.Linear(16, 16, rngs=rngs)
        self.outer.kernel = self.inner.kernel

    def __call__(self, x):
        return self.outer(nnx.tanh(self.inner(x)))


def run_twice(plan, step, make, *args):
    """The objects after two planned calls, and after two of ``nnx.jit``."""
    results = []
    for wrap in (plan, nnx.jit):
        objects, run = make(), wrap(step)
        outs = [run(*objects, *args) for _ in range(2)]
        results.append((objects, outs))
    return results


def test_shared_variables(plan, x, same):
    def step(model, optimizer, x):
        optimizer.update(model, nnx.grad(lambda m: jnp.mean(m(x) ** 2))(model))

    def make():
        model = Tied(nnx.Rngs(0))
        return model, nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    (mine, _), (theirs, _) = run_twice(plan, step, make, x)
    same(mine, theirs)
    assert mine[0].outer.kernel is mine[0].inner.kernel


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # flax prefers nnx.Optimizer
def test_a_model_inside_its_optimizer_and_beside_it(plan, x, same):
    def step(model, both, x):
        grads = nnx.grad(lambda m: jnp.mean(m(x) ** 2))(both.model)
        both.update(grads)
        return jnp.sum(model.inner.kernel[...])

    def make():
        model = Tied(nnx.Rngs(0))
        return model, nnx.ModelAndOptimizer(model, optax.sgd(0.1))

    (mine, outs), (theirs, expected) = run_twice(plan, step, make, x)
    same(mine, theirs)
    assert mine[1].model is mine[0]
    np.testing.assert_allclose(np.asarray(outs), np.asarray(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")  # flax 0.12 prefers nnx.capture
def test_variables_come_and_go(plan, x, same):
    """Sown intermediates grow, a new layer appears, a variable is removed, one changes shape."""

    class Grows(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(16, 16, rngs=rngs)
            self.old = nnx.Variable(jnp.ones((8,)))
            self.seen = nnx.Variable(jnp.zeros((1, 16)))
            self.calls = 0

    def step(model, x):
        y = model.linear(x)
        model.sow(nnx.Intermediate, "mean", y.mean())
        if model.calls == 0:
            model.extra = nnx.Linear(16, 8, rngs=nnx.Rngs(1))
            del model.old
        model.calls += 1
        model.seen = nnx.Variable(jnp.concatenate([model.seen[...], y[:1]]))
        return model.extra(y).sum()

    (mine, outs), (theirs, expected) = run_twice(plan, step, lambda: (Grows(nnx.Rngs(0)),), x)
    same(mine, theirs)
    assert mine[0].calls == 2 and not hasattr(mine[0], "old")
    assert mine[0].seen[...].shape == (3, 16) and len(mine[0].mean.get_value()) == 2
    np.testing.assert_allclose(np.asarray(outs), np.asarray(expected), rtol=1e-4, atol=1e-4)


def test_a_value_of_another_shape(plan, x, same):
    def step(model, count, x):
        count.set_value(count[...] + 0.5)  # an int becomes a float
        model.kernel[...] = model.kernel[...] * 2
        return model(x).sum()

    def make():
        return nnx.Linear(16, 8, rngs=nnx.Rngs(0)), nnx.Variable(jnp.array(1))

    (mine, _), (theirs, _) = run_twice(plan, step, make, x)
    same(mine, theirs)


def test_results_that_are_objects(plan, x, same):
    def step(model, x):
        other = nnx.Linear(16, 4, rngs=nnx.Rngs(3))
        return {"same": model, "new": other, "part": model.inner, "y": other(model(x))}

    model = Tied(nnx.Rngs(0))
    run = plan(step)
    for _ in range(2):
        out = run(model, x)
        assert out["same"] is model and out["part"] is model.inner
        same(out["new"], nnx.Linear(16, 4, rngs=nnx.Rngs(3)))


def test_states_as_results(plan, x, same):
    def step(model, x):
        return nnx.grad(lambda m: jnp.mean(m(x) ** 2))(model), nnx.state(model)

    model = Tied(nnx.Rngs(0))
    grads, state = plan(step)(model, x)
    expected, _ = nnx.jit(step)(Tied(nnx.Rngs(0)), x)
    same(grads, expected)
    same(state, nnx.state(model))


def test_arrays_without_a_variable(plan, x, same):
    class Buffers(nnx.Module):
        def __init__(self):
            self.total = nnx.data(jnp.zeros((16,)))
            self.fixed = nnx.data(np.ones((1, 16), np.float32))

        def __call__(self, x):
            self.total = self.total + (x * self.fixed).sum(0)
            return self.total.sum()

    (mine, outs), (theirs, expected) = run_twice(
        plan, lambda model, x: model(x), lambda: (Buffers(),), x
    )
    np.testing.assert_allclose(np.asarray(outs), np.asarray(expected), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        np.asarray(mine[0].total), np.asarray(theirs[0].total), rtol=1e-4, atol=1e-4
    )


def test_cycles(plan, x):
    class Node(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(16, 16, rngs=rngs)
            self.next: Node

    one, two = Node(nnx.Rngs(0)), Node(nnx.Rngs(1))
    one.next, two.next = two, one
    run = plan(
        lambda node, x: node.next.linear(node.linear(x)).sum() + node.next.next.linear.bias[0]
    )
    expected = float((two.linear(one.linear(x))).sum())
    for _ in range(2):
        np.testing.assert_allclose(float(run(one, x)), expected, rtol=1e-4)


def test_a_variable_alone(plan, x):
    scale = nnx.Variable(jnp.ones((16,)))

    def step(scale, x):
        scale[...] = scale[...] * 2
        return (x * scale[...][None]).sum()

    run = plan(step)
    for _ in range(3):
        run(scale, x)
    np.testing.assert_array_equal(np.asarray(scale[...]), np.full(16, 8.0))


def test_explicit_mesh_and_arrays(x, same):
    """Arrays whose types carry shardings, on a mesh with Explicit axes."""
    mesh = jax.make_mesh(
        (2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2
    )

    def step(model, optimizer, x):
        optimizer.update(model, nnx.grad(lambda m: jnp.mean(m(x) ** 2))(model))

    results = []
    for wrap in (
        lambda f: autoshard.parallelize(f, mesh=mesh, strategy="zero3+tensor"),
        nnx.jit,
    ):
        model = Tied(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
        run, data = wrap(step), x
        if wrap is not nnx.jit:
            spec = jax.sharding.PartitionSpec("data", "model")
            place = jax.sharding.NamedSharding(mesh, spec)
            data = jax.device_put(x, place)
            model.inner.kernel.set_value(jax.device_put(model.inner.kernel[...], place))
        for _ in range(2):
            run(model, optimizer, data)
        results.append(model)
    same(*results)
