"""A remote service of a third party solves with ledger, budget and resume, through public names only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_service
from toy_service import Service, Toy

from problems import BlockProblem
from solvers import BudgetReached, OptionError, RemoteError, available, backends, get_solver, solve
from solvers.exact import Exact
from solvers.remote import Account, FileLedger, accounting, register, services
from solvers.remote.services import ENTRY_POINTS, registered

PROBLEM = BlockProblem(np.arange(36.0).reshape(6, 6), cardinality=2)


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setattr(toy_service, "SERVICE", Service())
    register(Toy)
    yield toy_service.SERVICE
    registered.clear()


def test_leap_is_a_service_and_a_backend():
    assert "leap" in services()
    assert "leap" in backends()
    assert get_solver("leap?solver=cqm").solver == "cqm"


def test_a_registered_service_is_a_backend(service):
    assert Toy.name in services()
    assert Toy.name in backends()
    assert available(Toy.name)
    answer = solve(PROBLEM, "toy-service?in_flight=2", seed=1)
    assert PROBLEM.is_feasible(answer.record.sample).all()
    assert answer.info["backend"] == "toy-service"
    assert answer.info["charge"] == 2.0


def test_answers_on_record_are_not_paid_again(service, tmp_path):
    for _ in range(2):
        with FileLedger(tmp_path / "calls.jsonl") as ledger, accounting(Account(ledger, "trial")) as account:
            answer = solve(PROBLEM, Toy.name, seed=1)
            assert (account.calls, account.charged) == (1, 2.0)
            assert [ticket["stage"] for ticket in ledger.tickets()] == ["answered"]
            assert answer.first.energy == PROBLEM.energy(PROBLEM.random_states(3, 0)).min()
    assert service.submissions == 1


def test_a_job_whose_wait_failed_is_found_again(service, tmp_path):
    service.offline = True
    with FileLedger(tmp_path / "calls.jsonl") as ledger, accounting(Account(ledger, "trial")) as account:
        with pytest.raises(RemoteError, match="offline"):
            solve(PROBLEM, Toy.name, seed=1)
        assert (account.calls, account.charged, account.committed) == (1, 0.0, 3.0)
        assert [ticket["stage"] for ticket in ledger.tickets()] == ["accepted"]
    service.offline = False
    with FileLedger(tmp_path / "calls.jsonl") as ledger, accounting(Account(ledger, "trial")) as account:
        solve(PROBLEM, Toy.name, seed=1)
        assert (account.calls, account.committed) == (1, 2.0)
    assert service.submissions == 1


def test_a_call_that_was_sent_before_its_record_was_kept_is_found_by_its_label(service, tmp_path):
    with FileLedger(tmp_path / "calls.jsonl") as ledger:
        label = Account(ledger, "trial").label("toy", PROBLEM, 1)
        service.submit(label, PROBLEM)
        account = Account(ledger, "trial")
        account.put({"label": label, "stage": "labelled", "estimated_charge": 3.0, "seed": 1})
        with accounting(account):
            solve(PROBLEM, Toy.name, seed=1)
    assert service.submissions == 1


@pytest.mark.parametrize("limit", [{"max_calls": 1}, {"max_charge": 4.0}])
def test_the_budget_of_a_run_holds_over_a_resume(service, tmp_path, limit):
    for seed in (1, 2):
        with FileLedger(tmp_path / "calls.jsonl") as ledger, accounting(Account(ledger, "trial", **limit)):
            if seed == 1:
                solve(PROBLEM, Toy.name, seed=1)
            else:
                with pytest.raises(BudgetReached, match="has made 1 calls"):
                    solve(PROBLEM, Toy.name, seed=2)
    assert service.submissions == 1


def test_a_job_is_submitted_and_fetched(service):
    job = Toy().submit(PROBLEM, seed=4)
    assert PROBLEM.is_feasible(Toy().fetch(job.ticket, PROBLEM).result().record.sample).all()
    assert service.submissions == 1


def test_only_remote_solvers_with_new_names_are_registered(service):
    class Other(Toy):
        pass

    class Leap(Toy):
        name = "leap"

    assert register(Toy) is Toy
    for refused in (Other, Leap):
        with pytest.raises(OptionError, match=f"named '{refused.name}' is registered already"):
            register(refused)
    with pytest.raises(OptionError, match=r"is not a subclass of solvers\.RemoteSolver"):
        register(Exact)


def test_a_service_of_an_installed_distribution_is_a_backend(tmp_path):
    info = tmp_path / "toy_service-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-service\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\ntoy-service = toy_service:Toy\nlost = lost:Toy\n")
    program = """if True:
        from problems import BlockProblem
        from solvers import OptionError, backends, get_solver, solve
        problem = BlockProblem([[0, 1], [0, 0]], cardinality=1)
        print("toy-service" in backends(), solve(problem, "toy-service").info["charge"])
        try:
            get_solver("lost")
        except OptionError as error:
            print(error)
        """
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "True 2.0", "remote service 'lost' (lost:Toy) does not load: No module named 'lost'",
    ]  # fmt: skip
