"""Plans on disk: whole or not at all, refused where anything is wrong, and easy to compare."""

import dataclasses
import difflib
import json
import os
import stat

import jax
import jax.numpy as jnp
import pytest

import autoshard
from autoshard.errors import (
    AutoshardError,
    ExitCode,
    MissingPlanError,
    PlanFileError,
    PlanSchemaError,
    PlanWriteError,
)
from autoshard.plan import MeshShape, Plan, replay
from autoshard.plan import _file_write as file_write
from autoshard.recipes import plan_by_recipe

MESH = MeshShape(("data", "model"), (2, 4))


def step(params, batch):
    def loss(p):
        hidden = jax.nn.relu(batch["x"] @ p["up"] + p["bias"][None])
        return jnp.mean((hidden @ p["down"] - batch["y"]) ** 2)

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value


@pytest.fixture
def program(ruled):
    params = {"up": (16, 64), "bias": (64,), "down": (64, 16)}
    return ruled(step, params, {"x": (32, 16), "y": (32, 16)}).program


@pytest.fixture
def plan(program):
    return plan_by_recipe(program, MESH, "zero3+tensor")


@pytest.fixture
def file(plan, tmp_path):
    path = tmp_path / "plan.json"
    plan.save(path)
    return path


def test_everything_comes_back(plan, program, file):
    loaded = autoshard.load_plan(file)
    assert plan.constraints and plan.reductions
    assert replay(loaded, program, MESH) == plan
    assert loaded.arguments == plan.arguments
    assert loaded.explain() == plan.explain()
    assert loaded.versions["jax"] == jax.__version__
    assert Plan.load(file) == loaded


def test_a_loaded_plan_is_written_as_it_was(plan, file, tmp_path):
    again = tmp_path / "again.json"
    autoshard.load_plan(file).save(again)
    assert again.read_bytes() == file.read_bytes()


def test_the_file_holds_all_fields_of_a_plan():
    """A field that is added to a plan has to be added to its file."""
    assert {field.name for field in dataclasses.fields(Plan)} == {
        *("name", "mesh", "strategy", "arguments", "results", "constraints", "regathers"),
        *("reductions", "notes", "origin", "versions"),
    }


def test_a_changed_spec_is_a_changed_line(program, file, tmp_path):
    other = tmp_path / "other.json"
    plan_by_recipe(program, MESH, "zero3@data,model").save(other)
    lines = difflib.unified_diff(
        file.read_text().splitlines(), other.read_text().splitlines(), n=0, lineterm=""
    )
    changed = [line for line in lines if line.startswith("+  ") and '"path": "params/down"' in line]
    (line,) = changed
    assert json.loads(line[1:].strip().rstrip(","))["spec"] == [["data", "model"], None]


