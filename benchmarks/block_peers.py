"""Third-party solvers on a block: the energy that each finds within a time, on one core.

None of them supports a cardinality, so each runs with the penalty p (sum x - k)^2 for every p of `PENALTIES`, in units
of mean|Q| sqrt(n). Infeasible states are repaired by our code (greedily, by energy). Neither the repair nor building
the model counts in their time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from problems import BlockProblem
from solvers.local.repair import repair

PENALTIES = (0.1, 1.0, 10.0)
"""Times mean|Q| sqrt(n). Annealers do best with small ones, tabu search with 10."""

_TRIAL_SWEEPS, _TRIAL_SECONDS = 10, 0.2  # by which the speed of an annealer is measured, at least
_AGENTS, _SB_STEPS = 64, 3000  # of simulated bifurcation: its pump is full after 1,000 steps

Search = Callable[[float, int], np.ndarray]
"""Takes seconds and a seed; gives states [b, n]."""


class Peer:
    """One solver with one penalty on one problem."""

    def __init__(self, name: str, problem: BlockProblem, penalty: float) -> None:
        self.name, self._problem = name, problem
        size = penalty * float(np.abs(problem.form.dense()).mean()) * problem.n**0.5
        self._search: Search = _SEARCHES[name](problem, size)

    def best_in(self, seconds: float, seed: int) -> float:
        """The energy of the best state found within a time, repaired if infeasible."""
        states, _ = repair(self._problem, self._search(seconds, seed))
        return float(self._problem.energy(states).min())


def _dwave_tabu(problem: BlockProblem, penalty: float) -> Search:
    from dwave.samplers import TabuSampler

    bqm = problem.to_bqm(penalty=penalty)
    return lambda seconds, seed: _in_order(
        problem, TabuSampler().sample(bqm, timeout=max(1, int(1000 * seconds)), seed=seed)
    )


def _dwave_sa(problem: BlockProblem, penalty: float) -> Search:
    from dwave.samplers import SimulatedAnnealingSampler

    bqm = problem.to_bqm(penalty=penalty)
    return _annealer(
        lambda sweeps, seed: _in_order(
            problem, SimulatedAnnealingSampler().sample(bqm, num_reads=1, num_sweeps=sweeps, seed=seed)
        )
    )


def _openjij(problem: BlockProblem, penalty: float) -> Search:
    import openjij

    # As a dense model of its own: a dimod BQM becomes a dictionary there, and takes seconds at each call.
    matrix = np.triu(2.0 * (problem.form.dense() + penalty), 1)
    np.fill_diagonal(matrix, problem.single_energies + penalty * (1.0 - 2.0 * problem.cardinality))
    model = openjij.model.model.bqm_from_numpy_matrix(matrix, vartype="BINARY")
    sampler = openjij.SASampler()
    return _annealer(
        lambda sweeps, seed: _in_order(
            problem, sampler.sample(model, num_reads=1, num_sweeps=sweeps, seed=seed, sparse=False)
        )
    )


def _simulated_bifurcation(problem: BlockProblem, penalty: float) -> Search:
    import simulated_bifurcation as sb
    import torch

    n, k = problem.n, problem.cardinality
    torch.set_num_threads(1)
    quadratic = torch.from_numpy((problem.form.dense() + penalty * (1.0 - np.eye(n))).astype(np.float32))
    linear = torch.from_numpy((problem.single_energies + penalty * (1.0 - 2.0 * k)).astype(np.float32))

    def search(seconds: float, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        found, begun = [], time.perf_counter()
        while (left := seconds - (time.perf_counter() - begun)) > 0.0:
            states, _ = sb.minimize(
                quadratic, linear, domain="binary", agents=_AGENTS, max_steps=_SB_STEPS, timeout=left,
                best_only=False, early_stopping=False, verbose=False,
            )  # fmt: skip
            found.append(states.numpy().astype(np.int8))
        return np.concatenate(found)

    return search


def _annealer(anneal: Callable[[int, int], np.ndarray]) -> Search:
    """An annealer without a time limit, run for a time: one read of as many sweeps as fit.

    The time of a call outside its sweeps, such as reading the model, is not counted.
    """
    anneal(1, 0)
    fixed, took, sweeps = min(_work(lambda: anneal(1, 0)) for _ in range(3)), 0.0, _TRIAL_SWEEPS
    while took < _TRIAL_SECONDS + fixed:
        sweeps *= 2
        took = _work(lambda: anneal(sweeps, 0))  # noqa: B023 - called at once
    sweep = (took - fixed) / (sweeps - 1)
    return lambda seconds, seed: anneal(max(1, math.floor(seconds / sweep)), seed)


def _work(call: Callable[[], object]) -> float:
    """Processor seconds of a call in this thread."""
    begun = time.thread_time()
    call()
    return time.thread_time() - begun


def _in_order(problem: BlockProblem, found) -> np.ndarray:
    order = [found.variables.index(v) for v in range(problem.n)]
    return np.asarray(found.record.sample[:, order], np.int8)


_SEARCHES: dict[str, Callable[[BlockProblem, float], Search]] = {
    "dwave-tabu": _dwave_tabu,
    "dwave-sa": _dwave_sa,
    "openjij-sa": _openjij,
    "simulated-bifurcation": _simulated_bifurcation,
}

PEERS = tuple(_SEARCHES)
