"""Whole train steps: every primitive of a language model and a convolutional net has a rule."""

import jax
import optax
import pytest

from autoshard import models
from autoshard.rules import parse, with_rules
from autoshard.rules.catalogue import variants
from autoshard.tracing import trace

MODELS = {
    "gpt-tiny": {},
    "gpt-tiny, remat and dropout": {"remat": "full", "dropout": 0.1, "scan_layers": True},
    "llama-tiny": {},
    "llama-tiny, unrolled": {"scan_layers": False},
    "resnet-tiny": {},
    "resnet-tiny, pooled": {"stem": "imagenet", "block": "bottleneck", "image_size": 32},
}


def step(name: str):
    spec = models.get(name.split(",")[0], **MODELS[name])
    training = models.make_training(spec, optax.adamw(1e-3))
    state = jax.eval_shape(training.create_state, jax.random.key(0))
    return training, state, spec.example_batch(4)


@pytest.mark.parametrize("name", MODELS)
def test_train_step_has_rules(name: str) -> None:
    training, state, batch = step(name)
    program = trace(training.train_step, (state, batch))
    ruled = with_rules(program)
    assert ruled.unknown == {}
    for op, rule in zip(program.ops, ruled.rules, strict=True):
        if rule is not None:
            operands = [program.aval(o).shape for o in op.operands]
            rule.check(operands, [program.values[r].shape for r in op.results])
            assert parse(str(rule)) == rule


@pytest.mark.parametrize("name", ["gpt-tiny", "resnet-tiny"])
def test_initialization_has_rules(name: str) -> None:
    training, _, _ = step(name)
    ruled = with_rules(trace(training.create_state, (jax.random.key(0),)))
    assert ruled.unknown == {}


def test_train_steps_use_what_the_catalogue_shows() -> None:
    """So that the catalogue is no collection of curiosities."""
    shown = {v.primitive for v in variants()}
    used = set()
    for name in ("gpt-tiny", "llama-tiny", "resnet-tiny"):
        training, state, batch = step(name)
        program = trace(training.train_step, (state, batch))
        used |= {op.primitive for op in program.ops if not op.structured}
    assert len(used) > 40
    assert used - shown <= {"argument", "result", "region_tie", "one_minus_square"}
