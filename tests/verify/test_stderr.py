"""What the compiler's C++ code writes, caught and read."""

import os
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoshard.verify import capture_native_stderr, involuntary_rematerializations


def test_capture_takes_both_writers() -> None:
    with capture_native_stderr() as captured:
        print("from Python", file=sys.__stderr__)
        os.write(2, b"from C\xff\n")
    assert captured.text == "from Python\nfrom C\ufffd\n"


def test_capture_restores_the_descriptor(capfd: pytest.CaptureFixture[str]) -> None:
    before = os.fstat(2)
    for _ in range(3):
        with capture_native_stderr():
            os.write(2, b"inside")
    os.write(2, b"outside")
    assert capfd.readouterr().err == "outside"
    assert (os.fstat(2).st_dev, os.fstat(2).st_ino) == (before.st_dev, before.st_ino)


def test_capture_nests() -> None:
    with capture_native_stderr() as outer:
        os.write(2, b"a")
        with capture_native_stderr() as inner:
            os.write(2, b"b")
        os.write(2, b"c")
    assert (outer.text, inner.text) == ("ac", "b")


def test_messages_survive_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    descriptors = len(os.listdir("/dev/fd"))
    with pytest.raises(ValueError, match="boom"), capture_native_stderr() as captured:
        os.write(2, b"last words")
        raise ValueError("boom")
    assert captured.text == "last words"
    assert capfd.readouterr().err == "last words"
    assert len(os.listdir("/dev/fd")) == descriptors


def test_real_rematerialization(
    mesh_2x4: Mesh, struct: Callable[..., jax.ShapeDtypeStruct]
) -> None:
    """From P(model, -, data) to P(-, (data, model), -) at once: the partitioner gives up."""

    def f(x):
        y = jax.lax.with_sharding_constraint(jnp.sin(x), x_sharding)
        return jax.lax.with_sharding_constraint(y * 2.0, out_sharding)

    x = struct(mesh_2x4, (16, 16, 16), "model", None, "data")
    x_sharding = x.sharding
    out_sharding = NamedSharding(mesh_2x4, PartitionSpec(None, ("data", "model"), None))
    with capture_native_stderr() as captured:
        compiled = jax.jit(f).lower(x).compile()
    (found,) = involuntary_rematerializations(captured.text, compiled.as_text())
    assert found.hlo.startswith("%")
    assert "f32[4,16,8]" in found.hlo
    # In HLO's older notation, or in the one with axis names.
    assert found.source_sharding in (
        "{devices=[4,1,2]<=[2,4]T(1,0)}",
        "{mesh['data'=2,'model'=4], [{'model'}, {}, {'data'}]}",
    )
    assert found.target_sharding in (
        "{devices=[1,8,1]<=[8]}",
        "{mesh['data'=2,'model'=4], [{}, {'data', 'model'}, {}]}",
    )
    assert found.op_name.startswith("jit(f)/")
    assert found.source_file == __file__
    assert 0 < found.source_line - f.__code__.co_firstlineno <= 2


def test_no_rematerialization(mesh_2x4: Mesh, struct: Callable[..., jax.ShapeDtypeStruct]) -> None:
    with capture_native_stderr() as captured:
        jax.jit(jnp.tanh).lower(struct(mesh_2x4, (16, 16), "data")).compile()
    assert involuntary_rematerializations(captured.text) == ()


def test_rematerialization_without_frames() -> None:
    warning = (
        "W0101 00:00:00.000000 1 spmd_partitioner.cc:1] [SPMD] Involuntary full rematerialization. "
        'The compiler cannot go from sharding {devices=[2,1]<=[2] metadata={op_name="a"}} to '
        "{replicated} efficiently for HLO operation %r.1 = f32[2]{0} copy(%x), "
        'metadata={op_name="jit(f)/w[\\\'b\\\']" source_file="m.py" source_line=9}. '
        "As the last resort, SPMD will replicate the tensor.\nother output\n"
    )
    found = involuntary_rematerializations(f"before\n{warning}{warning}")
    assert len(found) == 2
    assert found[0].op_name == "jit(f)/w['b']"
    assert (found[0].source_file, found[0].source_line) == ("m.py", 9)
    assert found[0].source_sharding == '{devices=[2,1]<=[2] metadata={op_name="a"}}'
    assert found[0].target_sharding == "{replicated}"
