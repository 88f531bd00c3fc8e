"""Samplers of D-Wave's Ocean, and any other dimod sampler: they know no cardinality, so it becomes a penalty.

What they answer is repaired (greedily, by energy) where it has too many or too few ones, and polished by swaps to
local optima; `.info` records how many rows were repaired and the best of the toolkit before that.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import dimod
import numpy as np

from problems import BlockProblem
from problems.forms import StateArray
from problems.names import nearest
from solvers.base import Availability, Capabilities, Estimate
from solvers.checks import at_least
from solvers.errors import OptionError, SolverError
from solvers.ocean.penalised import LARGEST, Penalised, fitting
from solvers.run import Run

_FOR_SOLVE = ("seed", "initial_states", "interrupt_function")
_SLICE = 1.0  # seconds of a tabu read with a time limit: it cannot be interrupted, and someone may want to


@dataclass(frozen=True)
class OceanSA(Penalised):
    """Simulated annealing by single flips, of dwave-samplers (`SimulatedAnnealingSampler`).

    A time limit cuts the sweeps of a read to what fits, as measured on a short first one; reads go on until it is up.

    Args:
        num_reads: restarts, where there is no time limit.
        num_sweeps: sweeps of each.
        beta_schedule_type: how the inverse temperature rises.
        randomize_order: whether a sweep takes variables at random instead of in order.
        proposal_acceptance_criteria: "Metropolis" or "Gibbs".
    """

    name: ClassVar[str] = "ocean-sa"
    toolkits: ClassVar[tuple[str, ...]] = ("dimod", "dwave-samplers", "numpy")
    patience: ClassVar[int] = 5

    num_reads: int = 10
    num_sweeps: int = 1000
    beta_schedule_type: Literal["geometric", "linear"] = "geometric"
    randomize_order: bool = False
    proposal_acceptance_criteria: Literal["Metropolis", "Gibbs"] = "Metropolis"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, num_reads=self.num_reads, num_sweeps=self.num_sweeps)
        for key, allowed in (
            ("beta_schedule_type", ("geometric", "linear")),
            ("proposal_acceptance_criteria", ("Metropolis", "Gibbs")),
        ):
            if getattr(self, key) not in allowed:
                raise OptionError(f"{key} {getattr(self, key)!r} must be {allowed[0]!r} or {allowed[1]!r}")

    @classmethod
    def available(cls) -> Availability:
        """Whether dwave-samplers is installed."""
        return _dwave_samplers()

    def estimate(self, problem: BlockProblem) -> Estimate:
        """From about 4 ns for each pair of variables in a sweep, and the making of the BQM."""
        pairs = problem.n * (problem.n + 30.0)
        return fitting(problem, 1e-3 + self.num_reads * self.num_sweeps * 4e-9 * pairs + 1e-6 * pairs)

    def _warm_up(self, problem: BlockProblem) -> None:
        super()._warm_up(problem)
        import dwave.samplers  # noqa: F401

    def _samples(self, problem: BlockProblem, bqm: dimod.BinaryQuadraticModel, run: Run) -> Iterator[StateArray]:
        from dwave.samplers import SimulatedAnnealingSampler

        sampler, model = SimulatedAnnealingSampler(), bqm.change_vartype("SPIN", inplace=False)
        settings: dict[str, Any] = {
            "beta_schedule_type": self.beta_schedule_type,
            "randomize_order": self.randomize_order,
            "proposal_acceptance_criteria": self.proposal_acceptance_criteria,
            "beta_range": beta_range(model),
        }
        # One call a read: a call cannot be interrupted, and with a target or a limit the next may not be needed.
        sweeps = self.num_sweeps if run.time_limit is None else max(1, self.num_sweeps // 50)
        read = 0
        while read < self.num_reads or run.time_limit is not None:
            if run.initial_states is not None:
                settings["initial_states"] = run.initial_states[[read % len(run.initial_states)]] * 2 - 1
            begun = time.perf_counter()
            answer = sampler.sample(model, num_reads=1, num_sweeps=sweeps, seed=_seed(run, read), **settings)
            spent = time.perf_counter() - begun
            read += 1
            yield _states(answer, problem.n)
            if run.time_limit is not None:
                annealing = answer.info["timing"]["sampling_ns"] * 1e-9
                overhead = spent - annealing
                fit = 0.95 * (run.remaining() - overhead) / max(annealing / sweeps, 1e-9)
                sweeps = int(min(self.num_sweeps, max(fit, 0.0)))
                if sweeps < max(1, self.num_sweeps // 50):
                    run.end("time_limit")
                    return


@dataclass(frozen=True)
class OceanTabu(Penalised):
    """Multistart tabu search by single flips, of dwave-samplers (`TabuSampler`; Palubeckis 2004).

    With a time limit the reads share it, and each goes on, in slices of about a second, from the best state it has.
    A read of a fixed number of restarts cannot be interrupted.

    Args:
        num_reads: independent searches.
        num_restarts: restarts of each, where there is no time limit; the first search of n = 1024 takes about 0.15
            seconds, each restart a quarter of that.
        tenure: flips for which a variable stays as it is; None for a quarter of n, 20 at most.
        timeout: milliseconds after which a read ends; None for none. With a timeout two runs with one seed may differ.
    """

    name: ClassVar[str] = "ocean-tabu"
    toolkits: ClassVar[tuple[str, ...]] = ("dimod", "dwave-samplers", "numpy")

    num_reads: int = 1
    num_restarts: int = 20
    tenure: int | None = None
    timeout: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, num_reads=self.num_reads)
        at_least(0, num_restarts=self.num_restarts)
        if self.tenure is not None:
            at_least(0, tenure=self.tenure)
        if self.timeout is not None:
            at_least(1, timeout=self.timeout)

    @property
    def capabilities(self) -> Capabilities:
        """Those of all penalised samplers; deterministic without a timeout."""
        deterministic = self.timeout is None
        return Capabilities(LARGEST, native_cardinality=False, low_rank=False, deterministic=deterministic)

    @classmethod
    def available(cls) -> Availability:
        """Whether dwave-samplers is installed."""
        return _dwave_samplers()

    def estimate(self, problem: BlockProblem) -> Estimate:
        """From the updates that the sampler's defaults allow, at about 6 ns each."""
        first = max(5e5, (10_000 if problem.n <= 500 else 25_000) * problem.n)
        restart = max(5e5, first / 4)
        seconds = self.num_reads * (first + self.num_restarts * restart) * 6e-9
        if self.timeout is not None:
            seconds = min(seconds, self.num_reads * self.timeout * 1e-3)
        return fitting(problem, 1e-3 + seconds + 1e-6 * problem.n**2)

    def _warm_up(self, problem: BlockProblem) -> None:
        super()._warm_up(problem)
        import dwave.samplers  # noqa: F401

    def _samples(self, problem: BlockProblem, bqm: dimod.BinaryQuadraticModel, run: Run) -> Iterator[StateArray]:
        from dwave.samplers import TabuSampler

        if self.tenure is not None and self.tenure >= problem.n:
            raise OptionError(f"tenure {self.tenure} must be less than the problem's {problem.n} variables")
        settings: dict[str, Any] = {"tenure": self.tenure, "num_reads": 1}
        if run.target is not None:
            # The sampler compares energies without the offset; an answer within rounding is looked at by us.
            slack = 1e-10 * (abs(bqm.offset) + abs(run.target))
            settings["energy_threshold"] = run.target - bqm.offset + slack
        if run.time_limit is not None:
            yield from self._in_slices(problem, bqm, run, TabuSampler(), settings)
            return
        for read in range(self.num_reads):
            if run.initial_states is not None:
                settings["initial_states"] = run.initial_states[[read % len(run.initial_states)]]
            answer = TabuSampler().sample(
                bqm, num_restarts=self.num_restarts, timeout=self.timeout, seed=_seed(run, read), **settings
            )
            yield _states(answer, problem.n)

    def _in_slices(
        self, problem: BlockProblem, bqm: dimod.BinaryQuadraticModel, run: Run, sampler: Any, settings: dict[str, Any]
    ) -> Iterator[StateArray]:
        overhead = 2e-7 * problem.n**2  # of a call, in seconds: measured from the first one on
        starts = run.initial_states
        call = 0
        for read in range(self.num_reads):
            state = None if starts is None else starts[[read % len(starts)]]
            ends = run.elapsed() + run.remaining() / (self.num_reads - read)
            if self.timeout is not None:
                ends = min(ends, run.elapsed() + self.timeout * 1e-3)
            while run.elapsed() < ends or call == 0:
                seconds = min(max(_SLICE, 10 * overhead), ends - run.elapsed() - overhead)
                if call == 0:
                    seconds /= 4  # time is left to begin again, should the penalty be too small
                if seconds < 1e-3 and call > 0:
                    break
                timeout = max(1, int(seconds * 1e3))
                begun = time.perf_counter()
                answer = sampler.sample(bqm, timeout=timeout, initial_states=state, seed=_seed(run, call), **settings)
                overhead = max(0.0, time.perf_counter() - begun - timeout * 1e-3)
                call += 1
                state = _states(answer, problem.n)
                yield state
        if self.timeout is None:
            run.end("time_limit")