def test_the_text_is_the_same_every_time(plan, file):
    before = file.read_bytes()
    plan.save(file)  # an earlier plan is replaced
    assert file.read_bytes() == before
    assert stat.S_IMODE(file.stat().st_mode) & 0o400
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_files_have_the_rights_that_the_umask_gives(plan, tmp_path):
    old = os.umask(0o022)
    try:
        plan.save(tmp_path / "shared.json")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "shared.json").stat().st_mode) == 0o644


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_failed_write_leaves_what_was_there(plan, file, monkeypatch, moment):
    before = file.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        file_write.os, {"write": "fsync", "fsync": "fsync", "replace": "replace"}[moment], fail
    )
    with pytest.raises(PlanWriteError, match="no space left on device"):
        plan.save(file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_other_files_are_left_alone(plan, tmp_path):
    source = tmp_path / "model.py"
    source.write_text("print('hello')\n")
    with pytest.raises(PlanWriteError, match="is no plan"):
        plan.save(source)
    assert source.read_text() == "print('hello')\n"
    with pytest.raises(PlanWriteError, match="it is no file"):
        plan.save(tmp_path)
    with pytest.raises(PlanWriteError, match="no such file or directory"):
        plan.save(tmp_path / "missing" / "plan.json")


def test_a_plan_without_a_program_cannot_be_saved(tmp_path):
    plan = Plan(name="step", mesh=MESH, strategy="dp", arguments=(), results=())
    with pytest.raises(PlanWriteError, match="without a program"):
        plan.save(tmp_path / "plan.json")
    assert not list(tmp_path.iterdir())


def test_a_missing_file(tmp_path):
    with pytest.raises(MissingPlanError) as caught:
        autoshard.load_plan(tmp_path / "plan.json")
    assert caught.value.exit_code == ExitCode.USAGE


def test_every_truncation_is_refused(file):
    whole = file.read_text()
    for length in [*range(0, len(whole) - 2, 97), len(whole) - 2]:
        file.write_text(whole[:length])
        with pytest.raises(PlanFileError) as caught:
            autoshard.load_plan(file)
        assert caught.value.exit_code == ExitCode.CORRUPT_DATA
        assert "Mend it: " in str(caught.value)


FOREIGN = {
    "empty": b"",
    "no text": b"\x93NUMPY\x01\x00\xff\xfe",
    "no json": b"[model]\nlayers = 3\n",
    "a list": b"[1, 2]",
    "another object": b'{"name": "train_step", "mesh": "data=8"}',
    "deep": b"[" * 100_000,
    "nan": b"NaN",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files_are_refused(content, tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(PlanFileError) as caught:
        autoshard.load_plan(path)
    assert caught.value.exit_code == ExitCode.CORRUPT_DATA


def test_a_newer_schema_is_refused_before_its_fields_are_read(file):
    record = json.loads(file.read_text())
    record |= {"schema_version": 2, "versions": {"autoshard": "9.1"}, "pipeline": {}}
    file.write_text(json.dumps(record))
    with pytest.raises(PlanSchemaError, match=r"autoshard 9\.1 wrote it with schema version 2"):
        autoshard.load_plan(file)
    assert PlanSchemaError.exit_code == ExitCode.MISMATCH


def leaf(record, path):
    return next(x for x in record["arguments"] if x["path"] == path)


BREAKS = {
    "a field is gone": lambda r: r.pop("results"),
    "a field is new": lambda r: r.update(extra=[]),
    "a leaf has an unknown field": lambda r: leaf(r, "params/up").update(specs=[]),
    "the mesh is a text": lambda r: r.update(mesh="data=8"),
    "the mesh has a size zero": lambda r: r.update(mesh=[["data", 0], ["model", 4]]),
    "an axis is unknown": lambda r: leaf(r, "params/up").update(spec=["rows", None]),
    "an axis is used twice": lambda r: leaf(r, "params/up").update(spec=["data", "data"]),
    "a spec has another rank": lambda r: leaf(r, "params/up").update(spec=["data"]),
    "an axis does not divide": lambda r: leaf(r, "params/up").update(array=["float32", 15, 64]),
    "a size is a float": lambda r: leaf(r, "params/up").update(array=["float32", 16.0, 64]),
    "a size is negative": lambda r: leaf(r, "params/up").update(array=["float32", -16, 64]),
    "a size is true": lambda r: r.update(mesh=[["data", True], ["model", 4]]),
    "state changes its spec": lambda r: leaf(r, "params/up").update(spec=["data", None]),
    "a chain is empty": lambda r: r["constraints"][0].update(chain=[]),
    "a constraint has two sides": lambda r: r["constraints"][0].update(operand=0, result=0),
    "a constraint stands twice": lambda r: r["constraints"].insert(1, r["constraints"][0]),
    "a reduce-scatter stands twice": lambda r: r["reductions"].append(r["reductions"][0]),
    "two leaves have one id": lambda r: r["arguments"][1].update(id=r["arguments"][0]["id"]),
    "a leaf has no array": lambda r: leaf(r, "params/up").update(array=[]),
    "a signature has no count": lambda r: r["program"]["signatures"][0].pop(),
    "the schema has no version": lambda r: r.pop("schema_version"),
    "the schema is of version zero": lambda r: r.update(schema_version=0),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_by_hand_is_refused(name, file, golden):
    record = json.loads(file.read_text())
    BREAKS[name](record)
    file.write_text(json.dumps(record))
    with pytest.raises(PlanFileError) as caught:
        autoshard.load_plan(file)
    assert caught.value.exit_code == ExitCode.CORRUPT_DATA
    text = str(caught.value).replace(str(file), "plan.json")
    golden(f"errors/plan_file_{name.replace(' ', '_')}", text)


def test_a_field_that_stands_twice_is_refused(file):
    file.write_text(file.read_text().replace('"strategy":', '"function": "f",\n"strategy":', 1))
    with pytest.raises(PlanFileError, match="the field 'function' twice"):
        autoshard.load_plan(file)


def first(record, primitive, section="constraints"):
    return next(x for x in record[section] if x["op"].startswith(primitive))


MISFITS = {
    "an operand that is not there": lambda r: r["constraints"][0].update(
        {next(k for k in ("operand", "result") if k in r["constraints"][0]): 7}
    ),
    "a chain of another rank": lambda r: r["constraints"][0].update(chain=[[None] * 5]),
    "a sum over the wrong axes": lambda r: r["reductions"][0].update(axes=["model"]),
    "a sum that leaves an axis out": lambda r: r["reductions"][0].update(axes=[]),
    "operands that are not cut": lambda r: r["reductions"][0].update(
        operands=[[None, None], [None, None]]
    ),
    "a result cut elsewhere": lambda r: r["reductions"][0].update(
        dim=1 - r["reductions"][0]["dim"]
    ),
    "a dimension that is not there": lambda r: r["reductions"][0].update(dim=9),
    "an operand too many": lambda r: r["reductions"][0]["operands"].append([None, None]),
    "an op that is no sum": lambda r: r["reductions"][0].update(
        op=first(r, "add")["op"] if any(x["op"].startswith("add") for x in r["constraints"])
        else r["arguments"][0]["id"]
    ),
    "a leaf of another shape": lambda r: [
        x.update(array=["float32", 32, 64]) for x in (leaf(r, "params/up"), r["results"][2])
    ],
    "an op that is not there": lambda r: r["constraints"][0].update(op="dot_general/0123/0"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_lines_that_do_not_fit_their_op_are_refused(name, file, program):
    """A wrong sum would give wrong numbers; all else would be a plan that nobody made."""
    record = json.loads(file.read_text())
    MISFITS[name](record)
    file.write_text(json.dumps(record))
    with pytest.raises(AutoshardError) as caught:
        replay(autoshard.load_plan(file), program, MESH)
    assert caught.value.exit_code in (ExitCode.CORRUPT_DATA, ExitCode.MISMATCH)
    assert "Mend it: " in str(caught.value)
