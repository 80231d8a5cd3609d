"""What is saved comes back, bit by bit, into any sharding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_trees import DTYPES, assert_same, bits, mesh, on, random_array
from flax import nnx

import autoshard.checkpoint as ck
from autoshard.errors import (
    CheckpointError,
    CheckpointExistsError,
    CheckpointKeyError,
    CheckpointLeafError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    IncompleteCheckpointError,
)


def test_everything_comes_back(everything, tmp_path):
    saved = ck.save(tmp_path / "c", everything, step=3, metadata={"note": "x"})
    assert_same(
        ck.load(tmp_path / "c", everything), everything | {"big": everything["big"].astype("f4")}
    )
    told = ck.metadata(tmp_path / "c")
    assert told == saved
    assert (told.step, told.metadata, told.processes) == (3, {"note": "x"}, 1)
    assert ck.verify(tmp_path / "c").ok


def test_without_a_target(everything, tmp_path):
    ck.save(tmp_path / "c", everything)
    found = ck.load(tmp_path / "c")
    assert found["nothing"] == {"list": [], "tuple": (), "dict": {}}
    assert found["none"] is None and found["huge"] == 2**200 and found["flag"] is True
    assert list(found["int keys"]) == [-1, 3]
    assert isinstance(found["state"]["params"]["w"], np.ndarray)
    assert found["state"]["opt_state"][1][0]["count"] == 0
    assert bits(found["keys"]) == bits(everything["keys"])


SHARDINGS = [
    ("data=4,model=2", ("data", "model")),
    ("data=2,model=4", ("data", "model")),
    ("data=2,model=4", (None, ("data", "model"))),
    ("data=8,model=1", ("data", None)),
    ("x=2,y=2,z=2", (("x", "z"), "y")),
    ("x=3,y=2", ("x", "y")),
    ("one=1", ()),
]


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, jnp.int4, jnp.float8_e4m3fn, np.bool_])
def test_any_sharding_to_any_other(dtype, tmp_path):
    whole = random_array((48, 96), dtype)
    digests = set()
    for i, (text, spec) in enumerate(SHARDINGS):
        sharding = on(mesh(text), *spec)
        path = tmp_path / str(i)
        digests.add(ck.save(path, {"w": jax.device_put(whole, sharding)}).digest)
        for text, spec in SHARDINGS:
            wanted = on(mesh(text), *spec)
            target = {"w": jax.ShapeDtypeStruct(whole.shape, whole.dtype, sharding=wanted)}
            found = ck.load(path, target)["w"]
            assert found.sharding == wanted
            assert bits(found) == bits(whole)
    assert len(digests) == 1


@pytest.mark.parametrize("shape", [(1500, 1031), (3, 700, 521), (5, 2, 300, 301), (2_500_003,), ()])
def test_shapes_of_many_tiles(shape, tmp_path, monkeypatch):
    monkeypatch.setattr("autoshard.checkpoint._tiles.TILE_BYTES", 1 << 16)
    monkeypatch.setattr("autoshard.checkpoint._tiles.FILE_BYTES", 1 << 19)
    whole = random_array(shape, np.float32)
    ck.save(tmp_path / "c", {"w": whole})
    assert bits(ck.load(tmp_path / "c")["w"]) == bits(whole)
    assert ck.verify(tmp_path / "c").ok
    source = ck.open_source(tmp_path / "c")
    if shape:
        part = tuple(slice(n // 3, n // 3 + max(1, n // 5)) for n in shape)
        assert bits(source.read("w", part)) == bits(np.ascontiguousarray(whole[part]))


def test_memory_of_the_result_is_not_shared(tmp_path):
    whole = random_array((64, 64), np.float32)
    ck.save(tmp_path / "c", {"w": whole})
    target = {"w": jax.ShapeDtypeStruct((64, 64), np.float32, sharding=on(mesh("d=8")))}
    found = ck.load(tmp_path / "c", target)["w"]  # replicated
    jax.jit(lambda x: x * 0, donate_argnums=0)(found)
    assert bits(ck.load(tmp_path / "c", target)["w"]) == bits(whole)


def test_mesh_and_plan_as_targets(tmp_path):
    import autoshard

    state = {"w": jnp.ones((16, 8)), "b": jnp.ones((8,))}
    on_mesh = jax.device_put(
        state, {"w": on(mesh("data=2,model=4"), "data", "model"), "b": on(mesh("data=2,model=4"))}
    )
    ck.save(tmp_path / "c", on_mesh)
    found = ck.load(tmp_path / "c", mesh="data=8")
    assert found["w"].sharding.spec == jax.sharding.PartitionSpec("data")
    assert_same(found, state)

    def step(state, x):
        return jax.tree.map(lambda a: a * 0.9, state), jnp.mean(x @ state["w"] + state["b"][None])

    planned = autoshard.parallelize(step, mesh="data=4,model=2", strategy="zero3+tensor")
    plan = planned.plan(state, jnp.ones((16, 16)))
    found = ck.load(tmp_path / "c", jax.eval_shape(lambda: state), plan=plan)
    for name, leaf in found.items():
        assert leaf.sharding.spec == plan.leaf(f"state/{name}").spec.partition_spec()


def test_weak_types_and_steps(tmp_path):
    ck.save(tmp_path / "new", {"step": 0})
    ck.save(tmp_path / "old", {"step": jnp.asarray(5)})
    struct = jax.eval_shape(lambda: {"step": 0})
    for name, value in {"new": 0, "old": 5}.items():
        found = ck.load(tmp_path / name, struct)["step"]
        assert found.weak_type and int(found) == value
        assert ck.load(tmp_path / name, {"step": 1})["step"] == value
    assert ck.load(tmp_path / "old", mesh="d=8")["step"].weak_type
    with pytest.raises(CheckpointMismatchError, match="saved 300"):
        ck.save(tmp_path / "c", {"step": 300})
        ck.load(tmp_path / "c", {"step": jax.ShapeDtypeStruct((), np.int8)})


def test_flax_states(tmp_path):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(4, 8, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)

    model = Model(nnx.Rngs(0))
    state = nnx.state(model)
    ck.save(tmp_path / "nnx", state)
    assert_same(ck.load(tmp_path / "nnx", nnx.state(Model(nnx.Rngs(1)))), state)
    roles = {leaf.path: leaf.role for leaf in ck.metadata(tmp_path / "nnx").leaves}
    assert roles["layer/kernel/value"] is ck.Role.PARAMETER
    assert roles["dropout/rngs/key/value"] is ck.Role.RNG
    ck.save(tmp_path / "module", model)
    assert_same(nnx.state(ck.load(tmp_path / "module", Model(nnx.Rngs(1)))), state)

    kernel = nn.with_partitioning(nn.initializers.ones, ("embed", "mlp"))
    boxed = nn.Dense(8, kernel_init=kernel).init(jax.random.key(0), jnp.ones((1, 4)))
    ck.save(tmp_path / "linen", boxed)
    axes = {leaf.path: leaf.logical_axes for leaf in ck.metadata(tmp_path / "linen").leaves}
    assert axes["params/kernel/value"] == ("embed", "mlp")


def test_roles_come_from_classes(everything, tmp_path):
    ck.save(tmp_path / "c", everything)
    roles = {leaf.path: leaf.role for leaf in ck.metadata(tmp_path / "c").leaves}
    assert roles["state/params/w"] is ck.Role.PARAMETER
    assert roles["state/opt_state/1/0/mu/w"] is ck.Role.OPTIMIZER
    assert roles["state/step"] is ck.Role.STEP
    assert roles["key"] is ck.Role.RNG
    assert roles["text"] is ck.Role.OTHER


# Refusals --------------------------------------------------------------------------------------

ONE = np.ones(3)


@pytest.mark.parametrize(
    ("tree", "error"),
    [
        ({"a.b": ONE, "a": {"b": ONE}}, CheckpointKeyError),
        ({"l": [ONE], "l.0": ONE}, CheckpointKeyError),
        ({"a": ONE, "a/c": ONE}, CheckpointKeyError),
        ({"..": ONE}, CheckpointKeyError),
        ({"../x": ONE}, CheckpointKeyError),
        ({"a//b": ONE}, CheckpointKeyError),
        ({"x" * 300: ONE}, CheckpointKeyError),
        ({"_METADATA": ONE}, CheckpointKeyError),
        ({"a": {1: ONE, "1": ONE}}, CheckpointKeyError),
        ({"a": {(1, 2): ONE}}, CheckpointKeyError),
        (ONE, CheckpointKeyError),
        ({"a": object()}, CheckpointLeafError),
        ({"a": np.array(["text"])}, CheckpointLeafError),
        ({"a": np.array([object()])}, CheckpointLeafError),
        ({"a": np.zeros(2, "datetime64[s]")}, CheckpointLeafError),
        ({"a": jax.ShapeDtypeStruct((2,), np.float32)}, CheckpointLeafError),
    ],
)
def test_refused_before_a_byte_is_written(tree, error, tmp_path):
    with pytest.raises(error, match="nothing has been written"):
        ck.save(tmp_path / "c", tree)
    assert not list(tmp_path.iterdir())


def test_mismatches(tmp_path):
    ck.save(tmp_path / "c", {"params": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}})

    def load(**params):
        return ck.load(tmp_path / "c", {"params": params})

    with pytest.raises(CheckpointMismatchError) as caught:
        load(kernel=jnp.ones((3, 4)), biass=jnp.ones(3))
    assert caught.value.missing == ("params/biass",)
    assert caught.value.extra == ("params/bias",)
    assert "shape: saved [4, 3], wanted [3, 4]" in caught.value.differing["params/kernel"]
    assert "did you mean params/bias?" in str(caught.value)
    for dtype in (np.int8, np.float16, jnp.bfloat16):
        with pytest.raises(CheckpointMismatchError, match="dtype: saved float32, wanted"):
            load(kernel=jnp.ones((4, 3), dtype), bias=jnp.ones(3))
    with pytest.raises(CheckpointMismatchError, match="extra"):
        load(bias=jnp.ones(3))
    assert_same(
        ck.load(tmp_path / "c", {"params": {"bias": jnp.ones(3)}}, partial=True),
        {"params": {"bias": jnp.ones(3)}},
    )
    with pytest.raises(CheckpointMismatchError, match="PRNG keys"):
        load(kernel=jnp.ones((4, 3)), bias=jax.random.key(0))


def test_errors_are_short(tmp_path):
    ck.save(tmp_path / "c", {f"w{i}": np.ones(2) for i in range(100)})
    with pytest.raises(CheckpointMismatchError) as caught:
        ck.load(tmp_path / "c", {f"v{i}": np.ones(2) for i in range(100)})
    assert len(str(caught.value).splitlines()) <= 20
    assert len(caught.value.missing) == len(caught.value.extra) == 100


def test_casts_only_when_asked_and_never_to_nonsense(tmp_path):
    ck.save(tmp_path / "c", {"params": {"w": jnp.full((4,), 1.001)}, "n": jnp.ones(2)})
    target = {"params": {"w": jnp.ones((4,), jnp.bfloat16)}, "n": jnp.ones(2)}
    found = ck.load(tmp_path / "c", target, cast={"params/*": "bfloat16"})
    assert bits(found["params"]["w"]) == bits(jnp.full((4,), 1.001).astype(jnp.bfloat16))
    assert ck.load(tmp_path / "c", cast={"params/*": "float16"})["params"]["w"].dtype == np.float16
    with pytest.raises(CheckpointMismatchError, match="would lose what it is"):
        ck.load(tmp_path / "c", cast={"*": "int32"})
    with pytest.raises(CheckpointError, match="is no dtype"):
        ck.load(tmp_path / "c", cast={"*": "float33"})


def test_nothing_is_overwritten(tmp_path):
    ck.save(tmp_path / "c", {"a": np.ones(1)})
    with pytest.raises(CheckpointExistsError):
        ck.save(tmp_path / "c", {"a": np.zeros(1)})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointExistsError):
        ck.save(tmp_path / "file", {"a": np.zeros(1)})
    assert ck.load(tmp_path / "c")["a"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "file"]


def test_places_without_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointNotFoundError):
        ck.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(IncompleteCheckpointError):
        ck.load(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="is not above zero"):
        ck.load(tmp_path / "empty", budget_bytes=0)


def test_later_versions_are_refused(tmp_path):
    from autoshard.checkpoint._manifest import Manifest
    from autoshard.errors import CheckpointVersionError

    data = ck.save(tmp_path / "c", {"a": np.ones(1)}).to_bytes()
    later = json.loads(data) | {"schema_version": 2}
    with pytest.raises(CheckpointVersionError, match="version 2"):
        Manifest.from_bytes(json.dumps(later).encode(), Path("c"))


# Other numbers of devices, in new processes -----------------------------------------------------

CHILD = Path(__file__).with_name("reshard_child.py")


def in_new_process(devices: int, *arguments: object) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, str(CHILD), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.split()[-1]


@pytest.mark.parametrize(
    "chain", [(8, 4, 1, 16), pytest.param((8, 6, 16, 3, 8), marks=pytest.mark.slow)]
)
def test_round_trip_over_device_counts(chain, tmp_path):
    from reshard_child import MESHES, tree

    first = ck.save(tmp_path / "0", tree(MESHES[8]))
    for i, devices in enumerate(chain[1:], 1):
        digest = in_new_process(devices, tmp_path / str(i - 1), tmp_path / str(i), MESHES[devices])
        assert digest == first.digest
    assert ck.verify(tmp_path / str(len(chain) - 1)).ok


def test_dtypes_are_complete():
    assert {np.dtype(d).name for d in DTYPES} >= {"bfloat16", "int4", "uint4", "float8_e4m3fn"}
