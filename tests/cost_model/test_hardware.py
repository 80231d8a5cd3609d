import json

import pytest

from autoshard.cost_model import device, load_catalog
from autoshard.cost_model.errors import InvalidFieldError, UnknownNameError

PUBLISHED = [
    *("v2", "v3", "v4", "v5e", "v5p", "v6e", "tpu7x"),
    *("v100", "v100-16", "a100", "a100-40", "h100", "h200"),
    *("b200", "gb200", "b300", "gb300", "mi250x", "mi300x", "cpu"),
]


def test_has_all_published_devices():
    assert set(PUBLISHED) <= set(load_catalog().devices)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_number_has_a_known_source(name):
    catalog = load_catalog()
    row = catalog[name]
    assert row.provenance
    assert {p.source for p in row.provenance.values()} <= set(catalog.sources)
    for dtype in row.peak_flops:
        assert f"peak_flops.{dtype}" in row.provenance


def test_conventions():
    # Per device, not per chip: TPU7x shows two devices of 1153.5 TFLOP/s.
    assert device("tpu7x").peak("bf16") == 1153.5e12
    assert device("tpu7x").devices_per_chip == 2
    # Dense, not sparse.
    assert device("h100").peak("bf16") == pytest.approx(989e12)
    # One way, not both.
    assert device("a100").scale_up_bytes_per_s == 300e9
    # 16-bit types stand in for each other.
    assert device("v100").peak("bf16") == 125e12


@pytest.mark.parametrize(
    ("alias", "name"),
    [("Trillium", "v6e"), ("A100-80GB-SXM", "a100"), ("ironwood", "tpu7x"), (" H100 ", "h100")],
)
def test_aliases(alias, name):
    assert device(alias).name == name


def test_unknown_hardware_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'h100'"):
        device("h10")


def test_unknown_precision_lists_what_there_is():
    with pytest.raises(InvalidFieldError, match=r"precision='fp8'.*v4 has no fp8"):
        device("v4").peak("fp8")


def test_users_add_devices(tmp_path):
    path = tmp_path / "mine.json"
    row = {"like": "a100", "scale_out": {"bytes_per_s": 6.25e9}, "hbm_bytes": 4e10}
    path.write_text(json.dumps({"devices": {"mine": row}}))
    mine = load_catalog(path)["mine"]
    assert mine.scale_out_bytes_per_s == 6.25e9
    assert mine.hbm_bytes == 4e10
    assert mine.scale_up_bytes_per_s == device("a100").scale_up_bytes_per_s
    assert mine.provenance["hbm_bytes"].source == "user"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"devices": {"x": {"like": "a100", "hbm_bytes": -1}}}, "x.hbm_bytes=-1"),
        ({"devices": {"x": {"like": "a100", "colour": 1}}}, "x.colour"),
        ({"devices": {"x": {"like": "nothing"}}}, "Unknown hardware"),
        ({"devices": {"x": {"hbm_bytes": 1e9}}}, "x.kind"),
        ([], "an object"),
    ],
)
def test_bad_user_file(tmp_path, document, message):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    with pytest.raises((InvalidFieldError, UnknownNameError), match=message):
        load_catalog(path)


def test_unreadable_user_file(tmp_path):
    path = tmp_path / "bad.json"
    path.write_text("{")
    with pytest.raises(InvalidFieldError, match="hardware file"):
        load_catalog(path)
