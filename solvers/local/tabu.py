"""Memetic tabu search by swaps: a population with crossover, a tabu search for each offspring."""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from problems import BlockProblem
from problems.forms import StateArray
from solvers.base import Capabilities, Estimate, InitialStates, Outcome, Solver, timing
from solvers.checks import at_least, one_of
from solvers.errors import OptionError, SolverError, UnavailableError
from solvers.local.arrays import DenseArrays, FactorArrays, dense_arrays, factor_arrays
from solvers.local.flips import FlipTabu
from solvers.local.populations import UNENDING, Plan, Population, evolve
from solvers.local.sampler import LocalSampler
from solvers.local.sub_blocks import SubBlockSearch
from solvers.local.target import TargetWatch
from solvers.local.walks import settled
from solvers.run import Run, cpu_threads, listening_together

if TYPE_CHECKING:
    import dimod

DENSE_UP_TO = 4096
"""Low-rank problems of at most so many variables are made dense: 67 MB of float32, which a tabu step reads two rows
of. Larger ones are searched by sub-blocks."""

LEAST_ITERATIONS = 50
MOST_ITERATIONS = 10_000_000
"""Tabu steps without a better state that end a search, or a twentieth of the variables where that is more. Measured, as
the population of 4, on real blocks of 1,024 and MDPLIB instances of 500 variables: 40 to 100 steps suit all of them,
500 take two to three times as long to the best known energy; on random ones of 2,000 both are equal."""

LEAST_BATCH_FOR_GPU = 2048
"""Searches side by side from which device="auto" takes the GPU. A step of the torch form is some thirty kernels of
about 10 us however many rows they work on, where a compiled step takes 0.3 to 1 us a row: they meet at 300 to 1,000
rows on one core, and a processor has several. The fused kernel should meet it far earlier; no one has measured that."""

MOST_FOR_TORCH = 16_384
"""Variables up to which the torch engine makes a low-rank problem dense: 1 GB."""

BATCH_BYTES = 1 << 32
"""Memory for the matrices and states of one batch; more problems are searched in several."""

_PATIENCE = 3  # times the population: offspring in a row without success, after which a population is replaced
_TURN = 40  # times the population: offspring after which it is replaced in any case
_LEAST_KEPT = 0.25  # of the gain that fields predict, where couplings are weak
_SUB_BLOCKS = 2  # of a large problem, in place of each offspring of a population
_SUB_PLAN = Plan(population=2, offspring=4, iterations=LEAST_ITERATIONS, patience=UNENDING)  # of each sub-block
_WIDEST = 8  # sub-blocks in a row without gain draw from 1, 2, 4, .. 128 times as many pairs, then from 1 again


