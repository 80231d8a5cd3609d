"""`MODEL` as `package.module:callable`: a model of the user's own."""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoshard.errors import UserModelError

EXAMPLE = "autoshard plan mypackage.train:make"


@dataclass(frozen=True, slots=True)
class UserStep:
    """A step and the arguments to plan it for.

    Attributes:
        step: The function, as for one device.
        args: Its arguments; arrays, or `jax.ShapeDtypeStruct` where there is nothing but a shape.
    """

    step: Callable[..., Any]
    args: tuple[Any, ...]


def is_user_model(model: str) -> bool:
    """Whether a MODEL names a callable rather than a preset."""
    return ":" in model


def load_user_model(model: str, given: Mapping[str, Any], offered: Mapping[str, Any]) -> Any:
    """Import a callable and call it.

    Args:
        model: `package.module:callable`; the folder that the command runs in is importable.
        given: Arguments that the user gave by name: the callable has to take them.
        offered: Arguments that it gets if it has parameters of that name.

    Returns:
        A `models.ModelSpec`, or a `UserStep` for a callable that returns `(step, args)`.

    Raises:
        UserModelError: It does not import, takes other arguments, fails, or returns something else.
    """
    function = _find(model)
    arguments = _arguments(model, function, given, offered)
    try:
        made = function(**arguments)
    except Exception as error:  # anything: it is the user's code
        raise UserModelError(
            model, f"it raises {_said(error)}", "mend it, and call it by hand first"
        ) from error
    return _check(model, made)


def _find(model: str) -> Callable[..., Any]:
    module_name, _, path = model.partition(":")
    parts = [*module_name.split("."), *path.split(".")]
    if not all(part.isidentifier() for part in parts):
        hint = EXAMPLE
        if module_name.endswith(".py"):
            hint = (
                f"autoshard plan {module_name[:-3].strip('./').replace('/', '.')}:{path or 'make'}"
            )
        raise UserModelError(model, "it is not of the form package.module:callable", hint)
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            raise UserModelError(
                model,
                f"there is no module {missing!r} in {folder} or on the path",
                f"run it from the folder that holds {module_name.split('.')[0]}",
            ) from error
        raise UserModelError(
            model, f"{module_name} needs {missing!r}, which is not there", f"pip install {missing}"
        ) from error
    except Exception as error:
        problem = f"importing {module_name} raises {_said(error)}"
        raise UserModelError(model, problem, f"python -c 'import {module_name}'") from error
    for name in path.split("."):
        if not hasattr(found, name):
            there = [n for n, v in vars(found).items() if callable(v) and n[0] != "_"]
            shown = ", ".join(sorted(there)[:8]) or "nothing"
            raise UserModelError(
                model,
                f"{module_name} has no {name!r}; what can be called there: {shown}",
                f"autoshard plan {module_name}:{sorted(there)[0] if there else 'make'}",
            )
        found = getattr(found, name)
    if not callable(found):
        kind = type(found).__name__
        raise UserModelError(
            model,
            f"it is of type {kind} and cannot be called",
            "a function that returns (step, args)",
        )
    return found


def _arguments(
    model: str, function: Callable[..., Any], given: Mapping[str, Any], offered: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return dict(given)
    parameters = signature.parameters
    takes = {**{n: v for n, v in offered.items() if n in parameters and v is not None}, **given}
    try:
        signature.bind(**takes)
    except TypeError as error:
        required = [
            p.name
            for p in parameters.values()
            if p.default is p.empty
            and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            and p.name not in takes
        ]
        hint = " ".join(f"{name}=VALUE" for name in required)
        raise UserModelError(
            model,
            f"its signature is {signature}: {error}",
            f"--set {hint}" if required else f"--set with its parameters: {signature}",
        ) from error
    return takes


def _check(model: str, made: Any) -> Any:
    from autoshard import models

    if isinstance(made, models.ModelSpec):
        return made
    hint = "return step, (state, batch)  # with jax.ShapeDtypeStruct leaves, or a models.ModelSpec"
    if not (isinstance(made, tuple) and len(made) == 2):
        raise UserModelError(model, f"it returns {_kind(made)}, not (step, args)", hint)
    step, args = made
    step = getattr(step, "__wrapped__", step) if type(step).__name__ == "Parallelized" else step
    if not callable(step):
        raise UserModelError(model, f"its first result is {_kind(step)}, not a step function", hint)
    if not isinstance(args, Sequence) or isinstance(args, str):
        raise UserModelError(
            model,
            f"its second result is {_kind(args)}, not the tuple of the step's arguments",
            hint,
        )
    try:
        inspect.signature(step).bind(*args)
    except TypeError as error:
        name = getattr(step, "__name__", "the step")
        problem = f"{name} does not take the {len(args)} arguments beside it: {error}"
        raise UserModelError(model, problem, hint) from error
    except ValueError:
        pass  # no signature to compare with
    return UserStep(step, tuple(args))


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _said(error: Exception) -> str:
    """An error of the user's code, with the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if f.filename != __file__ and "importlib" not in f.filename]
    where = f" at {os.path.basename(theirs[-1].filename)}:{theirs[-1].lineno}" if theirs else ""
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}{f': {text}' if text else ''}{where}"
