"""Errors about foreign checkpoint layouts: their descriptions, their files, conversions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from autoshard.errors._base import ExitCode
from autoshard.errors._checkpoint import CheckpointError

_MOST_LINES = 17  # with the first line and the hint, an error stays within twenty


class LayoutError(CheckpointError):
    """A layout, or a rule of it, that contradicts itself or the tensors it is applied to.

    Args:
        layout: The layout's name.
        problem: What is wrong.
        hint: One line that mends it.
        line: Line of the rule in its file, from 1; 0 where no line is at fault.
    """

    def __init__(self, layout: str, problem: str, hint: str, line: int = 0) -> None:
        self.layout = layout
        self.line = line
        where = f"layout {layout}, line {line}" if line else f"layout {layout}"
        super().__init__(where, problem, hint)


class LayoutSyntaxError(LayoutError):
    """A layout file that cannot be understood."""


class UnknownLayoutError(CheckpointError):
    """No layout has the given name.

    Args:
        name: The name.
        known: Those that there are.
    """

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(known)
        near = difflib.get_close_matches(name, self.known, n=1)
        hint = f"write {near[0]}, or the path of a YAML file" if near else "autoshard ckpt layouts"
        super().__init__(
            f"layout {name!r}", f"is neither known nor a file; known: {', '.join(self.known)}", hint
        )


class LayoutBindingError(LayoutError):
    """A quantity that a layout needs and nothing tells.

    Args:
        layout: The layout's name.
        name: The quantity.
        sources: Where it was looked for.
        hint: Which values it may have.
    """

    def __init__(self, layout: str, name: str, sources: Sequence[str], hint: str = "") -> None:
        self.name = name
        looked = f"; looked in {', '.join(sources)}" if sources else ""
        mend = f"--set {name}=… ({hint})" if hint else f"--set {name}=…"
        super().__init__(layout, f"needs {name}, which nothing tells{looked}", mend)


class LayoutCoverageError(LayoutError):
    """Tensors that no rule uses, or rules that use no tensor.

    Args:
        layout: The layout's name.
        unmatched: Tensors that no rule matches.
        unused: Rules that match no tensor, as `line 7: from …`.
        near: Patterns, to find a close one for an unmatched tensor.
        side: What the tensors are: those of the foreign checkpoint or those of the tree.
    """

    exit_code = ExitCode.MISMATCH

    def __init__(
        self,
        layout: str,
        unmatched: Sequence[str],
        unused: Sequence[str],
        near: Sequence[str] = (),
        side: str = "foreign checkpoint",
    ) -> None:
        self.unmatched = tuple(unmatched)
        self.unused = tuple(unused)
        lines = [_unmatched(name, near) for name in unmatched]
        lines += [f"unused   {rule}: matches nothing" for rule in unused]
        shown = [f"\n  {line}" for line in lines[:_MOST_LINES]]
        if len(lines) > _MOST_LINES:
            shown.append(f"\n  … and {len(lines) - _MOST_LINES} more")
        hint = "- {drop: PATTERN, reason: …} for what is not needed, optional: true for a rule"
        super().__init__(layout, f"does not fit the {side}:{''.join(shown)}", hint)


def _unmatched(name: str, patterns: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, patterns, n=1, cutoff=0.75)
    return f"no rule  {name}" + (f"; near: {near[0]}" if near else "")


class LayoutAmbiguityError(LayoutError):
    """A tensor that two rules claim.

    Args:
        layout: The layout's name.
        tensor: Its name.
        rules: The rules, as `line 7: from …`.
        side: Whether they read it or write it.
    """

    def __init__(self, layout: str, tensor: str, rules: Sequence[str], side: str) -> None:
        self.tensor = tensor
        self.rules = tuple(rules)
        super().__init__(
            layout,
            f"{len(rules)} rules {side} {tensor}: {'; '.join(rules)}",
            "make the patterns narrower: each tensor belongs to one rule",
        )


class LayoutDataError(CheckpointError):
    """Data that are not what the layout says of them, found while reading.

    Args:
        tensors: The tensors.
        problem: What is wrong.
        hint: What to write into the layout instead.
    """

    exit_code = ExitCode.MISMATCH

    def __init__(self, tensors: Sequence[str], problem: str, hint: str) -> None:
        self.tensors = tuple(tensors)
        super().__init__(" and ".join(self.tensors), problem, hint)


class LossyLayoutError(LayoutError):
    """A conversion that would lose something, and nobody said that it may.

    Args:
        layout: The layout's name.
        losses: One line each: tensor and what is lost.
    """

    exit_code = ExitCode.MISMATCH

    def __init__(self, layout: str, losses: Sequence[str]) -> None:
        self.losses = tuple(losses)
        lines = [f"\n  {line}" for line in self.losses[:_MOST_LINES]]
        if len(self.losses) > _MOST_LINES:
            lines.append(f"\n  … and {len(self.losses) - _MOST_LINES} more")
        super().__init__(
            layout,
            f"cannot be converted without loss:{''.join(lines)}",
            "--allow-lossy, or allow_lossy=True",
        )


class ForeignFileError(CheckpointError):
    """A file that is damaged, or not of the format that it is read as.

    Args:
        path: The file.
        problem: What is wrong.
    """

    exit_code = ExitCode.CORRUPT_DATA

    def __init__(self, path: object, problem: str, hint: str | None = None) -> None:
        super().__init__(path, problem, hint or "copy or download the file again")


class UnsafePickleError(ForeignFileError):
    """A pickle that holds more than tensors. Nothing of it has been run.

    Args:
        path: The file.
        what: The global or opcode.
    """

    def __init__(self, path: object, what: str) -> None:
        self.what = what
        super().__init__(
            path,
            f"its pickle asks for {what}, which is not among the things that hold tensors; "
            "nothing of it was run",
            "if you trust the file, save its tensors again as safetensors; or name the global in "
            "the layout: opaque: [module.Class] leaves such objects out",
        )


class UnknownFormatError(CheckpointError):
    """A path in which no known checkpoint format is found.

    Args:
        path: The path.
        looked_for: What would have told a format.
        found: What is there.
    """

    def __init__(self, path: object, looked_for: Sequence[str], found: Sequence[str]) -> None:
        self.looked_for = tuple(looked_for)
        self.found = tuple(found)
        there = ", ".join(self.found[:8]) or "nothing"
        super().__init__(
            path,
            f"is of no format that is known here; looked for {'; '.join(self.looked_for)}; "
            f"there is {there}",
            "--from-format safetensors, or --from LAYOUT for one file per rank",
        )


class ConversionError(CheckpointError):
    """A conversion that cannot start or go on.

    Args:
        path: Its destination.
        problem: Why.
        hint: One line that mends it.
    """

    exit_code = ExitCode.INCOMPLETE