@dataclass(frozen=True)
class TabuSearch(Solver, LocalSampler):
    """Memetic tabu search: a population of good states, offspring that keep what two of them share, a tabu search each.

    Moves are swaps of a one and a zero (of one group, where there are groups). With one group a search ends in a state
    that no swap of any pair improves (in low-rank form up to float32 rounding of the couplings), and the best members
    of populations without success form new ones. One of the first members starts from the greedy state, whose ones add
    least on average. Where a few trials show strong couplings, random states are annealed before they are searched, and
    offspring are made by annealing the variables in which a few members differ, with some others where these are few.
    Low-rank problems of up to `DENSE_UP_TO` variables are made dense; larger ones are searched by sub-blocks, chosen by
    the fields of all variables. Engines other than numba search without annealing.

    Attributes:
        population: states that are kept, two at least; up to twice as many where states are annealed.
        offspring: tabu searches in all, first members included; for problems that are searched by sub-blocks, half the
            number of sub-blocks. With a time limit the search goes on until it ends, and a population without success
            is replaced by a new one.
        iterations: tabu steps without a better state that end each of them; None for 50, or a twentieth of the
            variables where that is more.
        restarts: independent populations, in parallel threads. With a time limit the compiled kernels search one in
            each thread.
        threads: how many to use; None for all processors. Without a target or time limit the answer does not depend on
            it.
        device: "cpu", "cuda", or "auto": the GPU if there is one and the batch is large enough to win
            (`LEAST_BATCH_FOR_GPU`).
        engine: "numba" for the compiled kernels of the CPU; "torch" for plain operations on tensors, which search whole
            batches, on the CPU too; "triton" for the same searches by one fused kernel of a GPU, which takes problems
            of one group and up to 8,192 variables and leaves others to "torch"; "auto" for triton where it is
            installed, or else torch, on a GPU, and numba on the CPU. `.info` says which ran.

    Raises:
        OptionError: a setting out of its range.

    Source:
        Palubeckis, "Iterated tabu search for the maximum diversity problem" (2007); Wu and Hao, "A hybrid metaheuristic
        method for the maximum diversity problem" (2013).

    Example:
        >>> from problems import BlockProblem
        >>> problem = BlockProblem([[0, 2, 1], [0, 0, 1], [0, 0, 0]], cardinality=2)
        >>> TabuSearch().solve(problem, seed=0).first.energy
        1.0
    """

    population: int = 4
    offspring: int = 40
    iterations: int | None = None
    restarts: int = 1
    threads: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["auto", "numba", "torch", "triton"] = "auto"

    name: ClassVar[str] = "tabu"
    toolkits: ClassVar[tuple[str, ...]] = ("numpy", "numba", "torch")

    def __post_init__(self) -> None:
        at_least(2, population=self.population)
        at_least(1, offspring=self.offspring, restarts=self.restarts)
        for name in ("iterations", "threads"):
            if getattr(self, name) is not None:
                at_least(1, **{name: getattr(self, name)})
        if self.iterations is not None and self.iterations > MOST_ITERATIONS:
            raise OptionError(f"iterations {self.iterations} must be {MOST_ITERATIONS} or less: steps have 32 bits")
        one_of(("auto", "cpu", "cuda"), device=self.device)
        one_of(("auto", "numba", "torch", "triton"), engine=self.engine)
        if self.device == "cuda" and self.engine == "numba":
            raise OptionError("engine 'numba' runs on the CPU only; leave engine out for device 'cuda'")

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(device="cuda" if self.device == "cuda" else "cpu", side_by_side=True)

    def estimate(self, problem: BlockProblem) -> Estimate:
        n = problem.n
        parallel = min(self.restarts, self.threads or cpu_threads())
        if _by_sub_blocks(problem):
            one_pass = 1e-10 * n * problem.form.rank  # type: ignore[attr-defined]
            seconds = _SUB_BLOCKS * self.offspring * (one_pass + 2e-3)
        else:
            seconds = self.offspring * 11 * self._steps(n) * (1.5e-7 + 5e-10 * n)
        note = f"{self.restarts} populations of {self.offspring} offspring, {parallel} at a time"
        return Estimate(math.ceil(self.restarts / parallel) * seconds, note=note)

    def _warm_up(self, problem: BlockProblem) -> None:
        _make_ready(*self._where(self.restarts * self.population), problem)
        grouped = len(problem.constraint.counts) > 1
        _compile(problem.is_low_rank, _by_sub_blocks(problem), problem.form.dtype.name, grouped)

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        engine, device = self._where(self.restarts * self.population)
        if engine != "numba":
            return self._search_batch([problem], [run], engine, device)[0]
        arrays = factor_arrays(problem) if _by_sub_blocks(problem) else dense_arrays(problem)
        if not arrays.groups.movable:
            return Outcome(problem.random_states(1, 0), info={"device": "cpu", "engine": "numba"})
        initial = _best_first(problem, run.initial_states)
        if isinstance(arrays, FactorArrays):
            search = functools.partial(self._sub_blocks, problem, run, arrays, initial)
        else:
            search = functools.partial(self._population, problem, run, arrays, initial)
        threads = self.threads or cpu_threads()
        count = self.restarts if run.time_limit is None else threads
        # Once the run has ended, only the first one is still searched, for an answer.
        found = run.in_threads(lambda t: None if t and run.should_end() else search(t), count, threads)
        searched = [result for result in found if result is not None]
        states, offspring = [state for state, _ in searched], [done for _, done in searched]
        return Outcome(np.array(states), info={"device": "cpu", "engine": "numba", "offspring": offspring})

    # Many problems as one batch

    def solves_together(self, count: int) -> bool:
        """Whether `count` problems are searched as one batch of tensors."""
        return self._where(count * self.restarts * self.population)[0] != "numba"

    def solve_many(
        self,
        problems: Iterable[BlockProblem],
        *,
        seed: int | None = None,
        time_limit: float | None = None,
        targets: Sequence[float | None] | None = None,
        initial_states: Sequence[InitialStates] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[dimod.SampleSet]:
        """Solve several problems; torch and triton search those of one size and number of groups as one batch.

        Arguments and answers are those of :meth:`solvers.Solver.solve_many`. Problems of a batch share the clock:
        `time_limit` is that of the batch, and `timing` holds the batch's seconds.
        """
        listed = list(problems)
        if self._where(len(listed) * self.restarts * self.population)[0] == "numba":
            return super().solve_many(
                listed, seed=seed, time_limit=time_limit, targets=targets, initial_states=initial_states, stop=stop
            )
        runs = self._runs(listed, seed, time_limit, targets, initial_states, stop)
        answers: list[dimod.SampleSet] = [None] * len(listed)
        with listening_together(runs):
            for batch, outcomes, setup in self._batches(listed, runs):
                solves = [runs[p].elapsed() for p in batch]
                for p, outcome, solve in zip(batch, outcomes, solves, strict=True):
                    answers[p] = self._answer(listed[p], runs[p], outcome)
                    answers[p].info["timing"] = timing(runs[p], setup, solve, setup + runs[p].elapsed())
        return answers

    def _refuse_what_is_missing(self) -> None:
        super()._refuse_what_is_missing()
        if self.device == "cuda" or self.engine == "triton":
            self._where(LEAST_BATCH_FOR_GPU)  # says what it lacks

    def _where(self, rows: int) -> tuple[str, str]:
        """Engine and device for a batch of so many searches side by side."""
        if self.engine == "numba" or (self.engine == "auto" and self.device == "cpu"):
            return "numba", "cpu"
        if self.device == "cpu":
            return self._fused_or_plain("cpu"), "cpu"
        if self.device == "auto" and self.engine == "auto" and rows < LEAST_BATCH_FOR_GPU:
            return "numba", "cpu"  # found out without importing torch
        import torch

        if torch.cuda.is_available():
            return self._fused_or_plain("cuda"), "cuda"
        if self.device == "cuda":
            raise UnavailableError(
                "tabu with device='cuda' needs a CUDA device that torch can see; device='auto' goes without one"
            )
        return ("numba" if self.engine == "auto" else self._fused_or_plain("cpu")), "cpu"

    def _fused_or_plain(self, device: str) -> str:
        """The engine that takes a batch there: the fused kernel if it can run and nothing else was asked for."""
        if self.engine == "torch":
            return "torch"
        missing = _missing_for_triton(device)
        if missing and self.engine == "triton":
            raise UnavailableError(f"tabu with engine='triton' needs {missing}; engine='torch' does the same without")
        return "torch" if missing else "triton"

    def _batches(
        self, problems: list[BlockProblem], runs: list[Run]
    ) -> Iterator[tuple[list[int], list[Outcome], float]]:
        """Search problems of one shape at once: their places, what was found, and the seconds of setup."""
        engine, device = self._where(len(problems) * self.restarts * self.population)
        by_shape: dict[tuple[int, int], list[int]] = {}
        for p, problem in enumerate(problems):
            by_shape.setdefault((problem.n, len(problem.constraint.counts)), []).append(p)
        for (n, _), places in by_shape.items():
            most = max(1, BATCH_BYTES // (4 * n * n + 64 * n * self.restarts * self.population))
            for start in range(0, len(places), most):
                batch = places[start : start + most]
                begun = time.perf_counter()
                _make_ready(engine, device, problems[batch[0]])  # of the whole batch: one problem may be for the CPU
                for p in batch:
                    self._set_up(problems[p])
                setup = time.perf_counter() - begun
                for p in batch:
                    runs[p].start()
                outcomes = self._search_batch([problems[p] for p in batch], [runs[p] for p in batch], engine, device)
                yield batch, outcomes, setup

    def _search_batch(
        self, problems: list[BlockProblem], runs: list[Run], engine: str, device: str
    ) -> list[Outcome]:  # fmt: skip
        """Search problems of one shape on tensors, side by side."""
        from solvers.local import tabu_torch

        if engine == "triton" and not tabu_torch.fused_takes(problems[0].n, len(problems[0].constraint.counts)):
            engine = "torch"
        info = {"device": device, "engine": engine}
        outcomes = [Outcome(problem.random_states(1, 0), info=dict(info)) for problem in problems]
        tasks = {}
        for p, (problem, run) in enumerate(zip(problems, runs, strict=True)):
            if problem.is_low_rank and problem.n > MOST_FOR_TORCH:
                raise SolverError(
                    f"tabu makes low-rank problems dense on a GPU, up to {MOST_FOR_TORCH} variables; this one has "
                    f"{problem.n}. device='cpu' searches it by sub-blocks"
                )
            arrays = dense_arrays(problem)
            if arrays.groups.movable:
                initial = _best_first(problem, run.initial_states)
                tasks[p] = tabu_torch.Task(arrays, run, TargetWatch(problem, run, arrays), initial)
        if tasks:
            plan = self._plan(problems[0].n, runs[0])
            fused = engine == "triton"
            found = tabu_torch.search(list(tasks.values()), plan, self.restarts, device, fused=fused)
            for (p, task), (states, offspring) in zip(tasks.items(), found, strict=True):
                if task.run.ended_by != "target":
                    states = np.array([settled(task.arrays, x, task.run.should_end)[0] for x in states])
                outcomes[p] = Outcome(states, info=info | {"offspring": [offspring] * len(states)})
        return outcomes

    # As a dimod sampler

    def _prepare(self, problem: BlockProblem) -> None:
        self._set_up(problem)

    def _flip_reads(self, problem: BlockProblem, num_reads: int, run: Run) -> StateArray:
        arrays = dense_arrays(problem, centred=False)
        search = FlipTabu(arrays, self._plan(problem.n, run), run.seed, run.should_end)
        reads = run.in_threads(search.read, num_reads, self.threads or cpu_threads())
        return np.array(reads, np.int8)

    def _swap_reads(self, problem: BlockProblem, num_reads: int, run: Run) -> StateArray:
        states = replace(self, restarts=num_reads)._search(problem, run).states
        return np.resize(states, (num_reads, problem.n))  # where no swap is possible, one state is all there is

    # How it searches

    def _population(
        self, problem: BlockProblem, run: Run, arrays: DenseArrays, initial: StateArray | None, t: int
    ) -> tuple[StateArray, int]:
        """Search one population; return its best state and the number of its offspring."""
        plan = self._plan(arrays.n, run)
        population = Population(
            arrays,
            plan,
            seed=run.seed,
            stream=t,
            initial=initial,
            greedy=arrays.greedy,
            greedy_first=_overshoots(problem, arrays),
        )
        watch = TargetWatch(problem, run, arrays, summed=not problem.is_low_rank and arrays.exact is arrays.matrix)
        evolve(population, run.should_end, watch)
        if run.ended_by != "target" and population.unfinished < population.energy:  # as float32 has it
            population.correct(arrays.half(float(problem.energy(population.state))))
        state = population.state
        if run.ended_by != "target":
            state, energy = settled(arrays, state, run.should_end)
            watch.note(arrays.half(energy), state)
        return state, population.offspring

    def _plan(self, n: int, run: Run) -> Plan:
        offspring = self.offspring if run.time_limit is None else UNENDING
        return Plan(
            self.population, offspring, self._steps(n), _PATIENCE * self.population, _TURN * self.population
        )  # fmt: skip

    def _steps(self, n: int) -> int:
        return self.iterations or max(LEAST_ITERATIONS, n // 20)

    def _sub_blocks(
        self, problem: BlockProblem, run: Run, arrays: FactorArrays, initial: StateArray | None, t: int
    ) -> tuple[StateArray, int]:
        """Search a large low-rank problem; return the best state and the number of sub-blocks."""
        rng = np.random.default_rng([run.seed, t])
        start = problem.random_states(1, rng)[0] if initial is None else initial[t % len(initial)]
        search = SubBlockSearch(arrays, start, run.should_end)
        watch = TargetWatch(problem, run, arrays)
        search.descend_in_bulk()
        watch.note(search.energy, search.x)
        done = quiet = 0

        def improve(sub_block: DenseArrays, state: StateArray) -> StateArray:
            population = Population(sub_block, _SUB_PLAN, seed=run.seed, stream=(t << 32) + done, initial=state[None])
            evolve(population, run.should_end)
            return population.state

        most = _SUB_BLOCKS * self.offspring if run.time_limit is None else UNENDING
        while done < most and not run.should_end():
            done += 1
            if search.improve_sub_block(improve, rng, width=1 << quiet):
                quiet = 0
                watch.note(search.energy, search.x)
            else:
                quiet = (quiet + 1) % _WIDEST
        return search.x.astype(np.int8), done


def _overshoots(problem: BlockProblem, arrays: DenseArrays) -> bool:
    """Whether couplings cancel most of the gain that the fields predict for the greedy state."""
    known = _overshooting.get(arrays)
    if known is None:
        assert arrays.mean_fields is not None
        shares, fields = arrays.groups.shares, arrays.mean_fields
        with np.errstate(over="ignore", invalid="ignore"):  # of terms as large as float64 can hold
            mean = problem.offset + 0.5 * shares @ (problem.single_energies + fields)
            promised = (shares - arrays.greedy) @ fields
            kept = mean - problem.energy(arrays.greedy)
        known = _overshooting[arrays] = bool(kept < _LEAST_KEPT * promised)
    return known


_overshooting: weakref.WeakKeyDictionary[DenseArrays, bool] = weakref.WeakKeyDictionary()


def _by_sub_blocks(problem: BlockProblem) -> bool:
    return problem.is_low_rank and problem.n > DENSE_UP_TO


def _best_first(problem: BlockProblem, states: StateArray | None) -> StateArray | None:
    if states is None or len(states) == 1:
        return states
    return states[np.argsort(problem.energy(states), kind="stable")]


def _make_ready(engine: str, device: str, problem: BlockProblem) -> None:
    """Start what searches such problems there."""
    if engine != "numba":
        _start_torch(device)
    if engine == "triton":
        _compile_fused(problem.n, len(problem.constraint.counts), device)


@functools.cache
def _start_torch(device: str) -> None:
    """Import torch and use the device once."""
    import torch

    torch.zeros(1, device=device).add_(1).item()


def _missing_for_triton(device: str) -> str:
    """What the fused kernel lacks there, in words; empty if it can run."""
    if importlib.util.find_spec("triton") is None:
        return "triton, which comes with torch for CUDA on Linux (pip install triton)"
    if device == "cpu":
        # Triton's own switch: kernels are interpreted, slowly, for tests.
        interpreted = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
        return "" if interpreted else "a CUDA device"
    import torch

    if torch.version.cuda is None or torch.cuda.get_device_capability() < (8, 0):
        return "an NVIDIA GPU of compute capability 8.0 or later"
    return ""


@functools.cache
def _compile_fused(n: int, groups: int, device: str) -> None:
    """Compile the fused kernel for problems of this size, or load it from Triton's cache."""
    from solvers.local import tabu_torch
    from solvers.local.batched import tabu_triton

    if not tabu_torch.fused_takes(n, groups):
        return
    try:
        tabu_triton.make_ready(n, device)
    except Exception as error:  # of a driver, an assembler or a C compiler that Triton calls: each has its own kind
        raise UnavailableError(
            f"the fused kernel of tabu did not compile for n = {n}: {error}; engine='torch' does the same without it"
        ) from error


@functools.cache
def _compile(low_rank: bool, by_sub_blocks: bool, dtype: str, grouped: bool) -> None:
    """Compile, or load from numba's cache, what problems of this kind need, on a problem of six variables."""
    A = np.random.default_rng(0).standard_normal((6, 2)).astype(dtype)
    solver, run = TabuSearch(population=2, offspring=3, iterations=1, threads=1), Run(seed=0)
    problem = BlockProblem.low_rank(A, cardinality=2, groups=[0, 0, 0, 1, 1, 1] if grouped else None)
    if by_sub_blocks:
        solver._sub_blocks(problem, run, factor_arrays(problem), None, 0)
    else:
        problem = problem if low_rank else problem.to_dense(dtype)
        solver._population(problem, run, dense_arrays(problem), None, 0)
