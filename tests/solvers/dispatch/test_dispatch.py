"""Every dispatch returns the same answers as the calling thread."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
from dataclasses import dataclass
from typing import Any, ClassVar

import dispatch_tasks
import numpy as np
import pytest

from problems import BlockProblem
from solvers import (
    Capabilities,
    Estimate,
    OptionError,
    Outcome,
    Solver,
    SolverError,
    UnavailableError,
    get_solver,
)
from solvers.dispatch import ByCapabilities, Dispatch, Processes, RayCluster, Serial, Threads, get_dispatch
from solvers.remote.account import Account, accounting, current_account
from solvers.remote.ledger import MemoryLedger
from solvers.run import cpu_threads

WAYS = ["serial", "threads?workers=3", "processes?workers=2"]


@pytest.fixture(scope="module", params=WAYS)
def dispatch(request: pytest.FixtureRequest) -> Any:
    with get_dispatch(request.param) as dispatch:
        yield dispatch


def blocks(count: int = 5, n: int = 60) -> list[BlockProblem]:
    """Blocks of all forms: dense, low-rank with a large factor, and scaled ones that share a matrix."""
    rng = np.random.default_rng(7)
    B = rng.standard_normal((200, 200))
    shared = B + B.T
    made = [BlockProblem(rng.standard_normal((n + p, n + p)), cardinality=n // 3) for p in range(count - 3)]
    A = rng.standard_normal((700, 40)).astype(np.float32)
    made.append(BlockProblem.low_rank(A, rng.standard_normal(700), cardinality=200))
    made += [BlockProblem.scaled(shared, rng.standard_normal(200), cardinality=50) for _ in range(2)]
    return made


def same(left: list[Any], right: list[Any]) -> bool:
    """Whether two lists of answers agree to the bit: states, energies and seeds."""
    return len(left) == len(right) and all(
        np.array_equal(a.record.sample, b.record.sample)
        and np.array_equal(a.record.energy, b.record.energy)
        and a.info["seed"] == b.info["seed"]
        and a.info["ended_by"] == b.info["ended_by"] == "work"
        for a, b in zip(left, right, strict=True)
    )


# Same answers


@pytest.mark.parametrize("backend", ["sa?restarts=3&sweeps=20", "tabu?offspring=10&restarts=2", "portfolio"])
def test_answers_are_those_of_solve_many_to_the_bit(dispatch: Dispatch, backend: str) -> None:
    solver, problems = get_solver(backend), blocks()
    starts = [problem.random_states(2, 1) for problem in problems]
    alone = solver.solve_many(problems, seed=11, initial_states=starts)
    assert same(dispatch.solve(solver, problems, seed=11, initial_states=starts), alone)


def test_targets_are_one_for_all_or_one_for_each(dispatch: Dispatch) -> None:
    problems = blocks()
    solver = get_solver("sa?restarts=2&sweeps=5")
    reached = dispatch.solve(solver, problems, seed=0, target=1e9)
    assert [answer.info["ended_by"] for answer in reached] == ["target"] * len(problems)
    some = dispatch.solve(solver, problems, seed=0, target=[1e9, None, None, None, 1e9])
    assert [answer.info["ended_by"] for answer in some] == ["target", "work", "work", "work", "target"]
    each = dispatch.solve(solver, problems, seed=0, target=np.array([1e9, -1e9, -1e9, -1e9, 1e9]))
    assert [answer.info["ended_by"] for answer in each] == ["target", "work", "work", "work", "target"]


def test_without_a_seed_each_problem_draws_its_own_and_reports_it(dispatch: Dispatch) -> None:
    solver, problems = get_solver("sa?restarts=1&sweeps=5"), blocks()
    drawn = dispatch.solve(solver, problems)
    again = [solver.solve(p, seed=answer.info["seed"]) for p, answer in zip(problems, drawn, strict=True)]
    assert same(drawn, again)


def test_results_have_the_index_of_their_task(dispatch: Dispatch) -> None:
    results = dict(dispatch.map(dispatch_tasks.slow_square, range(10)))
    assert results == {place: place * place for place in range(10)}
    assert list(dispatch.map(dispatch_tasks.square, [])) == []


def test_tasks_are_taken_as_workers_become_free(dispatch: Dispatch) -> None:
    taken = 0

    def tasks() -> Any:
        nonlocal taken
        for x in range(100):
            taken += 1
            yield x

    iterator = dispatch.map(dispatch_tasks.square, tasks())
    next(iterator)
    assert taken <= 2 * dispatch.workers + 1
    iterator.close()  # type: ignore[attr-defined]
    assert dict(dispatch.map(dispatch_tasks.square, [5])) == {0: 25}  # the pool still works


def test_tasks_read_shared_arrays(dispatch: Dispatch) -> None:
    array = np.random.default_rng(0).standard_normal((4000, 4))
    handle = dispatch.share({"array": array, "name": "a"})
    try:
        sums = dict(dispatch.map(dispatch_tasks.total, [(handle, column) for column in range(4)]))
    finally:
        handle.release()
    assert {place: value for place, (value, _) in sums.items()} == {c: float(array[:, c].sum()) for c in range(4)}


# Errors


def test_an_error_of_a_task_keeps_its_type_and_text(dispatch: Dispatch) -> None:
    with pytest.raises(ValueError, match="task 2 is refused"):
        list(dispatch.map(dispatch_tasks.refuse, range(6)))
    assert dict(dispatch.map(dispatch_tasks.square, [3])) == {0: 9}


def test_problems_refused_by_solve_many_are_refused_before_sending(dispatch: Dispatch) -> None:
    solver, problems = get_solver("sa"), blocks()
    with pytest.raises(OptionError, match="targets has 1 entries for 5 problems"):
        dispatch.solve(solver, problems, target=[1.0])
    with pytest.raises(OptionError, match="time_limit -1"):
        dispatch.solve(solver, problems, time_limit=-1)
    with pytest.raises(SolverError, match="takes at most"):
        dispatch.solve(get_solver("exact"), [BlockProblem(np.ones((500, 500)), cardinality=3)])


@dataclass(frozen=True)
class Missing(Solver):
    name: ClassVar[str] = "missing"

    def _refuse_what_is_missing(self) -> None:
        raise UnavailableError("missing: install it")

    def estimate(self, problem: BlockProblem) -> Estimate:
        return Estimate(1.0)

    def _search(self, problem: BlockProblem, run: Any) -> Outcome:
        return Outcome(problem.random_states(1, 0))


def test_an_unavailable_solver_raises_in_this_process(dispatch: Dispatch) -> None:
    with pytest.raises(UnavailableError, match="install it"):
        dispatch.solve(Missing(), blocks())


# Stopping


def test_tasks_see_a_requested_stop(dispatch: Dispatch) -> None:
    timer = threading.Event()
    threading.Timer(0.3, timer.set).start()
    seen = dict(dispatch.map(dispatch_tasks.wait_for_stop, range(3), stop=timer.is_set))
    assert seen == dict.fromkeys(range(3), True)


def test_stop_ends_a_solve_with_the_best_so_far(dispatch: Dispatch) -> None:
    asked = threading.Event()
    threading.Timer(0.5, asked.set).start()
    problems = blocks()
    answers = dispatch.solve(get_solver("sa?sweeps=1000000"), problems, seed=0, stop=asked.is_set)
    assert [answer.info["ended_by"] for answer in answers] == ["stop"] * len(problems)
    assert all(
        problem.is_feasible(answer.record.sample).all() for problem, answer in zip(problems, answers, strict=True)
    )


def test_ctrl_c_ends_a_solve_with_the_best_so_far(dispatch: Dispatch) -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    answers = dispatch.solve(get_solver("sa?sweeps=1000000"), blocks(), seed=0)
    assert [answer.info["ended_by"] for answer in answers] == ["interrupt"] * 5


def test_a_second_ctrl_c_interrupts_and_the_dispatch_still_works(dispatch: Dispatch) -> None:
    if not isinstance(dispatch, Processes):
        pytest.skip("running threads cannot be abandoned; the tests of each solver cover Ctrl-C")

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    threading.Timer(0.5, twice).start()
    with pytest.raises(KeyboardInterrupt):
        dispatch.solve(dispatch_tasks.IgnoresStop(), [BlockProblem(np.ones((5, 5)), cardinality=2)] * 2, seed=0)
    assert dict(dispatch.map(dispatch_tasks.square, [4])) == {0: 16}


# Solvers that stay in this process


@dataclass(frozen=True)
class AtAService(Solver):
    """Needs the caller's account; reports the process it ran in."""

    name: ClassVar[str] = "at-a-service"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(remote=True, device="service")

    def estimate(self, problem: BlockProblem) -> Estimate:
        return Estimate(1.0)

    def _search(self, problem: BlockProblem, run: Any) -> Outcome:
        account = current_account()
        assert account is not None
        return Outcome(problem.random_states(1, 0), info={"run": account.run, "process": os.getpid()})


