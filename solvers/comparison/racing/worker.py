"""The worker process of one backend, on its own processors: receives solves over a pipe.

    python -m solvers.comparison.racing.worker

It reads JSON lines from standard input and answers on the original standard output; output of toolkits goes to standard
error. It exits when its input is closed, even during a solve, since its parent has then ended or no longer needs it.
Started by :mod:`solvers.comparison.racing.track`, which sets the environment variables that limit the threads of
numba, BLAS and OpenMP.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np

import problems
from problems import BlockProblem
from problems.forms import StateArray
from solvers.base import Solver
from solvers.comparison.racing.entrants import made, paradigm
from solvers.comparison.racing.spending import RaceAccount
from solvers.decompose import fitted
from solvers.errors import BudgetReached, RemoteError, UnavailableError
from solvers.local.repair import polish
from solvers.ocean.penalised import most_promising
from solvers.precision import size_of_terms
from solvers.remote.account import accounting
from solvers.remote.ledger import FileLedger

_TINY = 6  # variables of the warm-up problem
_TINY_SECONDS = 0.1
_MOST_CONTROLS = 10_000  # maximal number of random control states
_MOST_INCUMBENTS = 500  # maximal number of pairs in a row
_CLAIMED = 2e-7  # relative accuracy of reported energies: kernels compute in float32

LATER = (BudgetReached, RemoteError, UnavailableError)
"""Temporary errors: no row is written, and the next call of `compare` repeats the solve."""


def main() -> None:
    """Answer JSON lines until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of toolkits must not mix with the answers
    racer = Racer()
    for message in _messages():
        try:
            answer = racer.answer(message)
        except LATER as error:
            answer = {"later": f"{type(error).__name__}: {error}"}
        except Exception as error:  # any error of a third-party solver becomes a failed row
            answer = {"row": {"status": "failed", "error": f"{type(error).__name__}: {error}"}}
        _send(out, answer)


class Racer:
    """A solver and its current problem."""

    def __init__(self) -> None:
        self._solver: Solver | None = None
        self._file = ""
        self._problem: BlockProblem | None = None
        self._setup = 0.0  # warm-up seconds not yet part of a row

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Process a message: create the solver, or solve."""
        if message["do"] == "make":
            self._solver = made(message["recipe"])
            return {"ready": True}
        assert self._solver is not None
        if message["file"] != self._file:
            self._file, self._problem = "", None  # free the old problem before loading the new one
            self._problem = problems.load(message["file"])
            self._file = message["file"]
            begun = time.perf_counter()
            warm_up(self._solver, self._problem, message["time_limit"])
            self._setup += time.perf_counter() - begun
        assert self._problem is not None
        with _on_account(message.get("calls")):
            row = solved(self._solver, self._problem, message)
        row["setup"] += self._setup
        self._setup = 0.0
        return {"row": row}


def warm_up(solver: Solver, problem: BlockProblem, time_limit: float | None) -> None:
    """Import and compile what a solve needs, by solving a tiny problem of the same form.

    No service is called.
    """
    solver = fitted(solver, problem)
    solver._set_up(problem)
    if solver.capabilities.remote:
        return
    with contextlib.suppress(Exception):  # the actual solve reports errors
        limit = None if time_limit is None else min(time_limit, _TINY_SECONDS)
        solver.solve(tiny(problem), seed=0, time_limit=limit)


def tiny(problem: BlockProblem) -> BlockProblem:
    """A restriction of a problem to a few variables of one group, the others fixed to a feasible state."""
    if problem.n <= _TINY:
        return problem
    x = problem.random_states(1, 0)[0]
    groups = problem.constraint.groups
    counts, sizes = problem.constraint.counts, problem.constraint.sizes
    mixed = np.flatnonzero((counts > 0) & (counts < sizes))
    group = int(mixed[0]) if len(mixed) else 0
    own = np.flatnonzero(groups == group)
    ones, zeros = own[x[own] == 1], own[x[own] == 0]
    return problem.restrict(np.concatenate([ones[: _TINY // 2], zeros[: _TINY // 2]]), x)


def solved(solver: Solver, problem: BlockProblem, message: Mapping[str, Any]) -> dict[str, Any]:
    """Solve, and return the cells of the row."""
    used = fitted(solver, problem)
    begun = time.perf_counter()
    answer = used.solve(
        problem, seed=message["seed"], time_limit=message["time_limit"], initial_states=_start(problem, message)
    )
    total = time.perf_counter() - begun
    info = answer.info
    timing = info.get("timing", {})
    states = _states(answer, problem.n)
    feasible = np.atleast_1d(problem.is_feasible(states))
    wall = float(timing.get("solve", total))
    # A service's own run time counts, without queue; if it reports none, the local wall time does.
    queue = timing.get("queue", 0.0)
    own = wall - queue if queue < wall else wall  # a recorded answer returns at once, whatever its queue was
    seconds = float(timing.get("run") or timing.get("access") or own) if used.capabilities.remote else wall
    row: dict[str, Any] = {
        "status": "ok" if feasible.any() else "infeasible",
        "seconds": seconds,
        "setup": float(timing.get("setup", 0.0)),
        "wall": wall,
        **{key: timing.get(key) for key in ("queue", "upload", "access", "charge")},
        "ended_by": info.get("ended_by", ""),
        "solver": info.get("backend", used.backend) if used is not solver else "",
        "states": len(states),
        "infeasible": int(np.count_nonzero(~feasible)),
    }
    if not feasible.any():
        return row
    row["energy"] = energy = float(np.min(problem.energy(states[feasible])))
    reported = [] if used.capabilities.remote else info.get("incumbents", [])
    row["incumbents"] = _incumbents(reported, energy, seconds, _CLAIMED * size_of_terms(problem))
    if info.get("proven"):
        row["lower_bound"] = energy
    elif info.get("lower_bound") is not None and np.isfinite(info["lower_bound"]):
        row["lower_bound"] = float(info["lower_bound"])
    return row | _samples(used, problem, info, message["seed"])


def _samples(solver: Solver, problem: BlockProblem, info: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Figures of raw samples before repair; for quantum solvers also of equally polished random control states."""
    raw: Mapping[str, Any] = info.get("raw") or {}
    energies = info.get("energies", raw)  # Leap reports them separately, QAOA inside `raw`
    count = info.get("shots", info.get("rows"))
    found: dict[str, Any] = {"samples": count, "raw": raw.get("energy"), "raw_feasible": raw.get("feasible")}
    if energies.get("repaired") is None or not count or paradigm(solver) == "Classical":
        return found if count else {}
    found |= {key: energies.get(key) for key in ("repaired", "polished")}
    drawn = problem.random_states(min(int(count), _MOST_CONTROLS), np.random.default_rng([seed, 1]))
    found["control_raw"] = float(np.min(problem.energy(drawn)))
    if energies.get("polished") is not None:
        polished = polish(problem, most_promising(problem, drawn))
        found["control_polished"] = float(np.min(problem.energy(polished)))
    return found


