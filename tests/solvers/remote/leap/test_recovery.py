"""A run killed at any moment finds its job again, and the service never gets it twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from problems import BlockProblem
from solvers.remote.leap import Leap
from solvers.remote.solver import Account, FileLedger, accounting
from solvers.testing import optimum

sys.path.insert(0, str(Path(__file__).parent))

from leap_run_to_kill import RUN, block

PROGRAM = Path(__file__).parent / "leap_run_to_kill.py"


def started(path: Path, kind: str, when: str = "never", stage: str = "never") -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(path), kind, when, stage]
    root = Path(__file__).parents[4]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed(path: Path, kind: str, when: str, stage: str) -> None:
    process = started(path, kind, when, stage)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors


def finished(path: Path, kind: str) -> tuple[float, Account]:
    with FileLedger(path) as ledger, accounting(Account(ledger, RUN)) as account:
        energy = Leap(solver=kind).solve(block(), seed=5).first.energy
        assert [ticket["stage"] for ticket in ledger.tickets()] == ["answered"]
    return energy, account


@pytest.mark.parametrize(
    ("kind", "when", "stage", "jobs_then", "uploads"),
    [
        ("cqm", "after", "labelled", 0, 1),
        ("cqm", "before", "uploaded", 0, 2),
        ("cqm", "after", "uploaded", 0, 1),
        ("cqm", "before", "accepted", 1, 1),
        ("cqm", "after", "accepted", 1, 1),
        ("cqm", "before", "answered", 1, 1),
        ("cqm", "after", "answered", 1, 1),
        ("nl", "before", "accepted", 1, 1),
        ("nl", "before", "answered", 1, 1),
        ("bqm", "after", "accepted", 1, 1),
        ("qpu", "after", "labelled", 0, 0),
        ("qpu", "before", "accepted", 1, 0),
        ("qpu", "before", "answered", 1, 0),
    ],
)
def test_a_run_killed_at_a_stage_ends_with_one_job(sapi, tmp_path, kind, when, stage, jobs_then, uploads):
    path = tmp_path / "calls.jsonl"
    killed(path, kind, when, stage)
    assert sapi.counts["accepted"] == jobs_then
    energy, account = finished(path, kind)
    assert energy == pytest.approx(optimum(block()))
    assert sapi.counts["accepted"] == 1
    assert sapi.counts["upload"] == uploads
    assert account.calls == 1
    assert account.charged > 0.0


def test_a_run_killed_from_outside_while_it_waits_finds_its_job(sapi, tmp_path):
    path = tmp_path / "calls.jsonl"
    sapi.fault("solve", "hold")
    process = started(path, "cqm")
    end = time.monotonic() + 60
    while b'"accepted"' not in (path.read_bytes() if path.exists() else b"") and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    sapi.command("release")
    energy, _ = finished(path, "cqm")
    assert energy == pytest.approx(optimum(block()))
    assert sapi.counts["accepted"] == 1
    assert sapi.counts["look-up"] == 0  # its id was on record


def test_ctrl_c_ends_the_wait_at_once_and_leaves_the_job_to_be_found(sapi, tmp_path):
    path = tmp_path / "calls.jsonl"
    sapi.fault("solve", "hold")
    process = started(path, "cqm")
    end = time.monotonic() + 60
    while b'"accepted"' not in (path.read_bytes() if path.exists() else b"") and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert float(output) >= optimum(block()) - 1e-9
    sapi.command("release")
    energy, _ = finished(path, "cqm")
    assert energy == pytest.approx(optimum(block()))
    assert sapi.counts["accepted"] == 1


def test_a_stored_answer_is_used_without_a_network(sapi, tmp_path, monkeypatch):
    path = tmp_path / "calls.jsonl"
    energy, _ = finished(path, "qpu")
    requests = sum(sapi.counts.values())
    again, account = finished(path, "qpu")
    assert again == energy
    assert sum(sapi.counts.values()) == requests
    assert account.calls == 1


def test_a_run_that_is_repeated_asks_for_the_same_labels_in_the_same_order(sapi, tmp_path):
    path = tmp_path / "calls.jsonl"
    problems = [block(), BlockProblem(block().to_dense().form.dense(), cardinality=3), block()]
    answers = []
    for _ in range(2):
        with FileLedger(path) as ledger, accounting(Account(ledger, RUN)):
            solver = Leap(solver="cqm")
            first = solver.solve_many(problems, seed=5)
            more = [solver.solve(problems[0], seed=5), solver.solve(problems[0], seed=5)]
            answers.append([answer.first.energy for answer in (*first, *more)])
    assert answers[0] == answers[1]
    assert sapi.counts["accepted"] == 5
    base = f"hybrid-icbs/{RUN}/cqm/n10/s5"
    assert {base, f"{base}-2", f"{base}-3"} < set(sapi.state.labels)
