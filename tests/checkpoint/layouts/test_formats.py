"""Files of other programs: read piece by piece, written so that those programs read them."""

import json
import pickle
import struct
import zipfile
from typing import Any

import flax.serialization
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from autoshard.checkpoint import TensorInfo
from autoshard.checkpoint.layouts import formats
from autoshard.errors import (
    CheckpointExistsError,
    CheckpointLeafError,
    ConversionError,
    ForeignFileError,
    UnsafePickleError,
)


@pytest.fixture
def arrays(rng):
    return {
        "a/b": rng.normal(size=(100, 50)).astype(np.float32),
        "bf": rng.normal(size=(30, 40, 5)).astype(ml_dtypes.bfloat16),
        "c": np.arange(7, dtype=np.int8),
        "empty": np.zeros((0, 3), np.float16),
        "f8": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
        "flag": np.array([True, False]),
        "scalar": np.array(3.5, np.float32),
    }


def write(sink, arrays):
    with sink:
        for name, array in arrays.items():
            sink.declare(name, TensorInfo(shape=array.shape, dtype=array.dtype))
        for name, array in arrays.items():
            for index in sink.pending(name):
                sink.write(name, index, array[index])
        sink.commit()


SINKS = {
    "x.safetensors": (formats.SafetensorsSink, formats.open_safetensors),
    "x.npz": (formats.NpzSink, formats.open_npz),
    "x.msgpack": (formats.MsgpackSink, formats.open_msgpack),
    "x.pt": (formats.TorchSink, formats.open_torch),
}


@pytest.mark.parametrize("file", SINKS)
@pytest.mark.parametrize("block_bytes", [64, 1000, 1 << 20])
def test_written_and_read(file, block_bytes, arrays, kit, tmp_path, rng):
    sink, opened = SINKS[file]
    write(sink(tmp_path / file, block_bytes=block_bytes), arrays)
    source = opened(tmp_path / file)
    kit.same_bits(kit.contents(source), arrays)
    for name, array in arrays.items():
        for _ in range(8):
            low = [int(rng.integers(0, n + 1)) for n in array.shape]
            index = tuple(
                slice(a, int(rng.integers(a, n + 1))) for a, n in zip(low, array.shape, strict=True)
            )
            kit.same_bits({name: source.read(name, index)}, {name: np.array(array[index])})
    source.close()
    assert [p.name for p in tmp_path.iterdir()] == [file]


def test_columns_are_read_alone(arrays, kit, tmp_path):
    wide = np.arange(1000 * 5000, dtype=np.float32).reshape(1000, 5000)
    write(formats.SafetensorsSink(tmp_path / "x.safetensors"), {"wide": wide})
    source = formats.open_safetensors(tmp_path / "x.safetensors")
    before = source.pool.bytes_read
    piece = source.read("wide", (slice(0, 1000), slice(100, 600)))
    np.testing.assert_array_equal(piece, wide[:, 100:600])
    assert source.pool.bytes_read - before == piece.nbytes


