"""Steps that take NNX objects: the same numbers, written into the caller's objects."""

import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import autoshard
from autoshard.errors import (
    CapturedModuleError,
    DeletedArrayError,
    GraphStateError,
    UnhashableTreeError,
)


def test_numbers_are_those_of_one_device(layout, step_function, make, batch, same):
    mine, theirs = make(), make()
    step = autoshard.parallelize(step_function, **layout)
    single = nnx.jit(step_function)
    for _ in range(4):
        loss, expected = step(*mine, batch), single(*theirs, batch)
        np.testing.assert_allclose(float(loss), float(expected), rtol=2e-6)
    same(mine, theirs)
    assert len(step._memory.entries) == 1


def test_arrays_live_where_the_plan_says(step_function, make, batch):
    step = autoshard.parallelize(step_function, mesh="data=2,model=4", strategy="zero3+tensor")
    model, optimizer, metrics = make()
    step(model, optimizer, metrics, batch)
    kernel = step.last_plan.leaf("model/embed/kernel")
    assert str(kernel.spec) == "P(data, model)"
    assert model.embed.kernel[...].sharding.spec == kernel.spec.partition_spec()
    assert step.last_plan.leaf("optimizer/opt_state/0/trace/embed/kernel").spec == kernel.spec
    assert "dimension 0 over data" in step.explain("model/embed/kernel")
    assert [leaf.path for leaf in step.last_plan.arguments if not leaf.carried] == [
        "batch/x",
        "batch/y",
    ]


def test_what_comes_back_is_what_the_program_made(step_function, make, batch):
    """Bitwise: nothing is cast, gathered or lost on the way into the objects."""
    step = autoshard.parallelize(step_function, strategy="zero3", donate=False)
    objects = make()
    twin = nnx.clone(objects)
    step(*objects, batch)
    call = step._read((*twin, batch), {})
    entry = step._memory.latest
    assert entry is not None
    placed = step._memory.owned.place(call.leaves, entry.shardings, entry.donated)
    results = entry.complete(entry.function(*placed), placed)
    made = jax.tree.unflatten(entry.program.out_tree, results)["state"]
    for path, value in [
        (("model", "embed", "kernel"), objects[0].embed.kernel),
        (("model", "norm", "mean"), objects[0].norm.mean),
        (("optimizer", "step"), objects[1].step),
        (("metrics", "total"), objects[2].total),
    ]:
        tree = made
        for part in path:
            tree = tree[part]
        np.testing.assert_array_equal(np.asarray(tree), np.asarray(value[...]))


def test_split_once(step_function, make, batch, monkeypatch):
    step = autoshard.parallelize(step_function, strategy="dp")
    objects = make()
    step(*objects, batch)
    calls = []
    original = nnx.graph.flatten
    monkeypatch.setattr(nnx.graph, "flatten", lambda *a, **k: calls.append(a) or original(*a, **k))
    for _ in range(3):
        step(*objects, batch)
    assert calls == []
    objects[0].drop.deterministic = True  # a static attribute: another program
    step(*objects, batch)
    assert len(step._memory.entries) == 2
    assert calls != []


def test_known_state_is_recognized(step_function, make, batch):
    step = autoshard.parallelize(step_function, strategy="dp")
    objects = make()
    for _ in range(3):
        step(*objects, batch)
    call = step._read((*objects, batch), {})
    recent = step._memory.recent
    assert recent is not None and recent.fits(call) and call.known
    objects[0].embed.kernel[...] = jnp.ones((16, 32))
    call = step._read((*objects, batch), {})
    assert recent.fits(call) and not call.known


def test_values_that_the_caller_writes_count(step_function, make, batch, same):
    mine, theirs = make(), make()
    step, single = autoshard.parallelize(step_function, strategy="zero3"), nnx.jit(step_function)
    for i in range(4):
        for objects, run in ((mine, step), (theirs, single)):
            objects[0].head.bias[...] = jnp.full((8,), float(i))
            objects[2].reset()
            run(*objects, batch)
    same(mine, theirs)


def test_two_models_take_turns(step_function, make, batch, same):
    step, single = autoshard.parallelize(step_function, strategy="zero3"), nnx.jit(step_function)
    mine, theirs = [make(), make(nnx.Rngs(7))], [make(), make(nnx.Rngs(7))]
    for _ in range(3):
        for a, b in zip(mine, theirs, strict=True):
            step(*a, batch)
            single(*b, batch)
    same(mine, theirs)


def test_nothing_is_kept_alive(step_function, make, batch):
    step = autoshard.parallelize(step_function, strategy="dp")
    objects = make()
    for _ in range(3):
        step(*objects, batch)
    refs = [weakref.ref(x) for x in (*objects, objects[0].embed, objects[0].embed.kernel[...])]
    del objects
    gc.collect()
    assert [ref() for ref in refs] == [None] * len(refs)


