import pytest

from autoshard.errors import ExitCode, TopologyError
from autoshard.lowering.ahead import parse_target
from autoshard.lowering.ahead._gpu import CHIPS, target_config


@pytest.mark.parametrize(
    ("text", "platform", "name", "slices", "devices"),
    [
        ("cpu:8", "cpu", "8", 1, 8),
        ("v5e:2x4", "tpu", "v5e:2x4", 1, 8),
        ("v5p:4x4x8", "tpu", "v5p:4x4x8", 1, 128),
        ("v5e:16x16*4", "tpu", "v5e:16x16", 4, 1024),
        ("v4:2x2x2", "tpu", "v4:2x2x2", 1, 16),  # libtpu shows the two cores of a chip
        ("v3:2x2", "tpu", "v3:2x2", 1, 8),
        ("tpu7x:2x2x1", "tpu", "tpu7x:2x2x1", 1, 8),
        ("v6e:16x16", "tpu", "v6e:16x16", 1, 256),
        ("h100:8", "gpu", "1x1x8", 1, 8),
        ("h100:4x8", "gpu", "1x4x8", 1, 32),
        (" a100:2x8 ", "gpu", "1x2x8", 1, 16),
    ],
)
def test_what_the_compilers_call_a_topology(text, platform, name, slices, devices):
    target = parse_target(text)
    assert (target.platform, target.name, target.slices, target.devices) == (
        platform,
        name,
        slices,
        devices,
    )


def test_the_memory_of_a_device():
    assert parse_target("v5e:2x4").hbm_bytes == pytest.approx(16 * 2**30, rel=0.01)
    assert parse_target("h100:8").hbm_bytes == 80e9
    # What libtpu shows as a device of a v4 is half a chip.
    assert parse_target("v4:2x2x2").hbm_bytes == pytest.approx(16 * 2**30, rel=0.01)


WRONG = {
    "no shape": "v5e",
    "unknown chip": "v9:2x4",
    "no number": "v5e:axb",
    "too long": "v5e:32x32",
    "too many dimensions": "v5e:2x2x2",
    "zero": "v5e:0x4",
    "slices of gpus": "h100:8*2",
    "three levels of gpus": "h100:2x2x2",
    "empty": "",
}


@pytest.mark.parametrize("name", WRONG)
def test_topologies_that_do_not_exist(name, golden):
    with pytest.raises(TopologyError) as caught:
        parse_target(WRONG[name])
    assert caught.value.exit_code == ExitCode.USAGE
    golden(f"errors/topology_{name.replace(' ', '_')}", str(caught.value))


@pytest.mark.parametrize("chip", CHIPS)
def test_descriptions_of_gpus(chip):
    text = target_config(chip)
    assert text.count("{") == text.count("}")
    assert "cuda_compute_capability { major: " in text
    assert "core_count: 0" not in text


def test_a_gpu_without_a_description():
    with pytest.raises(TopologyError, match="no compiler here knows this chip"):
        target_config("mi300x")
