"""Entry point: parses the command line, runs a command, turns errors into messages."""

import contextlib
import functools
import operator
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

import autoshard
from autoshard.cli._calibrate import Calibrate
from autoshard.cli._ckpt import Ckpt
from autoshard.cli._completion import Completion
from autoshard.cli._diff import Diff
from autoshard.cli._doctor import Doctor
from autoshard.cli._estimate import Estimate
from autoshard.cli._explain import Explain
from autoshard.cli._plan import Plan
from autoshard.cli._train import Train
from autoshard.errors import AutoshardError, ExitCode

_COMMANDS: dict[str, Any] = {
    "plan": Plan,
    "explain": Explain,
    "diff": Diff,
    "train": Train,
    "doctor": Doctor,
    "estimate": Estimate,
    "calibrate": Calibrate,
    "ckpt": Ckpt,
    "completion": Completion,
}

_DESCRIPTION = """Automatic parallelization for JAX: one decorator, any mesh.

Exit codes: 0 ok, 1 a check failed, 2 usage, 3 corrupt data, 4 mismatch, 5 incomplete,
6 the compiler failed or ran out of time or memory.

AUTOSHARD_DEBUG=1 shows the traceback of an error. --version prints the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the `autoshard` command.

    Args:
        argv: Arguments after the command's name, by default those of the process.

    Returns:
        The exit code, one of `autoshard.errors.ExitCode`; 130 after an interrupt.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:
        print(f"autoshard {autoshard.__version__}")
        return ExitCode.OK
    try:
        return _parse(args).run()
    except SystemExit as stop:  # help, or a command line that does not parse
        return stop.code if isinstance(stop.code, int) else ExitCode.USAGE
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 128 + 2  # what a shell reports for SIGINT
    except BrokenPipeError:
        # The reader has seen enough, as in `autoshard plan | head`. Python would complain once
        # more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        return _report(error, code)


def _parse(args: list[str]) -> Any:
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    if args and args[0] in _COMMANDS:
        command = _COMMANDS[args[0]]
        return tyro.cli(command, args=args[1:], prog=f"autoshard {args[0]}", config=config)
    return _parse_any(args)


def print_completion(shell: str) -> None:
    """Prints the script with which a shell completes all commands."""
    with contextlib.suppress(SystemExit):
        _parse_any(["--tyro-print-completion", shell])


def _parse_any(args: list[str]) -> Any:
    """Parses for any command, or none: this parser lists them, each with its first line."""
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    subcommands: list[Any] = [
        Annotated[cls, tyro.conf.subcommand(name, description=cls.__doc__.partition("\n")[0])]
        for name, cls in _COMMANDS.items()
    ]
    union: Any = functools.reduce(operator.or_, subcommands)
    return tyro.cli(
        union,
        args=args,
        prog="autoshard",
        description=_DESCRIPTION,
        config=config,
    )


def _exit_code(error: Exception) -> int | None:
    """The code for an error that the user can do something about; None for a defect of ours."""
    if isinstance(error, AutoshardError):
        return error.exit_code
    # Both classes come from modules that load jax: where those are not loaded, it is neither.
    models, jax = (sys.modules.get(name) for name in ("autoshard.models", "jax"))
    if models and isinstance(error, models.ModelError):
        return ExitCode.USAGE
    if jax and isinstance(error, jax.errors.JaxRuntimeError):
        return ExitCode.COMPILER_FAILED
    return None


def _report(error: Exception, code: int) -> int:
    if os.environ.get("AUTOSHARD_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    else:
        print(f"autoshard: error: {error}", file=sys.stderr)
    return code
