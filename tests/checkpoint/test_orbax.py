"""Stock orbax, and zarr-python, read what is saved, without this package."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as orbax
import orbax.checkpoint.experimental.v1 as orbax_v1
import pytest
from checkpoint_trees import assert_same, bits, mesh, on, random_array

import autoshard.checkpoint as ck

# What only the manifest holds (orbax finds None there), and what orbax's v0 has no type for.
MANIFEST_ONLY = ("empty", "huge", "flag", "wave", "bytes", "numpy")


@pytest.fixture(scope="module")
def saved(everything, tmp_path_factory):
    path = tmp_path_factory.mktemp("orbax") / "c"
    ck.save(path, everything)
    return path


def orbaxs(tree):
    """The part of a tree that orbax holds; None elsewhere."""
    uint4 = lambda name, x: None if name == "uint4" else x
    return {
        **tree,
        **dict.fromkeys(MANIFEST_ONLY),
        "big": tree["big"].astype("f4"),
        "dtypes": {k: uint4(k, v) for k, v in tree["dtypes"].items()},
        "jax": {k: uint4(k, v) for k, v in tree["jax"].items()},
    }


def test_v1_with_a_target(saved, everything):
    wanted = orbaxs(everything)
    assert_same(orbax_v1.load(saved, wanted), wanted)


def test_v0_with_a_target(saved, everything):
    wanted = {k: v for k, v in orbaxs(everything).items() if k != "text"}
    everywhere = {**wanted, "text": None}
    handler = orbax.PyTreeCheckpointer()
    arguments = orbax.checkpoint_utils.construct_restore_args(everywhere)
    found = handler.restore(saved / "state", item=everywhere, restore_args=arguments)
    found.pop("text")
    assert_same(found, wanted)


@pytest.mark.parametrize("reader", [orbax.StandardCheckpointer, orbax.PyTreeCheckpointer])
def test_v0_without_a_target(reader, saved, everything):
    found = reader().restore(saved / "state")
    assert bits(found["state"]["params"]["w"]) == bits(np.asarray(everything["state"].params["w"]))
    assert found["step"] == 7 and found["nothing"] == {"list": [], "tuple": (), "dict": {}}


def test_v1_without_a_target(saved, everything):
    found = orbax_v1.load(saved)
    wanted = orbaxs(everything)["dtypes"]
    assert wanted is not None
    for name, array in wanted.items():
        if array is not None:
            assert bits(found["dtypes"][name]) == bits(array)


def test_onto_other_meshes(tmp_path):
    whole = random_array((1000, 520), np.float32)
    ck.save(tmp_path / "c", {"w": jax.device_put(whole, on(mesh("a=8"), "a")), "b": jnp.ones(3)})
    wanted = jax.ShapeDtypeStruct(whole.shape, whole.dtype, sharding=on(mesh("x=2,y=4"), "x", "y"))
    target = {"w": wanted, "b": jax.ShapeDtypeStruct((3,), np.float32, sharding=on(mesh("x=1")))}
    for found in (
        orbax_v1.load(tmp_path / "c", target),
        orbax.StandardCheckpointer().restore(tmp_path / "c" / "state", target),
    ):
        assert found["w"].sharding == wanted.sharding
        assert bits(found["w"]) == bits(whole)


def test_zarr_opens_a_leaf(saved, everything):
    zarr = pytest.importorskip("zarr")
    found = zarr.open_array(str(saved / "state" / "state.params.w"), mode="r")
    assert bits(found[:]) == bits(np.asarray(everything["state"].params["w"]))
    wide = zarr.open_array(str(saved / "state" / "wide"), mode="r")
    assert bits(wide[:]) == bits(everything["wide"])


def test_orbax_finds_flipped_bits(tmp_path, capfd):
    ck.save(tmp_path / "c", {"w": random_array((600, 600), np.float32)})
    file = tmp_path / "c" / "state" / "w" / "c" / "0" / "0"
    data = bytearray(file.read_bytes())
    data[1234] ^= 4
    file.write_bytes(data)
    with pytest.raises(Exception, match=r"DATA_LOSS|[Dd]igest|CRC"):
        orbax_v1.load(tmp_path / "c")
    capfd.readouterr()  # orbax's event loop complains at length


OLDER = """
import json, sys
import jax, numpy as np
import orbax.checkpoint as orbax
found = orbax.PyTreeCheckpointer().restore(sys.argv[1])
print(orbax.__version__, json.dumps(np.asarray(found["state"]["params"]["w"]).tolist()))
"""


@pytest.mark.external
@pytest.mark.parametrize("version", ["0.11.40", "0.12.0", "0.12.8"])
def test_supported_versions(version, saved, everything, tmp_path):
    """Each in a folder of its own, over the packages that are here."""
    folder = tmp_path / "packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    done = subprocess.run(
        [*install, str(folder), f"orbax-checkpoint=={version}"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"orbax-checkpoint {version} cannot be had here")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", OLDER, str(saved / "state")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found, _, values = done.stdout.splitlines()[-1].partition(" ")
    assert found == version
    assert json.loads(values) == everything["state"].params["w"].tolist()
