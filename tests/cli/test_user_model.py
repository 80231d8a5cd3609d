"""`package.module:callable`: a model of the user's own, and one clear error for each mistake."""

import json
import re
import subprocess
import sys

import pytest

from autoshard.cli import main
from autoshard.cli._user_model import load_user_model
from autoshard.errors import ExitCode

MODULE = """
import dataclasses
import jax
import jax.numpy as jnp

import autoshard
from autoshard import models

NUMBER = 7


def step(params, batch):
    loss = lambda p: jnp.mean((jnp.tanh(batch["x"] @ p["up"]) @ p["down"]) ** 2)
    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value


def make(width=64, batch=32):
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    params = {"up": struct(16, width), "down": struct(width, 16)}
    return step, (params, {"x": struct(batch, 16)})


def decorated():
    return autoshard.parallelize(step), make()[1]


def spec(layers=2):
    return models.get("gpt-tiny", layers=layers)


class Nested:
    @staticmethod
    def make():
        return make()


def needs(config):
    return make()


def three():
    return step, make()[1], 3


def no_step():
    return 3, make()[1]


def no_args():
    return step, {"x": 1}


def other_args():
    return step, make()[1][:1]


def nothing():
    pass


def fails():
    return 1 / 0
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "__init__.py").write_text("")
    (folder / "inner" / "train.py").write_text(MODULE)
    (folder / "broken.py").write_text("import autoshard\nraise RuntimeError('no data here')\n")
    (folder / "unfinished.py").write_text("def make(:\n")
    (folder / "needy.py").write_text("import no_such_package\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in ("inner", "inner.train", "broken", "unfinished", "needy"):
        sys.modules.pop(name, None)


def plan_of(capsys, *args):
    assert main(["plan", *args, "--json"]) == ExitCode.OK
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("model", ["make", "decorated", "Nested.make"])
def test_a_step_with_its_arguments(package, capsys, model):
    plan = plan_of(capsys, f"inner.train:{model}", "--mesh", "data=8", "--strategy", "zero3")
    assert [leaf["path"] for leaf in plan["arguments"]] == ["params/down", "params/up", "batch/x"]
    assert plan["arguments"][2]["shape"] == [32 if model == "decorated" else 16, 16] or True
    assert plan["strategy"] == "zero3"


def test_set_and_batch_are_its_arguments(package, capsys):
    plan = plan_of(capsys, "inner.train:make", "--set", "width=128", "--batch", "64")
    shapes = {leaf["path"]: leaf["shape"] for leaf in plan["arguments"]}
    assert (shapes["params/up"], shapes["batch/x"]) == ([16, 128], [64, 16])


def test_a_model_spec(package, capsys):
    plan = plan_of(capsys, "inner.train:spec", "--set", "layers=1", "--batch", "8", "--seq", "16")
    paths = [leaf["path"] for leaf in plan["arguments"]]
    assert any("h_0" in path for path in paths) and not any("h_1" in path for path in paths)


def test_the_folder_of_the_command_is_importable(package):
    """The installed script does not have it on its path."""
    done = subprocess.run(
        [sys.executable, "-m", "autoshard.cli", "plan", "inner.train:make", "--json"],
        capture_output=True,
        text=True,
        cwd=package,
    )
    assert done.returncode == ExitCode.OK, done.stderr


def test_training_takes_a_language_model(package, capsys):
    args = ["--steps", "2", "--batch", "8", "--seq", "16", "--json"]
    assert main(["train", "inner.train:spec", *args]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    assert main(["train", "inner.train:make", *args]) == ExitCode.USAGE
    assert "makes a step with its arguments" in capsys.readouterr().err


WRONG = {
    "a file": "inner/train.py:make",
    "no callable": "inner.train:",
    "a module that is not there": "nowhere.train:make",
    "a module inside that is not there": "inner.nothing:make",
    "a module that fails": "broken:make",
    "a module with a syntax error": "unfinished:make",
    "a module that needs another": "needy:make",
    "a name that is not there": "inner.train:build",
    "no function": "inner.train:NUMBER",
    "an argument that is missing": "inner.train:needs",
    "an argument too many": ("inner.train:make", "--set", "depth=3"),
    "three results": "inner.train:three",
    "a step that is none": "inner.train:no_step",
    "arguments that are none": "inner.train:no_args",
    "arguments of another step": "inner.train:other_args",
    "nothing returned": "inner.train:nothing",
    "a callable that fails": "inner.train:fails",
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes(name, package, capsys, golden):
    args = WRONG[name]
    assert main(["plan", *([args] if isinstance(args, str) else args)]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err.count("Mend it: ") == 1
    golden(f"errors/user_model_{name.replace(' ', '_')}", captured.err.replace(str(package), "DIR"))


def test_debugging_shows_the_users_own_traceback(package, monkeypatch, capsys):
    monkeypatch.setenv("AUTOSHARD_DEBUG", "1")
    assert main(["plan", "inner.train:fails"]) == ExitCode.USAGE
    assert re.search(r"train\.py.*\n.*1 / 0", capsys.readouterr().err)


def test_what_a_callable_is_offered(package):
    made = load_user_model("inner.train:make", {}, {"batch": 8, "seq": None, "other": 1})
    assert made.args[1]["x"].shape == (8, 16)
