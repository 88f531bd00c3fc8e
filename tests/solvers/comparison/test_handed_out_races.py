"""Concurrent solves in threads and processes: the same rows, and no process left after Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from races import SMALL, no_worker_process_is_left, race, what_counts

from solvers.comparison.page import render
from solvers.comparison.racing import race as race_module
from solvers.dispatch import get_dispatch


@pytest.mark.parametrize("dispatch", ["threads?workers=2", "processes?workers=2"])
def test_concurrent_solves_give_the_same_rows_and_a_warning(dispatch, tmp_path, whole):
    done = race(dispatch=dispatch, out=tmp_path / "r")
    assert what_counts(done.rows) == what_counts(whole.rows)
    assert done.race.protocol.workers == 2
    assert "shared the machine: their times are not comparable" in render(done)
    no_worker_process_is_left()


def test_workers_of_a_pool_leave_each_solve_its_threads(monkeypatch):
    monkeypatch.setattr("solvers.dispatch.local.cpu_threads", lambda: 8)
    for text, workers in (("threads", 4), ("processes", 4), ("threads?threads=1", 8), ("processes?workers=3", 3)):
        assert race_module._way(text, 2).workers == workers
    assert race_module._way("serial", 2).name == "serial"


def test_ctrl_c_ends_concurrent_solves(tmp_path, odd):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import odd_solvers, solvers; from problems import instances\n"
        "given = {'a': instances.random(16, 8, 1)}\n"
        "done = solvers.compare(given, [odd_solvers.Endless()], time_limits=None, seeds=4,\n"
        "                       dispatch='threads?workers=2', out=sys.argv[2],\n"
        "                       on_progress=lambda what, done, total: print(done, flush=True))\n"
        "print(done.interrupted, len(done.rows), done.left)\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path / "r")], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    while running.stdout.readline() != "1\n":  # the first solve has ended, the second never will
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    said, errors = running.communicate(timeout=60)
    assert said.split()[-3] == "True", errors
    assert int(said.split()[-2]) + int(said.split()[-1]) == 4
    no_worker_process_is_left()


def test_a_given_dispatch_is_not_closed():
    with get_dispatch("processes?workers=1") as way:
        assert len(race({"a": SMALL["a"]}, "exact", seeds=1, dispatch=way).rows) == 1
        assert way._pool