def test_own_arrays_are_donated_and_foreign_ones_are_not(step_function, make, batch):
    step = autoshard.parallelize(step_function, strategy="zero3")
    model, optimizer, metrics = make()
    foreign = model.embed.kernel[...]
    step(model, optimizer, metrics, batch)
    own = model.embed.kernel[...]
    step(model, optimizer, metrics, batch)
    assert not foreign.is_deleted() and own.is_deleted()
    model.embed.kernel[...] = own
    with pytest.raises(DeletedArrayError, match="model/embed/kernel"):
        step(model, optimizer, metrics, batch)
    kept = autoshard.parallelize(step_function, strategy="zero3", donate=False)
    objects = make()
    kept(*objects, batch)
    before = objects[0].embed.kernel[...]
    kept(*objects, batch)
    assert not before.is_deleted()


def test_born_sharded(layout, step_function, make, batch, same):
    step = autoshard.parallelize(step_function, **layout)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    rngs, other = nnx.Rngs(3), nnx.Rngs(3)
    objects = step.init(make, rngs, step_args=(shapes,))
    expected = make(other)
    same(rngs, other)  # the caller's stream has advanced
    # Not `objects`: numpy's view of an array keeps its memory from being reused in jax 0.11.
    same(step.init(make, nnx.Rngs(3), step_args=(shapes,)), expected)
    kernel = objects[0].embed.kernel[...]
    assert kernel.sharding.spec == step.last_plan.leaf("model/embed/kernel").spec.partition_spec()
    entries = len(step._memory.entries)
    step(*objects, batch)
    assert kernel.is_deleted()  # it was ours to reuse
    assert len(step._memory.entries) == entries  # what was planned is what runs
    nnx.jit(step_function)(*expected, batch)
    same(objects, expected)


def test_planned_from_shapes(step_function, make, batch):
    step = autoshard.parallelize(step_function, mesh="data=2,model=4", strategy="zero3+tensor")
    abstract = nnx.eval_shape(make)
    plan = step.plan(*abstract, batch)
    assert plan.leaf("model/embed/kernel").carried
    assert "all-reduce" in step.compile(*abstract, batch).as_text()


def test_compiled_ahead(step_function, make, batch, same):
    step = autoshard.parallelize(step_function, strategy="zero3")
    mine = make()
    theirs = nnx.clone(mine)
    compiled = step.compile(*mine, batch)
    compiled(*mine, batch)
    nnx.jit(step_function)(*theirs, batch)
    same(mine, theirs)


def test_evaluation_shares_the_plan_and_returns_no_parameters(step_function, make, batch):
    step = autoshard.parallelize(step_function, mesh="data=2,model=4", strategy="zero3+tensor")

    @autoshard.parallelize(like=step)
    def evaluate(model, metrics, batch):
        metrics.update(values=jnp.mean(model(batch["x"])))
        return model(batch["x"])

    model, optimizer, metrics = make()
    step(model, optimizer, metrics, batch)
    model.eval()
    kernel = model.embed.kernel[...]
    logits = evaluate(model, metrics, batch)
    assert logits.shape == (16, 8)
    assert model.embed.kernel[...] is kernel  # neither moved, copied nor donated
    entry = evaluate._memory.latest
    assert entry is not None
    made = [entry.plan.results[i].path for i in range(len(entry.plan.results))]
    returned = [p for i, p in enumerate(made) if i not in entry.forwarded]
    assert returned == ["out", "state/metrics/count", "state/metrics/total"]
    model.train()
    step(model, optimizer, metrics, batch)
    assert kernel.is_deleted()


def test_keywords_static_arguments_and_methods(make, batch, same):
    def step(model, batch, scale, *, optimizer, flip=False):
        def loss(m):
            return (-1 if flip else 1) * scale * jnp.mean(m(batch["x"]) ** 2)

        optimizer.update(model, nnx.grad(loss)(model))

    planned = autoshard.parallelize(step, strategy="zero3", static_argnames=("scale", "flip"))
    single = nnx.jit(step, static_argnames=("scale", "flip"))
    mine, theirs = make(), make()
    for (model, optimizer, _), run in ((mine, planned), (theirs, single)):
        run(model, batch, 2, optimizer=optimizer)
        run(model, scale=3, optimizer=optimizer, flip=True, batch=batch)
    same(mine[:2], theirs[:2])
    assert len(planned._memory.entries) == 2

    class Trainer(nnx.Module):
        def __init__(self, model, optimizer):
            self.model, self.optimizer = model, optimizer

        @autoshard.parallelize(strategy="zero3")
        def fit(self, batch):
            return step(self.model, batch, 2, optimizer=self.optimizer)

    third, fourth = make(), make()
    trainer = Trainer(*third[:2])
    for _ in range(2):
        trainer.fit(batch)
        single(fourth[0], batch, 2, optimizer=fourth[1])
    same(third[:2], fourth[:2])


