"""Two processes of four devices each train as one process of eight does."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).with_name("cluster_worker.py")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def one_process():
    spec = importlib.util.spec_from_file_location("cluster_worker", WORKER)
    assert spec is not None and spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    return worker.everything(1, 0)


@pytest.mark.multiprocess
def test_two_processes(one_process):
    coordinator = f"127.0.0.1:{free_port()}"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), coordinator, "2", str(i)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i in range(2)
    ]
    try:
        outputs = [worker.communicate(timeout=240) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, (_, stderr) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, stderr[-4000:]
    # Gloo prints to standard output too.
    found = [json.loads(stdout.splitlines()[-1]) for stdout, _ in outputs]
    assert found[0] == found[1]
    for name, wanted in one_process.items():
        np.testing.assert_allclose(found[0][name], wanted, rtol=1e-6, err_msg=name)
    assert one_process["dp"][-1] < one_process["dp"][0]
    np.testing.assert_allclose(one_process["dp"], one_process["zero3+tensor"], rtol=1e-5)