def test_a_remote_solver_stays_in_this_process_with_its_account(dispatch: Dispatch) -> None:
    with accounting(Account(MemoryLedger(), "trial")):
        answers = dispatch.solve(AtAService(), blocks(), seed=0)
    assert {(a.info["run"], a.info["process"]) for a in answers} == {("trial", os.getpid())}


def test_a_batch_of_tensors_stays_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    if importlib.util.find_spec("triton"):
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        assert get_solver("tabu?engine=triton").solves_together(1)
    assert get_solver("tabu?engine=torch").solves_together(1)
    assert not get_solver("tabu?engine=numba").solves_together(1000)
    assert get_solver("leap").solves_together(1)


# By name


def test_dispatches_by_name_and_their_options() -> None:
    assert isinstance(get_dispatch(None), ByCapabilities)
    assert isinstance(get_dispatch("serial"), Serial)
    threads = get_dispatch("threads", workers=4)
    assert isinstance(threads, Threads)
    assert (threads.workers, get_dispatch(threads)) == (4, threads)
    processes = get_dispatch("processes?workers=2&threads=1&retries=0")
    assert isinstance(processes, Processes)
    assert (processes.workers, processes.threads, processes.retries) == (2, 1, 0)
    ray = get_dispatch("ray?address=10.0.0.1:6379")
    assert isinstance(ray, RayCluster)
    assert ray.address == "10.0.0.1:6379"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("process", "no dispatch 'process'; did you mean 'processes'"),
        ("threads?worker=2", "threads has no option 'worker'; did you mean 'workers'"),
        ("threads?workers=0", "workers 0 must be a whole number, 1 or more"),
        ("threads?workers=two", "workers 'two' must be a whole number"),
        ("threads?workers", "dispatch 'threads\\?workers': 'workers' must be key=value"),
        ("serial?workers=2", "serial has no option 'workers'; it has none"),
        ("ray?address=here", "address 'here' must be 'auto' or host:port"),
        (3, "dispatch 3 must be one of"),
    ],
)
def test_wrong_names_and_options_are_refused(text: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        get_dispatch(text)


def test_workers_times_threads_are_no_more_than_the_processors() -> None:
    for way in ("threads", "processes"):
        for workers in (1, 2, cpu_threads()):
            made: Any = get_dispatch(way, workers=workers)
            assert made.threads == max(1, cpu_threads() // workers)


def test_tasks_in_threads_know_how_many_threads_they_may_use() -> None:
    with get_dispatch("threads", workers=2, threads=1) as dispatch:
        assert {threads for _, (_, threads, _) in dispatch.map(dispatch_tasks.whereabouts, range(4))} == {1}
    assert cpu_threads() == dispatch_tasks.whereabouts(0)[1]


# The default


@dataclass(frozen=True)
class ReportsThread(Solver):
    """Reports whether it ran in the main thread."""

    name: ClassVar[str] = "reports-thread"

    compiled: bool = True

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(side_by_side=self.compiled)

    def estimate(self, problem: BlockProblem) -> Estimate:
        return Estimate(1.0)

    def _search(self, problem: BlockProblem, run: Any) -> Outcome:
        return Outcome(
            problem.random_states(1, 0), info={"here": threading.current_thread() is threading.main_thread()}
        )


@pytest.mark.skipif(cpu_threads() < 2, reason="one processor: nothing runs in parallel")
def test_the_default_dispatch_follows_the_solvers_capabilities() -> None:
    def here(solver: Solver, count: int = 3, **limits: Any) -> set[bool]:
        with get_dispatch(None) as dispatch:
            return {a.info["here"] for a in dispatch.solve(solver, blocks(5)[:count], seed=0, **limits)}

    assert here(ReportsThread()) == {False}
    assert here(ReportsThread(compiled=False)) == {True}
    assert here(ReportsThread(), count=1) == {True}
    assert here(ReportsThread(), time_limit=1.0) == {True}


@dataclass(frozen=True)
class InterruptsAtTheEnd(Solver):
    """Sends SIGINT at the end of its search."""

    name: ClassVar[str] = "interrupts-at-the-end"

    def estimate(self, problem: BlockProblem) -> Estimate:
        return Estimate(1.0)

    def _search(self, problem: BlockProblem, run: Any) -> Outcome:
        os.kill(os.getpid(), signal.SIGINT)
        return Outcome(problem.random_states(1, 0))


def test_a_ctrl_c_that_comes_too_late_to_end_anything_reaches_the_caller() -> None:
    with get_dispatch("threads?workers=2") as dispatch, pytest.raises(KeyboardInterrupt):
        dispatch.solve(InterruptsAtTheEnd(), blocks()[:1], seed=0)