def _start(problem: BlockProblem, message: Mapping[str, Any]) -> StateArray | None:
    ones = message.get("start")
    if ones is None:
        return None
    x = np.zeros(problem.n, np.int8)
    x[ones] = 1
    return x


def _states(answer: Any, n: int) -> StateArray:
    """The states of an answer [s, n], with variables in order."""
    binary = answer.change_vartype("BINARY", inplace=False)
    order = np.argsort(np.fromiter(binary.variables, np.int64, n))
    return np.ascontiguousarray(binary.record.sample[:, order], np.int8)


def _incumbents(reported: list[Any], energy: float, seconds: float, rounding: float) -> list[tuple[float, float]]:
    """At most `_MOST_INCUMBENTS` of the reported improvements; the last has the recomputed energy."""
    kept = [(float(t), float(e)) for t, e in reported if e > energy + rounding and np.isfinite([t, e]).all()]
    reached = [float(t) for t, e in reported if e <= energy + rounding]
    if len(kept) >= _MOST_INCUMBENTS:
        kept = [kept[round(i)] for i in np.linspace(0, len(kept) - 1, _MOST_INCUMBENTS - 1)]
    return [*kept, (min(reached[0] if reached else seconds, seconds), energy)]


@contextlib.contextmanager
def _on_account(calls: Mapping[str, Any] | None) -> Any:
    """Record the calls to services of a solve in the comparison's ledger."""
    if calls is None:
        yield
        return
    with FileLedger(calls["file"]) as ledger:
        account = RaceAccount(
            ledger, calls["run"], calls["task"], max_calls=calls["max_calls"], max_charge=calls["max_charge"]
        )
        with accounting(account):
            yield


def _messages() -> Any:
    """Messages from standard input, read in a thread, so that end of input exits the process even during a solve."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(lines.get())


def _send(out: TextIO, answer: Mapping[str, Any]) -> None:
    out.write(json.dumps(answer) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
