"""Several solvers on one problem: the best answer counts, and one that fails costs a warning, not the solve."""

from __future__ import annotations

import json
import logging
import os
import signal
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from problems import BlockProblem, instances
from solvers import (
    Availability,
    BudgetReached,
    Capabilities,
    Estimate,
    OptionError,
    Outcome,
    RemoteError,
    Solver,
    SolverError,
    UnavailableError,
    get_solver,
)
from solvers.portfolio import Portfolio
from solvers.remote.account import Account, accounting
from solvers.remote.ledger import MemoryLedger


@dataclass(frozen=True)
class Given(Solver):
    """Answers with the first state, turned so many places, if that is better than what it starts from; or fails."""

    name: ClassVar[str] = "given"

    shift: int = 0
    error: Any = None

    def estimate(self, problem: BlockProblem) -> Estimate:
        return Estimate(0.5, charge_seconds=1.0, calls=1, upload_bytes=10.0, note=f"shift {self.shift}")

    def _search(self, problem, run):
        if self.error is not None:
            raise self.error
        states = np.roll(problem.random_states(1, 0), self.shift, axis=1)
        return Outcome(states if run.initial_states is None else np.concatenate([states, run.initial_states]))


@dataclass(frozen=True)
class Absent(Given):
    name: ClassVar[str] = "absent"

    @classmethod
    def available(cls):
        return Availability(False, "set ABSENT_TOKEN")


@dataclass(frozen=True)
class Slow(Given):
    name: ClassVar[str] = "slow"

    @property
    def capabilities(self):
        return Capabilities(remote=True)


@dataclass(frozen=True)
class Small(Given):
    name: ClassVar[str] = "small"

    @property
    def capabilities(self):
        return Capabilities(max_variables=10)


@pytest.fixture
def problem() -> BlockProblem:
    return instances.random(24, cardinality=9, seed=4)


@pytest.mark.parametrize("at_once", [False, True])
def test_the_best_answer_counts_and_each_member_has_its_line(problem: BlockProblem, at_once: bool) -> None:
    members = Given(0), Given(1), Given(2)
    alone = [float(member.solve(problem).first.energy) for member in members]
    answer = Portfolio(members, at_once).solve(problem, seed=0)
    assert answer.first.energy == pytest.approx(min(alone), rel=1e-12)
    lines = answer.info["members"]
    assert [line["backend"] for line in lines] == ["given"] * 3
    wanted = alone if at_once else list(np.minimum.accumulate(alone))  # in turn, each begins at the best before it
    assert [line["energy"] for line in lines] == pytest.approx(wanted, rel=1e-12)
    json.dumps(answer.info, allow_nan=False)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("error", [RemoteError("it is down"), BudgetReached("no seconds left")])
def test_a_member_that_fails_is_passed_over_with_a_warning(
    problem: BlockProblem, at_once: bool, error: SolverError, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "solvers.portfolio"):
        answer = Portfolio((Given(error=error), "exact"), at_once).solve(problem, seed=0)
    assert answer.info["best"] == "exact"
    assert answer.info["members"][0]["error"] == str(error)
    assert [record.message for record in caplog.records] == [f"given is passed over: {error}"]


def test_where_every_member_fails_the_portfolio_does(problem: BlockProblem) -> None:
    with pytest.raises(RemoteError, match=r"every member failed\. it is down\. gone"):
        Portfolio((Given(error=RemoteError("it is down")), Given(error=RemoteError("gone")))).solve(problem)


def test_where_one_of_them_came_to_the_end_of_its_budget_so_has_the_portfolio(problem: BlockProblem) -> None:
    members = Given(error=RemoteError("it is down")), Given(error=BudgetReached("no seconds left"))
    with pytest.raises(BudgetReached, match="no seconds left"):
        Portfolio(members).solve(problem)


