"""Simulated annealing by swaps: every state on the way has the demanded ones, so no penalty blunts the search."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from problems import BlockProblem
from problems.forms import StateArray
from solvers.base import Capabilities, Estimate, Outcome, Solver
from solvers.checks import at_least
from solvers.errors import OptionError
from solvers.local.arrays import DenseArrays, FactorArrays, Float32Array, dense_arrays, factor_arrays, stream_of
from solvers.local.flips import FlipAnnealing
from solvers.local.sampler import LocalSampler
from solvers.local.sub_blocks import SubBlockSearch
from solvers.local.target import TargetWatch
from solvers.local.temperatures import temperature_range
from solvers.local.walks import FactorWalk, MatrixWalk, Walk, settled, wake_temperatures
from solvers.run import Pace, Run, cpu_threads

WARM = 0.25
"""A restart from a given state begins at this share of the first temperature: hot enough to leave it, too cold to
forget it."""

DENSE_UP_TO = 2048
"""Low-rank problems of at most so many variables are made dense (17 MB): a proposal then costs O(1), not O(rank)."""

MOST_SWEEPS = 10_000_000
"""Each has a temperature of its own, and those of an annealing are kept: 40 MB."""

_SAMPLED = 4096  # swaps by which the range of temperatures is measured
_SUB_BLOCKS = 16  # with which the descent of a large low-rank problem ends at the latest
MOST_FITTED = 1 << 18  # sweeps of one annealing within a time limit; after so many another state is worth more
_SETTLING = 0.1  # share of a time limit that is left for the descent


@dataclass(frozen=True)
class SimulatedAnnealing(Solver, LocalSampler):
    """Simulated annealing from random states, or from those given, by swaps of a one and a zero.

    Temperatures fall geometrically over a range that is measured on the problem itself, so no setting depends on the
    scale of its coefficients. A proposal costs O(1) on a matrix and O(rank) on a factor, whatever n is. Each restart
    ends with a descent: on a matrix to a state that no swap improves, on the factor of a larger problem by bulk
    exchanges and some sub-blocks.

    Attributes:
        restarts: number of annealings. With a time limit, rounds of that many restarts follow each other until it
            ends, each with twice the sweeps of the one before.
        sweeps: proposals per variable in one restart, at most `MOST_SWEEPS`; fewer if they do not fit into a time
            limit. On a matrix, variables of small couplings take part only in the later sweeps, when the temperature
            is low enough for them.
        threads: how many to use; None for all processors. Without a target or time limit the answer does not depend on
            it.

    Raises:
        OptionError: a setting that is not a positive whole number, or too many sweeps.

    Example:
        >>> from problems import BlockProblem
        >>> problem = BlockProblem([[0, 2, 1], [0, 0, 1], [0, 0, 0]], cardinality=2)
        >>> SimulatedAnnealing(restarts=2).solve(problem, seed=0).first.energy
        1.0
    """

    restarts: int = 8
    sweeps: int = 50
    threads: int | None = None

    name: ClassVar[str] = "sa"
    toolkits: ClassVar[tuple[str, ...]] = ("numpy", "numba")

    def __post_init__(self) -> None:
        at_least(1, restarts=self.restarts, sweeps=self.sweeps)
        if self.sweeps > MOST_SWEEPS:
            raise OptionError(f"sweeps {self.sweeps} must be {MOST_SWEEPS} or less; restarts may be more")
        if self.threads is not None:
            at_least(1, threads=self.threads)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(side_by_side=True)

    def estimate(self, problem: BlockProblem) -> Estimate:
        # A proposal looks at two fields or reads two rows; about one in ten is accepted and changes all fields.
        dense = not problem.is_low_rank or problem.n <= DENSE_UP_TO
        proposal = 2e-8 + 2e-11 * problem.n if dense else 1.5e-9 * problem.form.rank  # type: ignore[attr-defined]
        parallel = min(self.restarts, self.threads or cpu_threads())
        seconds = math.ceil(self.restarts / parallel) * self.sweeps * problem.n * proposal
        return Estimate(seconds, note=f"{self.restarts} restarts of {self.sweeps} sweeps, {parallel} at a time")

    def _warm_up(self, problem: BlockProblem) -> None:
        factored = problem.is_low_rank and problem.n > DENSE_UP_TO
        _compile(problem.is_low_rank, factored, problem.form.dtype.name)

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        arrays = arrays_of(problem)
        if not arrays.groups.movable:
            return Outcome(problem.random_states(1, 0), info={"device": "cpu"})
        annealer = Annealer(self, problem, run, arrays)
        threads = self.threads or cpu_threads()
        if run.time_limit is None:
            # Once the run has ended, only the first one is still annealed, for an answer.
            found = run.in_threads(
                lambda t: None if t and run.should_end() else annealer.restart(t), self.restarts, threads
            )
        else:
            # Thread w takes restarts w, w + threads, and so on until the time is up.
            found = run.in_threads(lambda w: annealer.restarts_until_end(w, threads), threads, threads)
        states = [result[0] for result in found if result is not None]
        if run.ended_by not in (None, "target"):  # an annealing that is cut short may leave less than a descent found
            states.append(annealer.probed)
        if run.initial_states is not None:  # nothing worse than what the caller had
            states.append(run.initial_states[int(np.argmin(problem.energy(run.initial_states)))])
        return Outcome(np.array(states), info=annealer.info())

    # As a dimod sampler

    def _prepare(self, problem: BlockProblem) -> None:
        self._set_up(problem)

    def _flip_reads(self, problem: BlockProblem, num_reads: int, run: Run) -> StateArray:
        annealing = FlipAnnealing(dense_arrays(problem, centred=False), self.sweeps, run.seed, run.should_end)
        reads = run.in_threads(annealing.read, num_reads, self.threads or cpu_threads())
        return np.array(reads, np.int8)

    def _swap_reads(self, problem: BlockProblem, num_reads: int, run: Run) -> StateArray:
        states = replace(self, restarts=num_reads)._search(problem, run).states
        return np.resize(states, (num_reads, problem.n))  # where no swap is possible, one state is all there is


def arrays_of(problem: BlockProblem) -> DenseArrays | FactorArrays:
    """The arrays of a problem as annealing takes them: dense up to `DENSE_UP_TO` variables, else as they are."""
    if problem.is_low_rank and problem.n > DENSE_UP_TO:
        return factor_arrays(problem)
    return dense_arrays(problem)


class Annealer:
    """The restarts of one solve: what they share is measured once.

    Attributes:
        hot, cold: first and last temperature, in half units.
        proposals, seconds: swaps proposed, and the time that took, for each restart done.
    """

    def __init__(
        self, solver: SimulatedAnnealing, problem: BlockProblem, run: Run, arrays: DenseArrays | FactorArrays
    ) -> None:
        self._solver, self._problem, self._run, self._arrays = solver, problem, run, arrays
        stream = stream_of(run.seed, 0)
        self._probed = self._settled(problem.random_states(1, run.seed)[0])
        self._awake: Float32Array | None = None
        probe = self._walk(self._probed[0], stream)
        self.hot, self.cold = temperature_range(probe.sample_changes(_SAMPLED))
        self.proposals: list[int] = []
        self.seconds: list[float] = []
        # Seconds a proposal takes while much is accepted: what makes an annealing fit a time limit.
        self._proposal = 0.0
        if run.time_limit is not None:
            begun = time.perf_counter()
            sweeps = -(-_SAMPLED // arrays.n)  # of few variables several: a call costs more than one
            done = probe.anneal(np.full(sweeps, self.hot, np.float32), np.zeros(3, np.int64), -math.inf, _SAMPLED)
            self._proposal = (time.perf_counter() - begun) / max(1, done)
        if isinstance(arrays, DenseArrays):
            self._awake = wake_temperatures(arrays, self.hot, stream)

    @property
    def probed(self) -> StateArray:
        """A random state after a descent, on which the temperatures were measured [n]."""
        return self._probed[0]

    def restart(self, t: int, sweeps: int | None = None) -> tuple[StateArray, float]:
        """Anneal once, for a state and its energy up to rounding; restart t is the same whichever thread does it."""
        run, arrays = self._run, self._arrays
        watch = TargetWatch(self._problem, run, arrays)
        if run.should_end():  # what the temperatures were measured on is better than a state that nothing improves
            watch.note(arrays.half(self._probed[1]), self._probed[0])
            return self._probed
        given = run.initial_states
        if given is None:
            start = self._problem.random_states(1, np.random.default_rng([run.seed, t]))[0]
        else:
            start = given[t % len(given)]
        walk = self._walk(start, stream_of(run.seed, 1 + t))
        hot = self.hot if given is None else max(WARM * self.hot, self.cold)
        temperatures = np.geomspace(hot, self.cold, sweeps or self._solver.sweeps).astype(np.float32)
        progress = np.zeros(3, np.int64)
        pace, begun, proposals = Pace(), time.perf_counter(), 0
        if walk.energy <= watch.threshold:  # nearly there, perhaps not quite: or the kernel would return at once
            watch.note(walk.energy, walk.x)
        while not run.should_end():
            done = walk.anneal(temperatures, progress, watch.threshold, pace.begin(1 << 62))
            if not done:
                break
            pace.done(done)
            proposals += done
            if walk.energy <= watch.threshold:
                watch.note(walk.energy, walk.x)
        self.proposals.append(proposals)
        self.seconds.append(time.perf_counter() - begun)
        state, energy = walk.x.astype(np.int8), arrays.energy(walk.energy)
        if run.ended_by != "target":
            state, energy = self._settled(state, walk)
            watch.note(arrays.half(energy), state)
        return state, energy

    def restarts_until_end(self, first: int, step: int) -> tuple[StateArray, float]:
        """Restarts first, first + step, ... while there is time; the best state and its energy."""
        best = self.restart(first, self.fitting(self._solver.sweeps))
        t = first
        while not self._run.should_end():
            t += step
            rounds = min(t // self._solver.restarts, 20)
            found = self.restart(t, self.fitting(self._solver.sweeps << rounds))
            best = min(best, found, key=lambda pair: pair[1])
        return best

    def info(self) -> dict[str, Any]:
        """What the record says of the annealings."""
        scale = 2.0 / self._arrays.scale
        return {
            "device": "cpu",
            "temperatures": [self.hot * scale, self.cold * scale],
            "proposals": sum(self.proposals),
            "annealing_seconds": sum(self.seconds),
        }

    def fitting(self, sweeps: int) -> int:
        """As many of these sweeps as the time left allows, one at least."""
        left = (1.0 - _SETTLING) * self._run.remaining() - _SETTLING * (self._run.time_limit or 0.0)
        return max(1, min(sweeps, MOST_FITTED, int(left / (self._proposal * self._arrays.n))))

    def _walk(self, state: StateArray, stream: npt.NDArray[np.uint64]) -> Walk:
        if isinstance(self._arrays, FactorArrays):
            return FactorWalk(self._arrays, state, stream)
        return MatrixWalk(self._arrays, state, stream, self._awake)

    def _settled(self, state: StateArray, walk: Walk | None = None) -> tuple[StateArray, float]:
        """The state at the end of a descent, and its energy up to rounding."""
        if isinstance(self._arrays, FactorArrays):
            residual = walk.residual if isinstance(walk, FactorWalk) else None
            search = SubBlockSearch(self._arrays, state, self._run.should_end, residual)
            rng = np.random.default_rng(self._run.seed)
            search.descend(lambda arrays, x: settled(arrays, x, self._run.should_end)[0], rng, _SUB_BLOCKS)
            return search.x.astype(np.int8), self._arrays.energy(search.energy)
        return settled(self._arrays, state, self._run.should_end)


@functools.cache
def _compile(low_rank: bool, factored: bool, dtype: str) -> None:
    """Compile, or load from numba's cache, what problems of this kind need, on a problem of six variables."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((6, 2)).astype(dtype)
    problem = BlockProblem.low_rank(A, cardinality=2)  # groups are compiled for in any case
    if not low_rank:
        problem = problem.to_dense(dtype)
    arrays = factor_arrays(problem) if factored else dense_arrays(problem)
    annealer = Annealer(SimulatedAnnealing(1, 1, 1), problem, Run(seed=0), arrays)
    annealer.restart(0)
