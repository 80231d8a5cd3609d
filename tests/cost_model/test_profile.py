import datetime
import json
from dataclasses import replace
from importlib.metadata import version

import pytest

from autoshard.cost_model import Constants, Profile, installed_profile, load_profile
from autoshard.cost_model.errors import ProfileError

PROFILE = Profile(
    device_kind="NVIDIA H100 80GB HBM3",
    device="h100",
    devices=8,
    versions={"jax": "0.10.2"},
    date="2026-06-01",
    constants={"matmul": 0.7, "up": 0.8},
    width={"matmul": 0.05},
    samples={"matmul": [[1e9, 1e-3]], "all-reduce@domain:8": [[1e6, 1e-4], [1e8, 1e-3]]},
)
TODAY = datetime.date(2026, 7, 1)


def test_round_trip_is_readable(tmp_path):
    path = tmp_path / "deep" / "profile.json"
    PROFILE.save(path)
    assert '"matmul": 0.7' in path.read_text()
    assert load_profile(path, today=TODAY) == PROFILE
    assert [p.name for p in path.parent.iterdir()] == ["profile.json"]


def test_it_changes_what_was_measured_only():
    found = PROFILE.apply(Constants())
    assert (found.matmul, found.up, found.memory) == (0.7, 0.8, Constants().memory)


def test_collective_tables():
    assert PROFILE.tables().lookup("all-reduce", "domain", 8, 1e6) == 1e-4
    assert PROFILE.tables().lookup("all-reduce", "domain", 4, 1e6) is None


@pytest.mark.parametrize(
    ("change", "asked", "message"),
    [
        ({}, {"device_kind": "TPU v5 lite"}, "not of 'TPU v5 lite'"),
        ({}, {"versions": {"jax": "0.11.0"}}, "jax 0.10.2, not 0.11.0"),
        ({"date": "2025-01-01"}, {}, "days old, 180 is the limit"),
        ({"date": "yesterday"}, {}, "cannot be read"),
        ({"constants": {"matmul": -1}}, {}, "cannot be read"),
        ({"schema": 0}, {}, "schema"),
    ],
)
def test_stale_or_foreign_profiles_are_refused(tmp_path, change, asked, message):
    path = tmp_path / "p.json"
    PROFILE.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile(path, today=TODAY, **asked)
    assert "autoshard calibrate" in str(caught.value)


def test_damaged(tmp_path):
    path = tmp_path / "p.json"
    path.write_text("{")
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile(path)


def test_the_stored_profile_of_a_device_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSHARD_PROFILES", str(tmp_path))
    assert installed_profile("h100") is None
    here = replace(PROFILE, versions={"jax": version("jax")})
    here.save(tmp_path / "one.json")
    replace(here, date="2026-06-15").save(tmp_path / "newer.json")
    replace(here, date="2024-06-15").save(tmp_path / "stale.json")
    replace(here, versions={"jax": "0.1"}, date="2026-06-20").save(tmp_path / "foreign.json")
    found = installed_profile("h100", today=TODAY)
    assert found is not None and found.date == "2026-06-15"
    assert installed_profile("a100", today=TODAY) is None
