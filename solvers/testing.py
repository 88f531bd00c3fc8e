"""What every solver must do, as checks that any test suite can run on a solver of its own.

With pytest, for a solver named by its class, settings and all::

    @pytest.mark.parametrize("check", conformance_checks(), ids=str)
    def test_conformance(check):
        check(lambda: MySolver(sweeps=100))

The problems are small: a solver passes in seconds. A heuristic that misses the optimum of eight variables with
its standard settings, or of the sizes it takes, does not pass.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import dimod
import numpy as np

from problems import BlockProblem
from problems.forms import StateArray
from solvers.base import Estimate, Solver
from solvers.errors import OptionError, SolverError

Factory: TypeAlias = Callable[[], Solver]

INFO = ("backend", "timing", "seed", "versions", "incumbents", "ended_by", "repaired", "raw")
"""Keys that every answer's `.info` has."""

_SLACK = 0.25  # seconds beyond a time limit and its fifth that count as kept: test machines are busy


@dataclass(frozen=True)
class Check:
    """One promise of the contract; calling it with a function that makes the solver puts it to the test.

    Returns:
        None when the solver keeps the promise; a sentence when it does not make it (by its capabilities, or
        because it is not available here).

    Raises:
        AssertionError: the promise is broken; the message says how.
    """

    name: str
    test: Callable[[Solver], str | None]
    needs_search: bool = True

    def __call__(self, make: Factory) -> str | None:
        solver = make()
        if self.needs_search:
            ready = type(solver).available()
            if not ready:
                return f"{solver.backend} is not available here: {ready.reason}"
        return self.test(solver)

    def __str__(self) -> str:
        return self.name


def conformance_checks() -> list[Check]:
    """All checks, in the order in which a new solver best learns to pass them."""
    return [
        Check("says whether it is available", _availability, needs_search=False),
        Check("is immutable and shows its settings", _immutability, needs_search=False),
        Check("estimates before it solves", _estimates, needs_search=False),
        Check("answers with feasible states for every cardinality", _feasibility),
        Check("reports the problem's own energies, lowest first, each state once", _energies),
        Check("finds the optimum of small problems", _small_optima),
        Check("finds it whatever the scale of the coefficients", _scales),
        Check("repeats itself with the same seed", _determinism),
        Check("starts from initial states and never ends above them", _initial_states),
        Check("ends at a target", _target),
        Check("ends when told to stop", _stop),
        Check("keeps a time limit or says by how much it did not", _time_limit),
        Check("leaves a complete record that JSON can hold", _record),
        Check("solves many problems as it solves one", _many),
        Check("works in a thread that is not the main one", _thread),
        Check("leaves the problem as it was", _purity),
        Check("refuses what makes no sense", _refusals),
        Check("refuses problems it says it cannot take", _limits),
    ]


# The problems


def small_problems(solver: Solver) -> Iterator[BlockProblem]:
    """Problems of 1 to 12 variables in the forms that a solver takes, no larger than it takes."""
    rng = np.random.default_rng(20240517)
    allowed = solver.capabilities
    for n, k in ((8, 4), (1, 0), (1, 1), (6, 0), (6, 6), (7, 1), (9, 8), (12, 5)):
        if allowed.max_variables is None or n <= allowed.max_variables:
            if allowed.dense:
                yield BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), k, offset=3.0)
                B = rng.normal(size=(n, n))
                yield BlockProblem.scaled(B @ B.T, rng.normal(size=n), None, k)
            yield BlockProblem.low_rank(rng.normal(size=(n, 3)), rng.normal(size=n), k, offset=-2.0)
    if allowed.groups and (allowed.max_variables is None or allowed.max_variables >= 12):
        groups = np.arange(12) % 3
        yield BlockProblem.low_rank(rng.normal(size=(12, 4)), rng.normal(size=12), [2, 0, 3], groups=groups)
        if allowed.dense:
            yield BlockProblem(rng.normal(size=(12, 12)), None, [2, 4, 1], groups=groups)


def optimum(problem: BlockProblem) -> float:
    """The lowest energy of a problem of at most 16 variables, by looking at every state."""
    if problem.n > 16:
        raise ValueError(f"n = {problem.n}: looking at every state ends at 16 variables")
    states = np.array(list(itertools.product((0, 1), repeat=problem.n)), np.int8)
    return float(problem.energy(states[problem.is_feasible(states)]).min())


