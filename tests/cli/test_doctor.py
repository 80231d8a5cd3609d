import json

import pytest

from autoshard.cli import _environment as env
from autoshard.cli import main
from autoshard.errors import ExitCode

EIGHT_CPUS = env.Devices(backend="cpu", kinds={"cpu": 8}, processes=1, axis_type="Auto")


def test_json_names_versions_devices_and_checks(capsys):
    assert main(["doctor", "--json"]) == ExitCode.OK
    report = json.loads(capsys.readouterr().out)
    assert {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"} <= set(
        report["versions"]
    )
    assert report["devices"]["kinds"] == {"cpu": 8}
    assert report["devices"]["axis_type"] in ("Auto", "Explicit")
    assert [check["name"] for check in report["checks"]] == [
        "jax version",
        "devices",
        "mesh axes",
        "XLA_FLAGS",
        "launcher",
        "ahead of time",
        "plan cache",
    ]
    assert {check["status"] for check in report["checks"]} <= {"ok", "note"}


def test_the_table_shows_the_same(capsys):
    assert main(["doctor"]) == ExitCode.OK
    text = capsys.readouterr().out
    assert "jaxlib" in text
    assert "8 x cpu (backend cpu)" in text


def test_a_jax_that_does_not_start_is_reported_and_exits_with_one(monkeypatch, capsys):
    def refuse():
        raise RuntimeError("Unable to initialize backend 'cuda'\nmore lines")

    monkeypatch.setattr(env, "devices", refuse)
    assert main(["doctor"]) == ExitCode.CHECK_FAILED
    text = capsys.readouterr().out
    assert "RuntimeError: Unable to initialize backend 'cuda'" in text
    assert "more lines" not in text
    assert main(["doctor", "--json"]) == ExitCode.CHECK_FAILED
    assert json.loads(capsys.readouterr().out)["devices"] is None


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("0.10.2", "ok"),
        ("0.11.0", "ok"),
        ("0.11.3.dev2", "ok"),
        ("0.9.2", "fail"),
        ("0.12.0", "fail"),
        ("1.0", "fail"),
        (None, "fail"),
    ],
)
def test_supported_versions_of_jax(version, status):
    check = env.check_jax_version(version)
    assert check.status == status
    assert bool(check.hint) == (status == "fail")


@pytest.mark.parametrize(("axis_type", "status"), [("Auto", "ok"), ("Explicit", "note")])
def test_default_axis_type(axis_type, status):
    found = env.Devices(backend="cpu", kinds={"cpu": 1}, processes=1, axis_type=axis_type)
    assert env.check_axis_type(found).status == status


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        ("", "ok"),
        ("--xla_dump_to=somewhere", "ok"),
        ("--xla_force_host_platform_device_count=8", "ok"),
        # The last of two flags counts.
        ("--xla_force_host_platform_device_count=4 --xla_force_host_platform_device_count=8", "ok"),
        ("--xla_force_host_platform_device_count=4", "fail"),
    ],
)
def test_a_device_count_that_came_too_late(flags, status):
    assert env.check_xla_flags(EIGHT_CPUS, {"XLA_FLAGS": flags}).status == status


def test_a_device_count_for_the_cpu_is_no_matter_on_other_backends():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    found = env.Devices(backend="tpu", kinds={"TPU v5e": 4}, processes=1, axis_type="Auto")
    assert env.check_xla_flags(found, flags).status == "ok"


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("environ", "status", "detail", "hint"),
    [
        ({}, "ok", "a single process", ""),
        (SLURM, "ok", "SLURM task 1 of 2", '--process-id "$SLURM_PROCID"'),
        ({"SLURM_JOB_ID": "7"}, "note", "outside of a task (SLURM_STEP_NODELIST,", "srun bash -c"),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"},
            "note",
            "pod 3 of an indexed job",
            '--process-id "$JOB_COMPLETION_INDEX"',
        ),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "note", "not an indexed job", "--coordinator"),
        (
            {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2"},
            "ok",
            "Open MPI rank 2 of 4",
            '"$OMPI_COMM_WORLD_RANK"',
        ),
    ],
)
def test_launchers(environ, status, detail, hint):
    check = env.check_cluster(environ)
    assert check.status == status
    assert detail in check.detail
    assert hint in check.hint


@pytest.mark.parametrize(
    ("versions", "text", "hint"),
    [
        ({}, "compiles for CPU; not for TPU, GPU", "'autoshard[tpu,cuda12]'"),
        (
            {"libtpu": "0.0.52"},
            "compiles for CPU, TPU (0.0.52); not for GPU",
            "'autoshard[cuda12]'",
        ),
        ({"libtpu": "1", "jax-cuda12-plugin": "2"}, "compiles for CPU, TPU (1), GPU (2)", ""),
    ],
)
def test_compilers_for_devices_that_are_not_there(versions, text, hint):
    check = env.check_compilers(versions)
    assert check.status == "ok"
    assert check.detail.endswith(text)
    assert hint in check.hint


def test_the_plan_cache(tmp_path):
    assert env.check_cache({}).detail.startswith("off")
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "a.json").write_text("{}")
    assert env.check_cache({"AUTOSHARD_CACHE": str(tmp_path)}).detail.endswith("1 plans")
    assert env.check_cache({"AUTOSHARD_CACHE": str(tmp_path / "new" / "er")}).status == "ok"
    (tmp_path / "file").write_text("")
    assert env.check_cache({"AUTOSHARD_CACHE": str(tmp_path / "file")}).status == "fail"
