import math

import pytest

from autoshard.cost_model import STACKS, Constants, prior_constants, shipped_constants, stack
from autoshard.cost_model._constants import BOUNDS, NAMES, PRIOR_WIDTH, clamp
from autoshard.cost_model.errors import InvalidFieldError, UnknownNameError


def test_every_constant_has_a_prior_a_width_and_bounds():
    assert set(NAMES) == set(PRIOR_WIDTH) == set(BOUNDS)
    for name in STACKS:
        prior = prior_constants("h100", "gpu", name)
        for constant, (low, high) in BOUNDS.items():
            assert low <= getattr(prior, constant) <= high


def test_an_unseen_platform_keeps_the_prior():
    fitted = shipped_constants()
    found = fitted.constants("mi300x", "gpu", "generic")
    prior = prior_constants("mi300x", "gpu", "generic")
    for name in NAMES:
        expected = math.exp(clamp(name, math.log(getattr(prior, name))))
        assert getattr(found, name) == pytest.approx(expected)


def test_effects_add_up():
    fitted = shipped_constants()
    both = fitted.constants("a100", "gpu", "llm-foundry")
    prior = prior_constants("a100", "gpu", "llm-foundry")
    shift = sum(
        effects.get("traffic", 0.0)
        for effects in (fitted.hardware["a100"], fitted.software["llm-foundry"])
    )
    assert both.traffic == pytest.approx(prior.traffic * math.exp(shift), rel=1e-3)


def test_shipped_with_provenance_and_widths():
    fitted = shipped_constants()
    assert len(fitted.fitted_on) >= 10
    assert set(fitted.width) == set(NAMES)
    assert fitted.provenance["date"] and fitted.provenance["runs"] > 900
    assert all(0 < width < 1.5 for width in fitted.width.values())


@pytest.mark.parametrize("name", NAMES)
def test_bounds_are_soft_and_held(name):
    low, high = BOUNDS[name]
    middle = (math.log(low) + math.log(high)) / 2
    values = [clamp(name, middle + step / 5) for step in range(-60, 61)]
    assert values == sorted(values)
    assert math.log(low) <= values[0] and values[-1] <= math.log(high) + 1e-9


def test_bad_values():
    with pytest.raises(InvalidFieldError, match=r"constants\.up=0"):
        Constants(up=0)
    with pytest.raises(UnknownNameError, match="maxtext"):
        stack("maxtxt")
