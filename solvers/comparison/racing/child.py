"""The racing process: one backend, on processors of its own, solves what it is told over a pipe.

    python -m solvers.comparison.racing.child

Lines of JSON come in on standard input and go out on what was standard output; whatever toolkits print goes to
standard error. It ends when its input does, in the middle of a solve if need be: nobody waits for the answer any more.
Started by :mod:`solvers.comparison.racing.track`, which sets the variables that bound the threads of numba, BLAS and
OpenMP.
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

_TINY = 6  # variables of the problem that warms a solver up
_TINY_SECONDS = 0.1
_MOST_CONTROLS = 10_000  # random states that are drawn beside samples
_MOST_INCUMBENTS = 500  # pairs that a row keeps
_CLAIMED = 2e-7  # share of its terms to which a solver's own count of an energy is right: kernels count in float32

LATER = (BudgetReached, RemoteError, UnavailableError)
"""Errors that say nothing about a solver: no row is written, and the next race tries again."""


def main() -> None:
    """Answer lines of JSON until they end."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # toolkits print; their lines must not come between ours
    racer = Racer()
    for message in _messages():
        try:
            answer = racer.answer(message)
        except LATER as error:
            answer = {"later": f"{type(error).__name__}: {error}"}
        except Exception as error:  # whatever a stranger's solver raises is its own row's matter
            answer = {"row": {"status": "failed", "error": f"{type(error).__name__}: {error}"}}
        _send(out, answer)


class Racer:
    """A solver, and the problem that it was last given."""

    def __init__(self) -> None:
        self._solver: Solver | None = None
        self._file = ""
        self._problem: BlockProblem | None = None
        self._setup = 0.0  # seconds of warming up that no row has told yet

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a message says."""
        if message["do"] == "make":
            self._solver = made(message["recipe"])
            return {"ready": True}
        assert self._solver is not None
        if message["file"] != self._file:
            self._file, self._problem = "", None  # the old one goes before the new one comes
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
    """Import and compile what a solve of a problem will use, on a problem of its form that is too small to matter.

    Nothing is sent to a service.
    """
    solver = fitted(solver, problem)
    solver._set_up(problem)
    if solver.capabilities.remote:
        return
    with contextlib.suppress(Exception):  # what cannot be solved tells so where it counts
        limit = None if time_limit is None else min(time_limit, _TINY_SECONDS)
        solver.solve(tiny(problem), seed=0, time_limit=limit)


def tiny(problem: BlockProblem) -> BlockProblem:
    """A few variables of a problem, the others held as in some feasible state; of its form, and one group of it."""
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
    """One solve as the cells of its row."""
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
    # A service's own time counts, not its queue; what has none of its own is timed here.
    queue = timing.get("queue", 0.0)
    own = wall - queue if queue < wall else wall  # an answer on record comes at once, whatever its queue was
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
    told = [] if used.capabilities.remote else info.get("incumbents", [])
    row["incumbents"] = _incumbents(told, energy, seconds, _CLAIMED * size_of_terms(problem))
    if info.get("proven"):
        row["lower_bound"] = energy
    elif info.get("lower_bound") is not None and np.isfinite(info["lower_bound"]):
        row["lower_bound"] = float(info["lower_bound"])
    return row | _samples(used, problem, info, message["seed"])


def _samples(solver: Solver, problem: BlockProblem, info: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What a toolkit had sampled before it was mended; of quantum ones, beside random states mended likewise."""
    raw: Mapping[str, Any] = info.get("raw") or {}
    energies = info.get("energies", raw)  # Leap tells them apart from the raw answer, QAOA with it
    count = info.get("shots", info.get("rows"))
    found: dict[str, Any] = {"samples": count, "raw": raw.get("energy"), "raw_feasible": raw.get("feasible")}
    if energies.get("repaired") is None or not count or paradigm(solver) == "Classical":
        return found if count else {}
    found |= {key: energies.get(key) for key in ("repaired", "polished")}
    drawn = problem.random_states(min(int(count), _MOST_CONTROLS), np.random.default_rng([seed, 1]))
    found["control_raw"] = float(np.min(problem.energy(drawn)))
    if energies.get("polished") is not None:
        mended = polish(problem, most_promising(problem, drawn))
        found["control_polished"] = float(np.min(problem.energy(mended)))
    return found


def _start(problem: BlockProblem, message: Mapping[str, Any]) -> StateArray | None:
    ones = message.get("start")
    if ones is None:
        return None
    x = np.zeros(problem.n, np.int8)
    x[ones] = 1
    return x


def _states(answer: Any, n: int) -> StateArray:
    """The rows of an answer [s, n], its variables in order."""
    binary = answer.change_vartype("BINARY", inplace=False)
    order = np.argsort(np.fromiter(binary.variables, np.int64, n))
    return np.ascontiguousarray(binary.record.sample[:, order], np.int8)


def _incumbents(told: list[Any], energy: float, seconds: float, rounding: float) -> list[tuple[float, float]]:
    """The improvements that a solver told of, down to the energy that was recomputed, `_MOST_INCUMBENTS` of them."""
    kept = [(float(t), float(e)) for t, e in told if e > energy + rounding and np.isfinite([t, e]).all()]
    reached = [float(t) for t, e in told if e <= energy + rounding]
    if len(kept) >= _MOST_INCUMBENTS:
        kept = [kept[round(i)] for i in np.linspace(0, len(kept) - 1, _MOST_INCUMBENTS - 1)]
    return [*kept, (min(reached[0] if reached else seconds, seconds), energy)]


@contextlib.contextmanager
def _on_account(calls: Mapping[str, Any] | None) -> Any:
    """Keep the calls of a solve on the race's record, where a service is called."""
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
    """The lines that come in, read in a thread so that the end of them ends the process whatever it is doing."""
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
