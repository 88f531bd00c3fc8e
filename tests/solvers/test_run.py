"""A solve hears the clock, its target, its caller and Ctrl-C, and keeps a true record."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from problems import BlockProblem
from solvers import OptionError, Run, UnavailableError, get_solver
from solvers.base import Availability
from solvers.exact import Exact
from solvers.run import LONGEST, MAX_SEED, Pace

RNG = np.random.default_rng(0)
ENDLESS = BlockProblem(RNG.normal(size=(120, 120)), RNG.normal(size=120), 60)
"""A problem whose proof takes longer than anyone waits."""


def checked(**given):
    return Run.checked(**{"seed": 0, "time_limit": None, "target": None, "initial_states": None, "stop": None} | given)


@pytest.mark.parametrize("limit", [0.05, 0.3])
def test_a_time_limit_binds(limit):
    Exact().solve(ENDLESS, seed=0, time_limit=0.01)  # compiled now
    begun = time.perf_counter()
    answer = Exact().solve(ENDLESS, seed=0, time_limit=limit)
    assert time.perf_counter() - begun < 1.1 * limit + 0.25
    assert answer.info["ended_by"] == "time_limit"
    timing = answer.info["timing"]
    assert timing["solve"] >= limit
    assert timing["overrun"] == pytest.approx(timing["solve"] - limit)


def test_a_target_ends_a_solve_and_a_missed_one_does_not():
    easy = ENDLESS.random_mean_energy()
    answer = Exact().solve(ENDLESS, seed=0, target=easy)
    assert answer.info["ended_by"] == "target"
    assert answer.first.energy <= easy
    small = BlockProblem(np.eye(4), np.arange(4.0), 2)
    assert Exact().solve(small, target=-100.0).info["ended_by"] == "work"
    assert Exact().solve(small, target=3.0).info["ended_by"] == "target"


def test_stop_is_asked_while_the_search_goes_on():
    asked = []

    def stop():
        asked.append(time.perf_counter())
        return len(asked) == 20

    answer = Exact().solve(ENDLESS, seed=0, stop=stop)
    assert answer.info["ended_by"] == "stop"
    assert len(asked) == 20
    assert ENDLESS.is_feasible(answer.record.sample).all()


def test_what_a_stop_raises_reaches_the_caller():
    def stop():
        raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="the caller's own"):
        Exact().solve(ENDLESS, seed=0, stop=stop)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


CHILD = """
    import signal
    import numpy as np
    from problems import BlockProblem
    from solvers import solve

    rng = np.random.default_rng(0)
    problem = BlockProblem(rng.normal(size=(120, 120)), rng.normal(size=120), 60)
    told = []

    def stop():
        if not told:
            told.append(print("searching", flush=True))
        return False

    answer = solve(problem, {backend!r}, seed=0, stop=stop, time_limit=100.0)
    print(answer.info["ended_by"], problem.is_feasible(answer.record.sample).all(), flush=True)
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
"""


@pytest.mark.parametrize("backend", ["exact", "decompose?solver=exact&size=24", "ocean-sa", "ocean-tabu"])
def test_ctrl_c_ends_a_solve_with_the_best_so_far(backend):
    program = textwrap.dedent(CHILD.format(backend=backend))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "searching\n"
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=60)
    assert out.split("\n")[:2] == ["interrupt True", "True"]
    assert child.returncode == 0


def test_a_second_ctrl_c_interrupts_as_usual():
    def stop():
        signal.raise_signal(signal.SIGINT)
        return False

    run = checked(stop=stop)
    with run.listening():
        assert run.should_end()
        assert run.ended_by == "interrupt"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_record_descends_to_the_true_energy():
    run = checked()
    for energy in (5.0, 4.0, 4.5, 2.0000001, 2.0, 1.9999999):
        run.record(energy)
    assert [e for _, e in run.incumbents] == [5.0, 4.0, 2.0000001, 2.0, 1.9999999]
    # 2.0 is the answer recomputed: what lies below was a kernel's rounding.
    assert [e for _, e in run.incumbents_down_to(2.0)] == [5.0, 4.0, 2.0000001, 2.0]
    assert [e for _, e in run.incumbents_down_to(1.0)][-2:] == [1.9999999, 1.0]
    assert [e for _, e in checked().incumbents_down_to(3.0)] == [3.0]


def test_the_first_reason_to_end_is_kept():
    run = checked(target=1.0, time_limit=1e-9)
    assert run.should_end()
    run.record(0.0)
    assert run.ended_by == "time_limit"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, "seed -1 must be"),
        ({"seed": True}, "seed True must be"),
        ({"seed": 1.0}, "seed 1.0 must be"),
        ({"seed": MAX_SEED + 1}, "must be an integer between"),
        ({"time_limit": 0}, "time_limit 0 must be more than 0"),
        ({"time_limit": math.nan}, "time_limit nan must be a number"),
        ({"time_limit": "3"}, "time_limit '3' must be a number"),
        ({"target": math.nan}, "target nan must be a number"),
        ({"target": True}, "target True must be a number"),
        ({"stop": 5}, "stop 5 must be a function"),
    ],
)
def test_limits_that_make_no_sense_are_refused(given, message):
    with pytest.raises(OptionError, match=message):
        checked(**given)


def test_a_seed_that_is_not_given_is_drawn_and_told():
    first, second = checked(seed=None).seed, checked(seed=None).seed
    assert first != second
    assert checked(seed=np.int64(7)).seed == 7


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_give_results_in_order(threads):
    assert checked().in_threads(lambda i: i * i, 7, threads) == [i * i for i in range(7)]


def test_stop_is_asked_in_the_callers_thread_even_while_others_work():
    threads = set()

    def stop():
        threads.add(threading.current_thread())
        return len(threads) > 0

    run = checked(stop=stop)

    def work(_):
        while not run.should_end():
            time.sleep(0.001)

    with run.listening():
        run.in_threads(work, 2, 2)
    assert threads == {threading.current_thread()}
    assert run.ended_by == "stop"


def test_a_pace_never_asks_for_more_than_is_left_nor_for_nothing():
    pace = Pace(1000)
    assert pace.begin(10) == 10
    for _ in range(30):
        pace.begin(10**9)
        pace.done(1)
    assert pace.steps >= 1
    steps = pace.steps
    pace.begin(10**9)
    pace.done(steps)
    assert pace.steps <= 4 * steps


def test_a_solve_in_a_thread_leaves_signals_alone():
    found = []
    thread = threading.Thread(
        target=lambda: found.append(get_solver("exact").solve(BlockProblem(np.eye(3), cardinality=1)))
    )
    thread.start()
    thread.join()
    assert found[0].info["ended_by"] == "work"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("backend", ["sa", "tabu", "exact", "decompose?solver=exact&size=24", "tabu?engine=torch"])
def test_one_ctrl_c_ends_a_whole_batch(backend):
    if "torch" in backend:
        pytest.importorskip("torch")
    asked = []

    def stop():
        if not asked:
            signal.raise_signal(signal.SIGINT)
        asked.append(None)
        return False

    listed = [ENDLESS] * 4
    # Unless all of them end, this takes minutes, and a limit ends the rest.
    found = get_solver(backend).solve_many(listed, seed=0, time_limit=30.0, stop=stop)
    assert [answer.info["ended_by"] for answer in found] == ["interrupt"] * 4
    assert all(ENDLESS.is_feasible(answer.record.sample).all() for answer in found)
    assert len(asked) < 5  # whoever has ended asks no more
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_many_problems_ask_first_whether_the_backend_is_there():
    class Missing(Exact):
        @classmethod
        def available(cls):
            return Availability(False, "there is none")

    with pytest.raises(UnavailableError, match="there is none"):
        Missing().solve_many([ENDLESS], time_limit=0.1)


def test_an_infinite_time_limit_is_none():
    assert checked(time_limit=math.inf).time_limit is None
    problem = BlockProblem(np.eye(4), np.arange(4.0), 2)
    for backend in ("sa?restarts=2", "tabu?offspring=2", "exact"):
        assert get_solver(backend).solve(problem, seed=0, time_limit=math.inf).info["ended_by"] == "work"


@pytest.mark.parametrize(("given", "taken"), [(sys.float_info.max, LONGEST), (10**300, LONGEST), (10**400, None)])
def test_time_limits_beyond_all_clocks_are_taken_for_the_longest_or_for_none(given, taken):
    assert checked(time_limit=given).time_limit == taken
    problem = BlockProblem(np.eye(4), np.arange(4.0), 2)
    for backend in ("sa?restarts=2", "tabu", "exact"):
        assert get_solver(backend).solve(problem, seed=0, time_limit=given, target=3.0).info["ended_by"] == "target"


@pytest.mark.parametrize("backend", ["sa?restarts=2", "tabu?offspring=2", "exact"])
@pytest.mark.parametrize("size", [1.0, 1e-300, 1e305])
def test_targets_may_be_infinite_or_become_so_in_the_units_of_a_search(backend, size):
    rng = np.random.default_rng(1)
    problem = BlockProblem(size * rng.normal(size=(20, 20)), cardinality=5)
    solver = get_solver(backend)
    everything = solver.solve(problem, seed=0)
    for low in (-math.inf, -1e308):
        answer = solver.solve(problem, seed=0, target=low)
        assert answer.info["ended_by"] == "work"
        assert answer.first.energy == everything.first.energy
    for high in (math.inf, 1e308):
        answer = solver.solve(problem, seed=0, target=high)
        assert answer.info["ended_by"] == "target"
        assert problem.is_feasible(answer.record.sample).all()


def test_a_target_is_not_said_to_be_reached_where_terms_are_too_large_to_be_added_up():
    problem = BlockProblem(1e305 * np.random.default_rng(0).normal(size=(150, 150)), cardinality=50)
    for backend in ("sa?restarts=2", "tabu?offspring=2"):
        best = get_solver(backend).solve(problem, seed=0).first.energy
        answer = get_solver(backend).solve(problem, seed=0, target=1.1 * best)
        assert answer.info["ended_by"] == "work"


def test_arrays_are_as_good_as_lists_where_each_problem_has_its_own():
    problem = BlockProblem(np.eye(4), np.arange(4.0), 2)
    solver = get_solver("tabu?offspring=2")
    starts = problem.random_states(2, 0)
    answers = solver.solve_many([problem] * 2, seed=0, targets=np.array([1e9, -1e9]), initial_states=starts)
    assert [answer.info["ended_by"] for answer in answers] == ["target", "work"]
    with pytest.raises(OptionError, match="seed '1' must be"):
        solver.solve_many([problem] * 2, seed="1")


def test_each_answers_record_is_its_own():
    problem = BlockProblem(np.eye(4), np.arange(4.0), 2)
    first = get_solver("exact").solve(problem)
    first.info["versions"].clear()
    assert get_solver("exact").solve(problem).info["versions"]
