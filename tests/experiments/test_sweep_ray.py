"""Sweeps on a cluster of Ray: two nodes, both of them here."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from dss.errors import InputError
from dss.experiments.executors import open_executor
from tests.experiments.test_sweep_robustness import LONG, begun, is_alive, rows, start_driver, until

NAMES = ["patient_0", "patient_1", "patient_2", "slow_3", "slow_4"]


def test_without_ray_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"'\.\[cluster\]'"):
        open_executor("auto")


@pytest.fixture
def address(monkeypatch):
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    node = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    yield cluster.address
    cluster.shutdown()


def test_killed_processes_workers_and_drivers_on_two_nodes(tmp_path, address):
    def latest(mesh):
        return next(reversed([each for each in begun(tmp_path) if each[0] == mesh]))

    def count(mesh):
        return sum(name == mesh for name, _, _ in begun(tmp_path))

    driver = start_driver(tmp_path, NAMES, address)
    until(lambda: count("patient_0") and count("patient_1"))  # one on each node
    os.kill(latest("patient_0")[1], signal.SIGKILL)  # the process of a mesh
    os.kill(latest("patient_1")[2], signal.SIGKILL)  # the worker of Ray that watches one
    until(lambda: len(rows(tmp_path)) >= 3 and count("patient_2"))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = rows(tmp_path)
    until(lambda: not any(is_alive(own) for _, own, _ in begun(tmp_path)))
    assert "patient_2" not in {name for name, _, _ in before}

    assert start_driver(tmp_path, NAMES, address).wait(LONG) == 0
    after = rows(tmp_path)
    assert after[: len(before)] == before and sorted(name for name, _, _ in after) == NAMES
    assert {status for _, status, _ in after} == {"ok"}
    attempts = {name: number for name, _, number in after}
    assert [attempts[f"patient_{number}"] for number in range(3)] == [2, 2, 2]
    assert Counter(name for name, _, _ in begun(tmp_path)) == attempts
    assert Counter((tmp_path / "ended.txt").read_text().split()) == Counter(NAMES)
