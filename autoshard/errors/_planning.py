"""Errors about meshes, strategies, rules and plans."""

from collections.abc import Mapping
from difflib import get_close_matches

from autoshard.errors._base import AutoshardError, ExitCode


class MeshError(AutoshardError):
    """A mesh that cannot be read or does not match the devices.

    Args:
        mesh: What was given.
        problem: What is wrong with it.
        hint: One line that mends it.
    """

    def __init__(
        self,
        mesh: str,
        problem: str,
        hint: str = 'write axes as name=size, for example mesh="data=2,model=4"',
    ) -> None:
        self.mesh = mesh
        self.problem = problem
        super().__init__(f"mesh {mesh!r}: {problem}.\nMend it: {hint}")


class SpecError(AutoshardError):
    """A sharding spec that does not fit its array or its mesh."""


class LabellingError(AutoshardError):
    """A label that is not legal for its op.

    Args:
        op: The op.
        rule: Text of its rule.
        problem: What is wrong.
    """

    def __init__(self, op: str, rule: str, problem: str) -> None:
        self.op = op
        self.rule = rule
        self.problem = problem
        super().__init__(f"the label of {op} with rule {rule} is not legal: {problem}")


class PathError(AutoshardError):
    """A path that names no leaf of a plan, or more than one.

    Args:
        path: What was asked for; empty where an array came without a path.
        candidates: Paths that match, or all there are.
        several: Whether it matched several.
        hint: One line that mends it; by default how to explain the closest path.
    """

    def __init__(
        self, path: str, candidates: list[str], *, several: bool, hint: str | None = None
    ) -> None:
        self.path = path
        self.candidates = candidates
        self.several = several
        shown = candidates if several else get_close_matches(path, candidates, n=5, cutoff=0.3)
        shown = (shown or candidates)[:5]
        problem = "ends several paths" if several else "is no argument or result of the plan"
        unnamed = several and not path
        subject = "an array without a name fits several paths" if unnamed else f"{path!r} {problem}"
        hint = hint or f"plan.explain({shown[0] if shown else ''!r})"
        super().__init__(
            f"{subject}. {'They are' if several else 'Close to it'}: {', '.join(shown)}\n"
            f"Mend it: {hint}"
        )


class UnknownPrimitiveError(AutoshardError):
    """Primitives without a sharding rule, where that was not to be.

    Args:
        unknown: Name of each → how often it occurs.
    """

    def __init__(self, unknown: Mapping[str, int]) -> None:
        self.unknown = dict(unknown)
        shown = ", ".join(f"{name!r} ({count}×)" for name, count in sorted(unknown.items())[:5])
        name = min(unknown)
        super().__init__(
            f"no sharding rule for {shown}: with strict=True they may not run replicated.\n"
            f'Mend it: autoshard.register_rule("{name}")(autoshard.rules.rule_from_text('
            '"([i, j])->([i, j])")), with the rule of the op; or leave strict=True out'
        )


class StrategyError(AutoshardError):
    """A strategy that cannot be read, or does not fit the mesh.

    Args:
        strategy: What was given.
        mesh: The mesh.
        problem: What is wrong.
    """

    def __init__(self, strategy: object, mesh: str, problem: str) -> None:
        self.strategy = strategy
        self.mesh = mesh
        self.problem = problem
        super().__init__(
            f"strategy {strategy!r} on mesh {mesh!r}: {problem}.\n"
            'Mend it: strategy="zero3+tensor" with mesh="data=2,model=4", or "dp" with any mesh'
        )


class EmulationError(AutoshardError):
    """Emulated devices that cannot be had any more.

    Args:
        n_devices: How many were asked for.
        problem: Why not.
    """

    def __init__(self, n_devices: object, problem: str) -> None:
        self.n_devices = n_devices
        super().__init__(
            f"cannot emulate {n_devices!r} devices: {problem}.\n"
            "The number of CPU devices is fixed when JAX makes its first array or is asked for "
            "its devices.\n"
            f"Mend it: call autoshard.emulate({n_devices!r}) at the top of the program, or run it "
            f"with XLA_FLAGS=--xla_force_host_platform_device_count={n_devices!r}"
        )


class RuleError(AutoshardError):
    """A sharding rule contradicts itself, its op or the table of rules."""


class RuleSyntaxError(RuleError):
    """Text that is no sharding rule.

    Args:
        text: The whole text.
        position: Where in it reading failed, in characters.
        problem: What is wrong there.
        example: A text that can be read.
    """

    def __init__(
        self,
        text: str,
        position: int,
        problem: str,
        example: str = "([i, k], [k, j])->([i, j]) {i=8, k=4, j=16} reduction={k:sum}",
    ) -> None:
        self.text = text
        self.position = position
        self.problem = problem
        super().__init__(f"{problem}:\n  {text}\n  {' ' * position}^\nMend it: {example}")


class RuleViolationError(RuleError):
    """A factor that is not, when the op is run, what its rule says.

    Args:
        primitive: The op.
        rule: Text of the rule.
        factor: The factor.
        kind: The kind that the rule gives it.
        problem: What was seen.
    """

    exit_code = ExitCode.CHECK_FAILED

    def __init__(self, *, primitive: str, rule: str, factor: str, kind: str, problem: str) -> None:
        self.primitive = primitive
        self.rule = rule
        self.factor = factor
        self.kind = kind
        self.problem = problem
        super().__init__(
            f"{primitive}: factor {factor!r} is not {kind}: {problem}.\n  {rule}\n"
            f"Mend it: correct the rule, or give the factor up: whole={{{factor}}}"
        )