def test_shards_and_their_index(arrays, kit, tmp_path):
    sink = formats.SafetensorsSink(tmp_path / "hf", max_shard_bytes=15000)
    sink.describe({"config": {"model_type": "x"}})
    write(sink, arrays)
    names = sorted(p.name for p in (tmp_path / "hf").iterdir())
    assert names == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    source = formats.open_safetensors(tmp_path / "hf")
    kit.same_bits(kit.contents(source), arrays)
    assert source.metadata()["config"] == {"model_type": "x"}
    (tmp_path / "hf/model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ForeignFileError, match="which is not there"):
        formats.open_safetensors(tmp_path / "hf")


def test_numpy_reads_npz(arrays, tmp_path):
    write(formats.NpzSink(tmp_path / "x.npz"), arrays)
    assert zipfile.ZipFile(tmp_path / "x.npz").testzip() is None
    with np.load(tmp_path / "x.npz") as found:
        np.testing.assert_array_equal(found["a/b"], arrays["a/b"])
        np.testing.assert_array_equal(found["scalar"], arrays["scalar"])
        np.testing.assert_array_equal(found["bf"].view(ml_dtypes.bfloat16), arrays["bf"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_numpy(save, kit, tmp_path, rng):
    arrays = {"x": rng.normal(size=(64, 32)), "f": np.asfortranarray(rng.normal(size=(5, 6)))}
    save(tmp_path / "x.npz", **arrays)
    source = formats.open_npz(tmp_path / "x.npz")
    kit.same_bits(kit.contents(source), {k: np.ascontiguousarray(v) for k, v in arrays.items()})
    for index in [(slice(40, 50), slice(3, 9)), (slice(2, 4), slice(0, 32))]:
        np.testing.assert_array_equal(source.read("x", index), arrays["x"][index])


def test_objects_in_npz_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([{}], object))
    with pytest.raises(ForeignFileError, match="pickled objects"):
        formats.open_npz(tmp_path / "x.npz")


def test_flax_reads_msgpack(arrays, tmp_path):
    write(formats.MsgpackSink(tmp_path / "x.msgpack"), arrays)
    found = flax.serialization.msgpack_restore((tmp_path / "x.msgpack").read_bytes())
    np.testing.assert_array_equal(found["a"]["b"], arrays["a/b"])
    np.testing.assert_array_equal(found["bf"], arrays["bf"])


def test_msgpack_of_flax(arrays, kit, tmp_path, monkeypatch):
    tree = {"a": {"b": arrays["a/b"]}, **{k: v for k, v in arrays.items() if k != "a/b"}}
    path = tmp_path / "x.msgpack"
    path.write_bytes(flax.serialization.to_bytes({**tree, "step": 3, "none": None}))
    source = formats.open_msgpack(path)
    kit.same_bits(kit.contents(source), arrays)
    assert source.values() == {"step": 3, "none": None}
    # Large arrays come in chunks; here all are large.
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 1000)
    path.write_bytes(flax.serialization.to_bytes(tree))
    source = formats.open_msgpack(path)
    kit.same_bits(kit.contents(source), arrays)
    piece = source.read("a/b", (slice(3, 60), slice(7, 40)))
    np.testing.assert_array_equal(piece, arrays["a/b"][3:60, 7:40])


@pytest.mark.parametrize("ocdbt", [True, False])
@pytest.mark.parametrize("zarr3", [True, False])
def test_plain_orbax(ocdbt, zarr3, kit, tmp_path):
    tree: dict[str, Any] = {
        "params": {"w": np.arange(12, dtype=np.float32).reshape(3, 4)},
        "list": [np.arange(3), np.arange(4, dtype=np.int16)],
        "nothing": None,
    }
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=zarr3)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "orbax", tree)
    source = formats.OrbaxSource(tmp_path / "orbax")
    wanted = {"params/w": tree["params"]["w"], "list/0": tree["list"][0], "list/1": tree["list"][1]}
    kit.same_bits(kit.contents(source), wanted)
    piece = source.read("params/w", (slice(1, 3), slice(2, 4)))
    np.testing.assert_array_equal(piece, wanted["params/w"][1:, 2:])
    source.close()


class Attack:
    """Would run a program where it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit",))


def torch_file(path, pickled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", b"3\n")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (pickle.dumps(Attack()), "the global builtins.exec"),
        (pickle.dumps(Attack(), 0), "the global __builtin__.exec"),
        (pickle.dumps({"a": np.float32}), "the global numpy.float32"),
        (b"cos\nsystem\n(S'true'\ntR.", "the global os.system"),
        (b"(S'true'\nios\nsystem\n.", "the opcode INST"),
        (b"\x80\x02cbuiltins\nint\n(tR.", "a call of builtins.int"),
        (b"\x80\x02\x82\x01.", "the opcode EXT1"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.", "state for Global"),
    ],
)
def test_pickles_that_hold_more_than_tensors(content, names, tmp_path):
    torch_file(tmp_path / "x.pt", content)
    with pytest.raises(UnsafePickleError, match=names) as info:
        formats.open_torch(tmp_path / "x.pt")
    assert info.value.exit_code == 3


@pytest.mark.parametrize("kind", ["ctorch\nTensor\n", "ccollections\nOrderedDict\n"])
def test_tensors_with_attributes_are_made_of_tensors(kind, tmp_path):
    """What rebuilds them may be nothing but a tensor's own function."""
    made = f"ctorch._tensor\n_rebuild_from_type_v2\n(ccollections\nOrderedDict\n{kind})}}tR."
    torch_file(tmp_path / "x.pt", b"\x80\x02" + made.encode())
    with pytest.raises(ForeignFileError, match="which is no tensor of torch"):
        formats.open_torch(tmp_path / "x.pt")


