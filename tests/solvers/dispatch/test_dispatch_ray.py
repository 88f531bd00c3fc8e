"""Dispatch to real Ray clusters on this machine; losing nodes does not change answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dispatch_tasks
import numpy as np
import pytest

from problems import BlockProblem
from solvers import OptionError, SolverError, UnavailableError, compare, get_solver
from solvers.dispatch import RayCluster, WorkerLost, get_dispatch, ray_cluster

ray = pytest.importorskip("ray", reason='Ray is not installed; pip install "hybrid-icbs[ray]"')


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray keeps its token in the home folder: use a temporary one."""
    before = dict(os.environ)
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["TRIAL_API_TOKEN"] = "secret"
    os.environ["TRIAL_COLOUR"] = "green"
    yield
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def local() -> Iterator[RayCluster]:
    with RayCluster(workers=2) as dispatch:
        yield dispatch


def blocks() -> list[BlockProblem]:
    """Blocks of all forms, with large arrays and small ones; two share a matrix."""
    rng = np.random.default_rng(7)
    B = rng.standard_normal((200, 200))
    shared = B + B.T
    A = rng.standard_normal((700, 40)).astype(np.float32)
    return [
        BlockProblem(rng.standard_normal((60, 60)), cardinality=20),
        BlockProblem.low_rank(A, rng.standard_normal(700), cardinality=200),
        *(BlockProblem.scaled(shared, rng.standard_normal(200), cardinality=50) for _ in range(2)),
    ]


def assert_same(answers: list[Any], others: list[Any]) -> None:
    assert len(answers) == len(others)
    for answer, other in zip(answers, others, strict=True):
        assert np.array_equal(answer.record.sample, other.record.sample)
        assert np.array_equal(answer.record.energy, other.record.energy)
        assert answer.info["seed"] == other.info["seed"]


def test_answers_are_those_of_solve_many_to_the_bit(local: RayCluster) -> None:
    for backend in ("sa?restarts=3&sweeps=20", "tabu?offspring=10"):
        solver = get_solver(backend)
        assert_same(local.solve(solver, blocks(), seed=11), solver.solve_many(blocks(), seed=11))


def test_tasks_results_and_errors(local: RayCluster) -> None:
    assert dict(local.map(dispatch_tasks.slow_square, range(12))) == {x: x * x for x in range(12)}
    with pytest.raises(ValueError, match="task 2 is refused") as caught:
        list(local.map(dispatch_tasks.refuse, range(6)))
    assert "in refuse" in "".join(caught.value.__notes__)
    with pytest.raises(SolverError, match="OddError: 5 is odd"):
        list(local.map(dispatch_tasks.refuse_oddly, [5]))
    with pytest.raises(OptionError, match="refuses to be pickled"):
        list(local.map(dispatch_tasks.square, [dispatch_tasks.Unpicklable()]))  # type: ignore[list-item]
    whereabouts = [value for _, value in local.map(dispatch_tasks.whereabouts, range(4))]
    assert {threads for _, threads, _ in whereabouts} == {1}
    assert os.getpid() not in {pid for pid, _, _ in whereabouts}


def test_shared_arrays_are_put_once(local: RayCluster) -> None:
    array = np.random.default_rng(0).standard_normal((50_000, 4))
    array.flags.writeable = False
    first, second = local.share({"array": array, "of": 1}), local.share({"array": array, "of": 2})
    assert first._packed.parts == second._packed.parts  # type: ignore[attr-defined] # one object for both
    sums = dict(local.map(dispatch_tasks.total, [(first, 0), (second, 1)]))
    assert sums == {0: (float(array[:, 0].sum()), False), 1: (float(array[:, 1].sum()), False)}
    with pytest.raises(OptionError, match="only be sent inside a task of its own dispatch"):
        get_dispatch("processes").share(first)
    first.release()
    second.release()
    with pytest.raises(SolverError, match="released"):
        first.get()


def test_stop_and_ctrl_c_end_a_solve_with_the_best_so_far(local: RayCluster) -> None:
    endless = get_solver("sa?sweeps=1000000")
    asked = threading.Event()
    threading.Timer(0.5, asked.set).start()
    answers = local.solve(endless, blocks(), seed=0, stop=asked.is_set)
    assert [answer.info["ended_by"] for answer in answers] == ["stop"] * 4
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    answers = local.solve(endless, blocks(), seed=0)
    assert [answer.info["ended_by"] for answer in answers] == ["interrupt"] * 4
    assert dict(local.map(dispatch_tasks.square, [3])) == {0: 9}