def _sized(solver: Solver, n: int) -> BlockProblem:
    """A problem of n variables, or of as many as the solver takes."""
    n = min(n, solver.capabilities.max_variables or n)
    rng = np.random.default_rng(7)
    if solver.capabilities.dense:
        return BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), n // 2)
    return BlockProblem.low_rank(rng.normal(size=(n, 5)), rng.normal(size=n), n // 2)


# The checks


def _availability(solver: Solver) -> None:
    ready = type(solver).available()
    _require(
        bool(ready) or len(ready.reason) > 10, "available() is neither true nor a sentence that says what is missing"
    )
    _require(bool(solver.name), "the solver has no name")
    _require(not ready or not ready.reason, f"available() is true, yet gives a reason: {ready.reason!r}")


def _immutability(solver: Solver) -> None:
    _require(dataclasses.is_dataclass(solver), "a solver is a frozen dataclass of its settings")
    text = repr(solver)
    for setting in dataclasses.fields(solver):
        if setting.repr:
            _require(setting.name in text, f"the setting {setting.name} is not in {text}")
        before = getattr(solver, setting.name)
        try:
            setattr(solver, setting.name, before)
        except AttributeError:
            continue
        raise AssertionError(
            f"the setting {setting.name} can be assigned; decorate the class with @dataclass(frozen=True)"
        )


def _estimates(solver: Solver) -> None:
    estimate = solver.estimate(_sized(solver, 12))
    _require(isinstance(estimate, Estimate), f"estimate() returns {type(estimate).__name__}, not Estimate")
    _require(estimate.fits, "a problem of a size that the solver takes does not fit")
    _require(0.0 < estimate.seconds < np.inf, f"estimate().seconds is {estimate.seconds}")
    _require(0.0 <= estimate.charge_seconds < np.inf, f"estimate().charge_seconds is {estimate.charge_seconds}")


def _feasibility(solver: Solver) -> None:
    for problem in small_problems(solver):
        states = _states(solver.solve(problem, seed=1), problem)
        _require(len(states) > 0, f"no state at all for {problem}")
        _require(bool(np.all(problem.is_feasible(states))), f"an infeasible state for {problem}")


def _energies(solver: Solver) -> None:
    for problem in small_problems(solver):
        answer = solver.solve(problem, seed=2)
        states, energies = _states(answer, problem), answer.record.energy
        _require(_agree(problem, energies, problem.energy(states)), f"energies differ from problem.energy of {problem}")
        _require(bool(np.all(np.diff(energies) >= 0)), f"energies do not ascend: {energies}")
        _require(len(np.unique(states, axis=0)) == len(states), "a state comes back twice")
        _require(answer.first.energy == energies[0], ".first is not the first row")
        _require(answer.vartype is dimod.BINARY, f"the answer's vartype is {answer.vartype}")


def _small_optima(solver: Solver) -> None:
    for problem in small_problems(solver):
        _require_optimum(problem, solver.solve(problem, seed=3).first.energy)


def _scales(solver: Solver) -> None:
    rng = np.random.default_rng(11)
    n = min(8, solver.capabilities.max_variables or 8)
    A, c = rng.normal(size=(n, 3)), rng.normal(size=n)
    for scale in (1e-9, 1e9):
        problem = BlockProblem.low_rank(A * scale**0.5, c * scale, n // 2)
        for each in (problem, problem.to_dense()) if solver.capabilities.dense else (problem,):
            _require_optimum(each, solver.solve(each, seed=4).first.energy)


def _determinism(solver: Solver) -> str | None:
    if not solver.capabilities.deterministic:
        return "the solver does not promise to repeat itself"
    for problem in (_sized(solver, 40), _sized(solver, 9)):
        first, second = (solver.solve(problem, seed=12345) for _ in range(2))
        same = np.array_equal(first.record.sample, second.record.sample)
        _require(same and np.array_equal(first.record.energy, second.record.energy), "two runs with one seed differ")
    _require(first.info["seed"] == 12345, f".info['seed'] is {first.info['seed']!r}, not the seed that was given")
    drawn = solver.solve(problem).info["seed"]
    again = solver.solve(problem, seed=drawn)
    _require(again.info["seed"] == drawn, "the seed that a solve without one records cannot be given again")
    return None


def _initial_states(solver: Solver) -> None:
    for problem in (_sized(solver, 12), _sized(solver, 30)):
        states = problem.random_states(3, 5)
        for initial in (states, states[0], dimod.SampleSet.from_samples(states, "BINARY", energy=[0.0] * 3)):
            answer = solver.solve(problem, seed=5, initial_states=initial)
            bound = float(np.min(problem.energy(states if initial is not states[0] else states[:1])))
            worst = bound + 1e-9 * abs(bound)
            _require(answer.first.energy <= worst, f"started from energy {bound}, ended at {answer.first.energy}")
    problem = _sized(solver, 12)
    best = solver.solve(problem, seed=6).first
    state = np.array([best.sample[v] for v in range(problem.n)])
    again = solver.solve(problem, seed=7, initial_states=state)
    _require(again.first.energy <= best.energy, "a good initial state was lost")


def _target(solver: Solver) -> None:
    problem = _sized(solver, 12)
    easy = problem.random_mean_energy()
    answer = solver.solve(problem, seed=8, target=easy)
    _require(
        answer.first.energy <= easy, f"the target {easy} lies above most states, the answer is {answer.first.energy}"
    )
    _require(answer.info["ended_by"] == "target", f"ended by {answer.info['ended_by']!r} with the target reached")
    best = optimum(problem)
    _require_optimum(problem, solver.solve(problem, seed=8, target=best + 1e-9 * abs(best)).first.energy)
    answer = solver.solve(problem, seed=8, target=best - 1.0 - abs(best))
    _require(answer.info["ended_by"] != "target", "ended by a target that nothing can reach")


def _stop(solver: Solver) -> None:
    problem = _sized(solver, 30)
    answer = solver.solve(problem, seed=9, stop=lambda: True)
    _require(bool(np.all(problem.is_feasible(_states(answer, problem)))), "an infeasible answer after a stop")
    _require(answer.info["ended_by"] == "stop", f"told to stop, ended by {answer.info['ended_by']!r}")
    asked = 0

    def never() -> bool:
        nonlocal asked
        asked += 1
        return False

    answer = solver.solve(problem, seed=9, stop=never)
    _require(asked > 0, "stop was never asked")
    _require(answer.info["ended_by"] == "work", f"not told to stop, ended by {answer.info['ended_by']!r}")


def _time_limit(solver: Solver) -> None:
    problem, limit = _sized(solver, 60), 0.2
    solver.solve(problem, seed=10, time_limit=limit)  # imports and compilation are over
    begun = time.perf_counter()
    answer = solver.solve(problem, seed=10, time_limit=limit)
    spent = time.perf_counter() - begun - answer.info["timing"]["setup"]
    _require(bool(np.all(problem.is_feasible(_states(answer, problem)))), "an infeasible answer under a time limit")
    over = answer.info["timing"].get("overrun", 0.0)
    _require(spent <= 1.2 * limit + over + _SLACK, f"took {spent:.3f} s of {limit} s and reports {over:.3f} s too much")
    ended = answer.info["ended_by"]
    _require(ended in ("work", "time_limit"), f"ended by {ended!r} under a time limit")


def _record(solver: Solver) -> None:
    problem = _sized(solver, 12)
    answer = solver.solve(problem, seed=11)
    info = answer.info
    missing = [key for key in INFO if key not in info]
    _require(not missing, f".info lacks {missing}")
    _require(str(info["backend"]).partition("(")[0].partition(":")[0] == solver.name, f"backend is {info['backend']!r}")
    for key in ("setup", "solve", "total"):
        _require(info["timing"].get(key, -1.0) >= 0.0, f"timing lacks {key!r}: {info['timing']}")
    _require(info["timing"]["solve"] <= info["timing"]["total"], f"solve takes longer than total: {info['timing']}")
    _require("numpy" in info["versions"] or len(info["versions"]) > 1, f"versions name no toolkit: {info['versions']}")
    times, energies = np.array(info["incumbents"], float).reshape(-1, 2).T
    _require(len(times) > 0 and bool(np.all(np.diff(energies) < 0)), f"incumbents do not descend: {info['incumbents']}")
    _require(bool(np.all(np.diff(times) >= 0)), f"incumbents are not in order of time: {info['incumbents']}")
    _require(energies[-1] == answer.first.energy, f"the last incumbent {energies[-1]} is not the answer")
    _require(set(info["raw"]) >= {"energy", "feasible"}, f"raw is {info['raw']}")
    _require(info["ended_by"] == "work", f"ended by {info['ended_by']!r} without a limit")
    try:
        text = json.dumps(info)
    except TypeError as error:
        raise AssertionError(f"JSON cannot hold .info: {error}") from error
    _require(info == json.loads(text), "JSON does not give .info back as it was")


def _many(solver: Solver) -> None:
    problems = [problem for problem in small_problems(solver) if problem.n > 1][:6]
    answers = solver.solve_many(iter(problems), seed=12)
    _require(len(answers) == len(problems), "not one answer for each problem, in order")
    for problem, answer in zip(problems, answers, strict=True):
        _require_optimum(problem, answer.first.energy)
    _require(solver.solve_many([], seed=1) == [], "no problems, no answers")


def _thread(solver: Solver) -> None:
    problem, found = _sized(solver, 12), []
    thread = threading.Thread(target=lambda: found.append(solver.solve(problem, seed=13, stop=lambda: False)))
    thread.start()
    thread.join()
    _require(len(found) == 1, "the solve failed in a thread")
    _require_optimum(problem, found[0].first.energy)


def _purity(solver: Solver) -> None:
    for problem in itertools.islice(small_problems(solver), 2):
        before = _fingerprint(problem)
        initial = problem.random_states(2, 0)
        kept = initial.copy()
        solver.solve(problem, seed=14, initial_states=initial)
        _require(_fingerprint(problem) == before, f"{problem} was changed")
        _require(bool(np.array_equal(initial, kept)), "the caller's initial states were changed")


def _refusals(solver: Solver) -> None:
    problem = _sized(solver, 8)
    n, k = problem.n, problem.constraint.total
    wrong = np.ones(n, np.int8) if k != n else np.zeros(n, np.int8)
    refused: list[tuple[str, dict[str, Any]]] = [
        ("a seed of -1", {"seed": -1}),
        ("a seed of 1.5", {"seed": 1.5}),
        ("a time limit of 0", {"time_limit": 0}),
        ("a negative time limit", {"time_limit": -1.0}),
        ("a time limit of NaN", {"time_limit": float("nan")}),
        ("a target of NaN", {"target": float("nan")}),
        ("a stop that is no function", {"stop": True}),
        ("an initial state of another size", {"initial_states": np.zeros(n + 1, np.int8)}),
        ("an infeasible initial state", {"initial_states": wrong}),
        ("an empty list of initial states", {"initial_states": np.zeros((0, n), np.int8)}),
    ]
    for what, arguments in refused:
        _require_refusal(what, functools.partial(solver.solve, problem, **arguments))
    things: list[Any] = [problem.form.dense(), None, "a file name"]
    for thing in things:
        _require_refusal(f"{type(thing).__name__} as a problem", functools.partial(solver.solve, thing))


def _limits(solver: Solver) -> str | None:
    allowed = solver.capabilities
    skipped = []
    if allowed.max_variables is None or allowed.max_variables > 100_000:
        skipped.append("no largest n within reach")
    else:
        n = allowed.max_variables + 1
        large = BlockProblem.low_rank(np.ones((n, 1)), cardinality=1)
        text = _require_refusal(f"a problem of {n} variables", lambda: solver.solve(large, seed=0))
        _require(str(n) in text and str(n - 1) in text, f"the refusal does not name both sizes: {text}")
    if allowed.groups:
        skipped.append("groups are taken")
    else:
        grouped = BlockProblem.low_rank(np.ones((4, 1)), cardinality=[1, 1], groups=[0, 0, 1, 1])
        _require_refusal("a problem with groups", lambda: solver.solve(grouped, seed=0))
    return "; ".join(skipped) if len(skipped) == 2 else None


# Their helpers


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _require_optimum(problem: BlockProblem, energy: float) -> None:
    best = optimum(problem)
    fine = energy <= best or _agree(problem, energy, best)
    _require(fine, f"the optimum of {problem} is {best}, the answer has {energy}")


def _agree(problem: BlockProblem, energies: Any, others: Any) -> bool:
    """Equal up to rounding: how sums are ordered depends on how many states are summed at once."""
    size = np.abs(problem.form.dense()).sum() + np.abs(problem.single_energies).sum() + abs(problem.offset)
    return bool(np.all(np.abs(np.asarray(energies) - others) <= 1e-12 * size))


def _require_refusal(what: str, attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except (OptionError, SolverError, ValueError) as error:
        _require(len(str(error)) > 10, f"{what} is refused without a word")
        return str(error)
    except Exception as error:
        raise AssertionError(f"{what} ends in {type(error).__name__}, not in an error that explains itself") from error
    raise AssertionError(f"{what} is not refused")


def _states(answer: dimod.SampleSet, problem: BlockProblem) -> StateArray:
    _require(
        list(answer.variables) == list(range(problem.n)), f"the answer's variables are not 0..{problem.n - 1} in order"
    )
    return np.asarray(answer.record.sample, np.int8)


def _fingerprint(problem: BlockProblem) -> tuple[bytes, ...]:
    arrays = [problem.form.dense(), problem.linear, problem.constraint.counts, problem.constraint.groups]
    return (*(np.ascontiguousarray(array).tobytes() for array in arrays), str(problem.offset).encode())