@dataclass(frozen=True)
class DimodSampler(Penalised):
    """Any dimod sampler, named by its import path: `dimod:package.Sampler?option=value`.

    It is made without arguments and called once. A seed, initial states and an interrupt function are passed on
    where the sampler takes parameters of these names, and a time limit where it takes `time_limit` (in seconds).

    Args:
        path: import path of the class, such as "dwave.samplers.SteepestDescentSolver".
        parameters: what to pass to its `sample` method, (name, value) pairs.

    Raises:
        OptionError: a path that does not lead to a sampler that can be made here, or a parameter it does not have.

    Example:
        >>> DimodSampler("dimod.ExactSolver").backend
        'dimod:dimod.ExactSolver'
    """

    name: ClassVar[str] = "dimod"
    toolkits: ClassVar[tuple[str, ...]] = ("dimod", "numpy")

    path: str = field(kw_only=True)
    parameters: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def named(cls, path: str, options: Mapping[str, Any]) -> DimodSampler:
        """Make the solver of a path and options: `penalty` and `polish` are ours, all others the sampler's.

        Values that are text are read as numbers, true, false or none where they look like these.

        Raises:
            OptionError: as the class does.
        """
        given = {key: _read(value) if isinstance(value, str) else value for key, value in options.items()}
        ours = {key: given.pop(key) for key in ("penalty", "polish") if key in given}
        return cls(path=path, parameters=tuple(given.items()), **ours)

    def __post_init__(self) -> None:
        super().__post_init__()
        known = [name for name in self._sampler().parameters if name not in _FOR_SOLVE]
        for key, _ in self.parameters:
            if key in _FOR_SOLVE:
                raise OptionError(f"{key} is no option of {self.backend}: solve(..., {key}=...) passes it on")
            if key not in known:
                raise OptionError(f"{self.backend} has no option {key!r}{nearest(key, [*known, 'penalty', 'polish'])}")

    @property
    def backend(self) -> str:
        """The name with its path."""
        return f"dimod:{self.path}"

    @property
    def capabilities(self) -> Capabilities:
        """By the sampler's parameters: with a seed and without a time limit it counts as deterministic."""
        takes = self._sampler().parameters
        deterministic = "seed" in takes and not {"time_limit", "timeout"} & set(takes)
        return Capabilities(LARGEST, native_cardinality=False, low_rank=False, deterministic=deterministic)

    def estimate(self, problem: BlockProblem) -> Estimate:
        """The time to build the BQM; that of a third-party sampler is unknown."""
        return fitting(problem, 1e-3 + 1e-6 * problem.n**2, note="without the sampler's own time, which is not known")

    def _samples(self, problem: BlockProblem, bqm: dimod.BinaryQuadraticModel, run: Run) -> Iterator[StateArray]:
        sampler = self._sampler()
        takes = sampler.parameters
        passed = dict(self.parameters)
        if "seed" in takes:
            passed["seed"] = _seed(run, 0)
        if "initial_states" in takes and run.initial_states is not None:
            passed["initial_states"] = (run.initial_states, list(range(problem.n)))
        if "interrupt_function" in takes:
            passed["interrupt_function"] = run.should_end
        if "time_limit" in takes and run.time_limit is not None:
            passed["time_limit"] = max(run.remaining(), 1e-3)
        try:
            answer = sampler.sample(bqm, **passed)
            states = _states(answer, problem.n)
        except Exception as error:  # a third-party sampler may raise anything
            raise SolverError(f"{self.backend} failed: {type(error).__name__}: {error}") from error
        if not len(states):
            raise SolverError(f"{self.backend} returned no sample")
        yield states

    def _sampler(self) -> dimod.Sampler:
        module, _, attribute = self.path.rpartition(".")
        if not module:
            raise OptionError(f"dimod sampler {self.path!r} must be an import path such as dimod.ExactSolver")
        try:
            cls = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            package = module.partition(".")[0]
            raise OptionError(
                f"dimod sampler {self.path!r} cannot be imported: {error}. Install the distribution that provides "
                f"the package {package!r} with pip; D-Wave's local samplers come with: pip install dwave-samplers"
            ) from error
        except AttributeError as error:
            raise OptionError(f"dimod sampler {self.path!r}: {error}") from error
        if not (inspect.isclass(cls) and issubclass(cls, dimod.Sampler)):
            raise OptionError(f"{self.path!r} is not a dimod sampler, a subclass of dimod.Sampler")
        try:
            return cls()
        except Exception as error:  # a third-party constructor may raise anything: arguments, credentials, a network
            raise OptionError(f"dimod sampler {self.path!r} cannot be made without arguments: {error}") from error