def test_a_member_that_is_not_ready_is_passed_over_and_none_that_is_an_error(problem: BlockProblem) -> None:
    assert (
        Portfolio((Absent(), "exact")).solve(problem, seed=0).info["members"][0]["error"] == "absent: set ABSENT_TOKEN"
    )
    with pytest.raises(UnavailableError, match=r"no member is ready.*set ABSENT_TOKEN"):
        Portfolio((Absent(), Absent())).solve(problem)


def test_a_service_that_takes_longer_than_there_is_time_is_not_asked(problem: BlockProblem) -> None:
    answer = Portfolio((Slow(), "sa")).solve(problem, seed=0, time_limit=0.2)
    assert "takes 1 s at least" in answer.info["members"][0]["error"]
    assert answer.info["timing"]["solve"] < 2.0


def test_in_turn_the_time_is_shared_out(problem: BlockProblem) -> None:
    answer = get_solver("portfolio?solvers=sa+tabu").solve(problem, seed=0, time_limit=0.4)
    first, second = (line["seconds"] for line in answer.info["members"])
    assert first < 0.35  # an even share is 0.2
    assert first + second < 2.0


@pytest.mark.parametrize("at_once", [False, True])
def test_a_target_ends_it(problem: BlockProblem, at_once: bool) -> None:
    best = float(get_solver("exact").solve(problem).first.energy)
    answer = Portfolio(("exact", "tabu"), at_once).solve(problem, seed=0, target=best)
    assert answer.first.energy == best
    assert answer.info["ended_by"] == "target"
    assert at_once or len(answer.info["members"]) == 1


@pytest.mark.parametrize("at_once", [False, True])
def test_ctrl_c_ends_it_with_the_best_so_far(at_once: bool) -> None:
    large = instances.random(400, cardinality=200, seed=0)
    sent = []

    def interrupt() -> bool:
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))
        return False

    answer = Portfolio(("sa", "tabu"), at_once).solve(large, seed=0, time_limit=20.0, stop=interrupt)
    assert answer.info["ended_by"] == "interrupt"
    assert answer.info["timing"]["solve"] < 10.0


def test_what_is_too_large_for_a_member_is_decomposed_for_it(problem: BlockProblem) -> None:
    answer = Portfolio((Small(),)).solve(problem, seed=0)
    assert answer.info["members"][0]["backend"] == "small"
    assert answer.info["best"] == "decompose(small)"


def test_estimates_add_up_in_turn_and_overlap_at_once(problem: BlockProblem) -> None:
    in_turn, at_once = (Portfolio((Given(), Given(1)), flag).estimate(problem) for flag in (False, True))
    assert (in_turn.seconds, in_turn.charge_seconds, in_turn.calls, in_turn.upload_bytes) == (1.0, 2.0, 2, 20.0)
    assert (at_once.seconds, at_once.charge_seconds) == (0.5, 2.0)


def test_members_are_named_in_text_with_a_plus_between_them() -> None:
    solver = get_solver("portfolio?solvers=sa?restarts=3+tabu&at_once=true")
    assert solver.backend == "portfolio(sa+tabu)"
    assert solver.members[0].restarts == 3
    assert solver.at_once is True


@pytest.mark.parametrize(("given", "message"), [((), "needs a solver"), ("sa+nosuch", "no backend 'nosuch'")])
def test_members_that_do_not_exist_are_refused(given: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Portfolio(given)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_service_out_of_budget_falls_to_the_next(problem: BlockProblem, sapi: Any, at_once: bool) -> None:
    solver = Portfolio(("leap", "exact"), at_once)
    with accounting(Account(MemoryLedger(), "trial", max_calls=1)):
        first, second = solver.solve(problem, seed=0), solver.solve(problem, seed=1)
    assert [line["energy"] is None for line in first.info["members"]] == [False, False]
    assert "limit of 1 calls" in second.info["members"][0]["error"]
    assert second.info["best"] == "exact"
    assert sapi.counts["accepted"] == 1
