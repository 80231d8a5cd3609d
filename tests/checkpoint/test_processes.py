"""Several processes save together, and each loads what it needs."""

import importlib.util
import json
from pathlib import Path

import pytest
from clusters import cluster

import autoshard.checkpoint as ck

WORKER = Path(__file__).with_name("cluster_worker.py")


def run_cluster(processes: int, directory: Path) -> list[dict]:
    with cluster(processes, WORKER, directory) as started:
        outputs = [process.communicate(timeout=240) for process in started]
    for process, (_, stderr) in zip(started, outputs, strict=True):
        assert process.returncode == 0, stderr[-4000:]
    # Gloo prints to standard output too.
    return [json.loads(stdout.splitlines()[-1]) for stdout, _ in outputs]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> dict:
    spec = importlib.util.spec_from_file_location("checkpoint_cluster_worker", WORKER)
    assert spec is not None and spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    return worker.work(tmp_path_factory.mktemp("one"), 1, 0)


@pytest.mark.multiprocess
@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_save_and_load(processes, one_process, tmp_path):
    found = run_cluster(processes, tmp_path)
    for name in ("digest", "async", "steps"):
        assert all(other[name] == found[0][name] for other in found)
    assert found[0]["digest"] == found[0]["async"] == one_process["digest"]
    # The process that meets the error tells it; the others tell which process failed.
    errors = ["CheckpointError"] + ["CheckpointWriteError"] * (processes - 1)
    assert [other["differs"] for other in found] == errors
    assert {other["fails"] for other in found} == {"CheckpointWriteError"}
    assert found[0]["steps"] == [3, 4, 5]
    for name in ("sync", "async", "fails"):
        ck.verify(tmp_path / name).check()
    assert ck.metadata(tmp_path / "sync").processes == processes
    assert not [p for p in tmp_path.iterdir() if "autoshard-tmp" in p.name]
    assert ck.load(tmp_path / "sync")["step"] == 4  # and here, in one process without a mesh