def _states(answer: dimod.SampleSet, n: int) -> StateArray:
    """The rows of a sampler's answer as states [s, n]."""
    states = answer.change_vartype("BINARY", inplace=False).record.sample
    order = np.argsort(np.fromiter(answer.variables, np.int64, n))
    return np.ascontiguousarray(states[:, order], np.int8)


def beta_range(model: dimod.BinaryQuadraticModel) -> list[float]:
    """The annealer's own default range, by array operations: its loop over 500,000 couplings takes half a second.

    Hot enough that the strongest field turns a spin with probability 1/2; cold enough that the weakest bias, where
    so many spins have it, turns one with probability 0.01.
    """
    h, (i, j, J), _ = model.to_numpy_vectors()
    strongest = np.abs(h)
    weakest = np.where(h != 0, strongest, np.inf)
    couplings = np.abs(J)
    for ends in (i, j):
        np.add.at(strongest, ends, couplings)
        np.minimum.at(weakest, ends, np.where(couplings != 0, couplings, np.inf))
    low = float(weakest.min())
    if not np.isfinite(low):
        return [0.1, 1.0]
    count = int(np.count_nonzero(weakest == low))
    return [math.log(2) / (2 * float(strongest.max())), math.log(count / 0.01) / (2 * low)]


def _seed(run: Run, call: int) -> int:
    """Seeds of 31 bits, which all samplers take, from a run's own."""
    return int(np.random.SeedSequence([run.seed, call]).generate_state(1)[0] >> 1)


def _read(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _dwave_samplers() -> Availability:
    if importlib.util.find_spec("dwave") and importlib.util.find_spec("dwave.samplers"):
        return Availability(True)
    return Availability(False, "dwave-samplers is not installed; pip install dwave-samplers")