def test_objects_that_a_layout_leaves_out(tmp_path):
    torch_file(tmp_path / "x.pt", pickle.dumps({"a": 1, "scaler": Attack()}, 2))
    source = formats.open_torch(tmp_path / "x.pt", opaque=["__builtin__.exec"])
    assert source.values() == {"a": 1}


def test_bytes_that_are_no_pickle(tmp_path, rng):
    for seed in range(200):
        torch_file(tmp_path / "x.pt", np.random.default_rng(seed).bytes(200))
        with pytest.raises(ForeignFileError):
            formats.open_torch(tmp_path / "x.pt")


def test_transposed_tensors(kit, tmp_path, rng):
    w = rng.normal(size=(6, 8)).astype(np.float32)
    kit.torch_save(tmp_path / "x.pt", {"w": w, "t": w.T, "deep": [{"w": w[:2]}]})
    source = formats.open_torch(tmp_path / "x.pt")
    kit.same_bits(kit.contents(source), {"w": w, "t": np.ascontiguousarray(w.T), "deep/0/w": w[:2]})
    np.testing.assert_array_equal(source.read("t", (slice(2, 5), slice(1, 3))), w.T[2:5, 1:3])


def header(entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"abc", "too short"),
        (struct.pack("<Q", 2**60) + b"{}", "announces a header"),
        (struct.pack("<Q", 3) + b"{x}", "no JSON"),
        (
            header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}) + bytes(4),
            "not as",
        ),
        (header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}), "should have"),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}) + bytes(8), "a gap"),
        (header({"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 1]}}) + bytes(1), "Q4"),
        (header({"a": {"shape": [1]}}), "describes a as"),
        (struct.pack("<Q", 14) + b'{"a":{},"a":{}', "no JSON"),
    ],
)
def test_safetensors_that_are_damaged(data, says, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ForeignFileError, match=says) as info:
        formats.open_safetensors(tmp_path / "x.safetensors")
    assert info.value.exit_code == 3


@pytest.mark.parametrize("file", ["x.npz", "x.pt"])
def test_flipped_bits_under_a_zip_checksum(file, arrays, kit, tmp_path, rng):
    """Every bit of an array counts; torch itself reads such files without a word."""
    sink, opened = SINKS[file]
    values = {"a": arrays["a/b"]}
    write(sink(tmp_path / file), values)
    good = (tmp_path / file).read_bytes()
    start = good.index(values["a"].tobytes())
    for _ in range(100):
        data = bytearray(good)
        data[start + int(rng.integers(values["a"].nbytes))] ^= 1 << int(rng.integers(8))
        (tmp_path / file).write_bytes(data)
        with pytest.raises(ForeignFileError, match="checksum"):
            kit.contents(opened(tmp_path / file))


def test_nothing_is_overwritten(arrays, tmp_path):
    (tmp_path / "x.npz").write_text("mine")
    with pytest.raises(CheckpointExistsError):
        formats.NpzSink(tmp_path / "x.npz")
    sink = formats.NpzSink(tmp_path / "y.npz")
    sink.declare("c", TensorInfo(shape=(7,), dtype=np.dtype(np.int8)))
    sink.write("c", (slice(0, 7),), arrays["c"])
    (tmp_path / "y.npz").write_text("theirs, meanwhile")
    with pytest.raises(CheckpointExistsError):
        sink.commit()
    sink.abort()
    assert (tmp_path / "y.npz").read_text() == "theirs, meanwhile"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npz", "y.npz"]


def test_tensors_that_are_not_whole(tmp_path):
    sink = formats.NpzSink(tmp_path / "x.npz")
    sink.declare("c", TensorInfo(shape=(7,), dtype=np.dtype(np.int8)))
    sink.write("c", (slice(0, 3),), np.zeros(3, np.int8))
    with pytest.raises(ConversionError, match="3 of 7 elements"):
        sink.commit()
    sink.abort()
    assert not list(tmp_path.iterdir())


def test_types_that_a_format_does_not_have(tmp_path):
    sink = formats.SafetensorsSink(tmp_path / "x.safetensors")
    sink.declare("x", TensorInfo(shape=(2,), dtype=np.dtype(np.complex128)))
    with pytest.raises(CheckpointLeafError, match="complex128"):
        sink.pending("x")
    sink.abort()