def test_objects_inside_trees(step_function, make, batch, same):
    def step(everything):
        model, optimizer, metrics = everything["objects"]
        return step_function(model, optimizer, metrics, everything["batch"])

    planned = autoshard.parallelize(step, mesh="data=2,model=4", strategy="zero3+tensor")
    mine, theirs = make(), make()
    for _ in range(3):
        planned({"objects": mine, "batch": batch})
        nnx.jit(step_function)(*theirs, batch)
    same(mine, theirs)
    carried = {leaf.path.split("/")[0]: leaf.carried for leaf in planned.last_plan.arguments}
    assert carried == {"everything_objects": True, "everything_batch": False}


def test_split_by_the_user(make, batch, same):
    """``nnx.split`` outside and states as trees: the functional way needs no graph."""
    model, theirs = make()[0], make()[0]
    graphdef, state = nnx.split(model)

    def step(graphdef, state, batch):
        model = nnx.merge(graphdef, state)
        grads = nnx.grad(lambda m: jnp.mean(m(batch["x"]) ** 2))(model)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(model, nnx.Param), grads)
        nnx.update(model, params)
        return nnx.state(model), jnp.mean(model(batch["x"]))

    planned = autoshard.parallelize(step, strategy="zero3")
    state, _ = planned(graphdef, state, batch)
    state, loss = planned(graphdef, state, batch)
    graphdef, expected = nnx.split(theirs)
    expected, _ = jax.jit(step)(graphdef, expected, batch)
    expected, value = jax.jit(step)(graphdef, expected, batch)
    np.testing.assert_allclose(float(loss), float(value), rtol=1e-5)
    same(state, expected)


def test_inside_other_transformations(make, batch, same):
    def loss(model, x):
        return jnp.mean(model(x) ** 2)

    planned = autoshard.parallelize(loss, mesh="data=2,model=4", strategy="zero3+tensor")
    mine, theirs = make()[0], make()[0]
    got = nnx.jit(nnx.grad(planned))(mine, batch["x"])
    same(got, nnx.grad(loss)(theirs, batch["x"]))
    same(mine, theirs)  # statistics and streams
    inner = nnx.jit(lambda m, x: planned(m, x))
    np.testing.assert_allclose(
        float(inner(mine, batch["x"])), float(loss(theirs, batch["x"])), rtol=1e-5
    )
    same(mine, theirs)


def test_updating_what_is_closed_over_is_refused(make, batch):
    model = make()[0]

    @autoshard.parallelize
    def forward(x):
        return model(x)

    with pytest.raises(CapturedModuleError, match=r"def forward\(model"):
        forward(batch["x"])
    model.eval()  # read only, it may be closed over
    assert forward(batch["x"]).shape == (16, 8)


def test_references_are_refused(batch):
    with nnx.var_defaults(ref=True):
        model = nnx.Linear(16, 8, rngs=nnx.Rngs(0))
    with pytest.raises(GraphStateError, match="ref=True"):
        autoshard.parallelize(lambda model, x: model(x))(model, batch["x"])


def test_static_parts_that_cannot_be_hashed(batch):
    class Sized(nnx.Module):
        def __init__(self, sizes):
            self.sizes = nnx.static(sizes)
            self.scale = nnx.Param(jnp.ones(()))

        def __call__(self, x):
            return x * self.scale * len(self.sizes)

    class Odd:
        __hash__ = None  # type: ignore[assignment]

    with pytest.raises(UnhashableTreeError, match="cannot be hashed"):
        autoshard.parallelize(lambda model, x: model(x))(Sized(Odd()), batch["x"])


@pytest.mark.slow
def test_optimizers_of_optax(make, batch, same):
    """States with masks, injected hyperparameters, accumulation and chains."""
    transforms: list[Any] = [
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1, 9))),
        optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
        optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2),
    ]
    for tx in transforms:
        results = []
        for run in (autoshard.parallelize(_update, strategy="zero3"), nnx.jit(_update)):
            model = make()[0]
            optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
            for _ in range(3):
                run(model, optimizer, batch)
            results.append((model.head, optimizer))
        same(*results, tolerance=2e-4)


def _update(model, optimizer, batch):
    optimizer.update(model, nnx.grad(lambda m: jnp.mean(m(batch["x"]) ** 2))(model))
