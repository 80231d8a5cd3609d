"""What a command plans: a step with its arguments, from a preset or from the user's own code."""

from dataclasses import dataclass
from typing import Any

import jax

import autoshard
from autoshard.cli._optimizer import make_optimizer
from autoshard.cli._options import ModelOptions
from autoshard.cli._overrides import parse_overrides
from autoshard.cli._session import build_model, open_session
from autoshard.cli._user_model import UserStep, is_user_model, load_user_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A parallelized step and the abstract arguments to plan it for.

    Attributes:
        name: What the user calls it.
        step: The step.
        args: Its arguments.
    """

    name: str
    step: autoshard.Parallelized
    args: tuple[Any, ...]

    def plan(self, topology: str | None = None) -> autoshard.Plan:
        """Its plan, for the visible devices or for a topology. Allocates nothing."""
        return self.step.plan(*self.args, topology=topology)

    def compile(self, topology: str, limits: Any) -> Any:
        """Compiles it for a topology in a process of its own."""
        return self.step.compile(*self.args, topology=topology, limits=limits)


def open_subject(options: ModelOptions, *, seq: int | None, plan: Any = None) -> Subject:
    """Makes what the options name.

    Args:
        options: Model, mesh, strategy and batch size.
        seq: Tokens per sequence, or None for the model's own length.
        plan: A plan file to follow instead of planning.

    Raises:
        AutoshardError: There is no such model, or it contradicts itself.
    """
    if is_user_model(options.model):
        given = parse_overrides(options.set)
        offered = {"batch": options.batch, "seq": seq}
        made = load_user_model(options.model, given, offered)
        if isinstance(made, UserStep):
            step = autoshard.parallelize(
                made.step, mesh=options.mesh, strategy=options.strategy, plan=plan
            )
            return Subject(name=options.model, step=step, args=made.args)
        spec = made
    else:
        spec = build_model(options)
    session = open_session(options, spec, make_optimizer(), seq=seq, plan=plan)
    state = jax.eval_shape(session.training.create_state, jax.random.key(0))
    return Subject(name=options.model, step=session.step, args=(state, session.batch))