def test_a_task_that_ends_its_worker_is_restarted(local: RayCluster, tmp_path: Path) -> None:
    results = dict(local.map(dispatch_tasks.die_once, [(str(tmp_path), x) for x in range(6)]))
    assert (tmp_path / "begun").exists()
    assert results == {x: x * x for x in range(6)}


def test_another_version_on_a_node_is_a_clear_error(local: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_version", lambda: "99.1")
    with pytest.raises(UnavailableError, match=r"has hybrid-icbs \d.*, this process 99.1; install the same version"):
        list(local.map(dispatch_tasks.square, [1]))


def test_credentials_of_the_environment_do_not_reach_the_workers(local: RayCluster) -> None:
    assert dict(local.map(dispatch_tasks.secret_names, [0])) == {0: ["TRIAL_COLOUR"]}
    assert os.environ["TRIAL_API_TOKEN"] == "secret"


def test_this_process_keeps_its_own_signals_and_logging(local: RayCluster) -> None:
    list(local.map(dispatch_tasks.square, [1]))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
def test_a_cluster_whose_nodes_are_killed_answers_like_one_thread(tmp_path: Path) -> None:
    """In a new process, since a process is connected to one cluster at a time."""
    script = Path(__file__).resolve().parents[2] / "run_ray_cluster.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [  # and no output of Ray's
        "3 nodes of 1 processor: answers the same True",
        "a node killed at a task: restarted elsewhere True, all results True",
        "a node killed at a solve: answers the same True",
    ]
    assert "state-dump" not in done.stderr
    assert "Traceback" not in done.stderr


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r'dispatch ray: Ray is not installed; pip install "hybrid-icbs\[ray\]"'):
        list(RayCluster().map(dispatch_tasks.square, [1]))


def test_an_address_where_nothing_listens_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(
        UnavailableError, match=r"no Ray cluster answers at '127.0.0.1:1' \(.*refused\); start one with"
    ):
        list(RayCluster(address="127.0.0.1:1").map(dispatch_tasks.square, [1]))


@pytest.mark.parametrize("page", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_an_address_where_another_program_listens_fails_at_once(monkeypatch: pytest.MonkeyPatch, page: bytes) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(64)
            connection.sendall(page)

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        with pytest.raises(UnavailableError, match=r"no Ray cluster answers at .*another program listens"):
            list(RayCluster(address=address).map(dispatch_tasks.square, [1]))


def test_an_address_of_another_cluster_than_the_connected_one_is_refused(local: RayCluster) -> None:
    assert dict(local.map(dispatch_tasks.square, [2])) == {0: 4}
    with pytest.raises(OptionError, match=r"connected to the Ray cluster at .*, not 127.0.0.1:1; call ray.shutdown"):
        list(RayCluster(address="127.0.0.1:1").map(dispatch_tasks.square, [1]))


def test_a_race_on_a_cluster_has_the_energies_of_a_local_one(local: RayCluster, tmp_path: Path) -> None:
    given = {"dense": blocks()[0], "scaled": blocks()[2]}
    energies = {}
    for name, dispatch in (("home", "serial"), ("cluster", RayCluster(workers=2))):
        done = compare(given, ["sa?restarts=1"], time_limits=None, seeds=2, out=tmp_path / name, dispatch=dispatch)
        assert [row.status for row in done.rows] == ["ok"] * 4
        assert done.race.protocol.dispatch == ("ray" if name == "cluster" else "serial")
        energies[name] = {(row.problem, row.seed): row.energy for row in done.rows}
    assert energies["home"] == energies["cluster"]
    assert dict(local.map(dispatch_tasks.square, [5])) == {0: 25}


def test_retries_that_run_out_are_a_clear_error(local: RayCluster) -> None:
    once = RayCluster(workers=1, retries=0)  # uses the existing cluster
    with pytest.raises(WorkerLost, match="task 0 lost its worker on the Ray cluster 1 times"):
        list(once.map(dispatch_tasks.die, [0]))
    once.close()
    assert dict(local.map(dispatch_tasks.square, [4])) == {0: 16}  # the existing cluster still runs
