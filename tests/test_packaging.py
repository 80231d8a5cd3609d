"""The package installs whole, under one name, and imports lazily."""

import importlib
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import autoshard

ROOT = Path(__file__).parent.parent
# Folder of the checkout -> its place in the import package.
FOLDERS = {"autoshard": "", "cli": "cli/", "cost_model": "cost_model/", "models": "models/"}


def modules() -> list[str]:
    return [m.name for m in pkgutil.walk_packages(autoshard.__path__, "autoshard.")]


def files_of_the_package() -> Iterator[str]:
    """Every file in the four folders, by its place in the installed package."""
    for folder, place in FOLDERS.items():
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"autoshard/{place}{file.relative_to(ROOT / folder).as_posix()}"


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("module", ["autoshard", "autoshard.cli", "autoshard.cost_model"])
def test_import_leaves_jax_unloaded(module: str) -> None:
    loaded = python(f"import sys, {module}; print([m for m in sys.modules if 'jax' in m])")
    assert loaded == "[]"


def test_dir_and_version_leave_jax_unloaded() -> None:
    code = (
        "import sys, autoshard; dir(autoshard), autoshard.__version__; print('jax' in sys.modules)"
    )
    assert python(code) == "False"


@pytest.mark.parametrize("name", autoshard.__all__)
def test_public_name_resolves(name: str) -> None:
    assert name in dir(autoshard)
    assert getattr(autoshard, name).__name__ == name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'autoshard' has no attribute 'no_such_name'"):
        autoshard.no_such_name  # noqa: B018  # pyright: ignore


def test_no_submodule_shadows_a_public_name() -> None:
    children = {m.name for m in pkgutil.iter_modules(autoshard.__path__)}
    assert not children & set(autoshard.__all__)


def test_type_checkers_see_every_public_name() -> None:
    text = (ROOT / "autoshard/__init__.py").read_text(encoding="utf-8")
    for name, module in autoshard._EXPORTS.items():
        assert f"from {module} import {name} as {name}\n" in text


@pytest.mark.parametrize("module", modules())
def test_module_imports(module: str) -> None:
    importlib.import_module(module)


def test_folders_have_init_files() -> None:
    """A folder without one would silently be left out of the wheel."""
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), file


@pytest.mark.slow
def test_wheel_works_elsewhere(tmp_path: Path) -> None:
    """Built and installed into an empty environment, run from another folder."""
    wheel = build_wheel(tmp_path)
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert packed == set(files_of_the_package())

    target = tmp_path / "venv"
    venv.create(target, with_pip=False, symlinks=True)
    interpreter = target / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", interpreter, "install", "--no-deps", wheel],
        check=True,
    )
    # The dependencies are those of the running interpreter, by path: nothing is downloaded. This
    # project's own editable install is not among them, for .pth files there are not read.
    query = "import sysconfig, json; print(json.dumps(sysconfig.get_paths()))"
    ask = [interpreter, "-c", query]
    purelib = json.loads(subprocess.run(ask, check=True, capture_output=True).stdout)["purelib"]
    here = [p for p in sys.path if p.endswith("site-packages")]
    Path(purelib, "dependencies.pth").write_text("\n".join(here), encoding="utf-8")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = subprocess.run(
        [target / "bin" / "autoshard", "--help"],
        cwd=elsewhere,
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "train" in run.stdout
    code = (
        "import importlib, autoshard\n"
        f"assert autoshard.__path__[0].startswith({str(target)!r}), autoshard.__path__\n"
        f"for module in {modules()}: importlib.import_module(module)\n"
    )
    subprocess.run([interpreter, "-c", code], check=True, cwd=elsewhere, env=env)


def build_wheel(folder: Path) -> Path:
    """Build from a copy of the sources, so that no `build/` is left in the checkout."""
    source = folder / "source"
    source.mkdir()
    for file in ["LICENSE", "README.md", "pyproject.toml", "setup.py"]:
        shutil.copy(ROOT / file, source)
    for folder_name in FOLDERS:
        shutil.copytree(ROOT / folder_name, source / folder_name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", source],
        check=True,
        cwd=folder,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel
