"""What every solver is: a frozen object of settings whose work is `solve`.

A solver writes one method, :meth:`Solver._search`: it looks for good states of a checked problem and asks its
:class:`~solvers.run.Run` now and then whether to go on. Everything that all solvers owe their callers is here:
checks, seeds, the warm-up that no time limit pays for, Ctrl-C, recomputed energies and the record in `.info`.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from problems import BlockProblem
from problems.forms import Float64Array, StateArray
from solvers.errors import OptionError, SolverError, UnavailableError
from solvers.precision import EXACT_ROUNDING, size_of_terms
from solvers.run import Run, check_seed, end_all, listening_together, versions

if TYPE_CHECKING:
    import dimod

InitialStates: TypeAlias = "npt.ArrayLike | dimod.SampleSet | None"


@dataclass(frozen=True)
class Capabilities:
    """What a solver can take and promise.

    Attributes:
        max_variables: largest n, or None for as far as memory goes.
        native_cardinality: whether the cardinality is kept by construction, not by a penalty.
        dense: takes problems in dense form.
        low_rank: takes problems in low-rank form as they are, without making them dense.
        groups: takes a cardinality for each group.
        deterministic: the same seed gives the same answer on the same machine (without a time limit).
        remote: the problem leaves this machine.
        best_variables: size of sub-block with which it serves :class:`solvers.Decompose` best; None for the largest.
        device: where the search runs, "cpu", "cuda" or a service's name.
        side_by_side: works in compiled code that leaves the interpreter to other threads, so that solves in several
            threads of a process gain from several processors.
    """

    max_variables: int | None = None
    native_cardinality: bool = True
    dense: bool = True
    low_rank: bool = True
    groups: bool = True
    deterministic: bool = True
    remote: bool = False
    device: str = "cpu"
    best_variables: int | None = None
    side_by_side: bool = False


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run here; true or false itself.

    Attributes:
        ready: yes or no.
        reason: one sentence that says what is missing and what mends it; empty when ready.
    """

    ready: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ready


@dataclass(frozen=True)
class Estimate:
    """What a solve is expected to take, before anything is sent.

    Attributes:
        seconds: wall-clock seconds, an order of magnitude.
        charge_seconds: seconds that a service would bill; 0 for local solvers.
        fits: whether the solver takes a problem of this size.
        note: what the figure rests on, or why it does not fit.
        upload_bytes: what leaves this machine, in bytes; 0 for local solvers.
        calls: calls to a service that a solve makes; 0 for local solvers.
    """

    seconds: float
    charge_seconds: float = 0.0
    fits: bool = True
    note: str = ""
    upload_bytes: float = 0.0
    calls: int = 0


@dataclass
class Outcome:
    """What a search found.

    Attributes:
        states: feasible states [s, n], int8, in any order, at least one.
        info: what the solver adds to the record (JSON values).
        repaired: how many of the rows the toolkit had returned infeasible.
        raw: the toolkit's own answer before repair and polish: {"energy": best feasible or None,
            "feasible": share of feasible rows}; None where states come out of the search as they are.
    """

    states: StateArray
    info: dict[str, Any] = field(default_factory=dict)
    repaired: int = 0
    raw: dict[str, Any] | None = None


@dataclass(frozen=True)
class Solver(abc.ABC):
    """A way to solve block problems; subclasses are frozen dataclasses of their settings."""

    name: ClassVar[str]
    """The backend's name in text."""

    toolkits: ClassVar[tuple[str, ...]] = ("numpy",)
    """Distributions whose versions belong in the record."""

    # What a solver says of itself

    @property
    def backend(self) -> str:
        """The name in messages and in the record; more than `name` where that stands for a family of solvers."""
        return self.name

    @property
    def capabilities(self) -> Capabilities:
        """What this solver, with its settings, can take and promise."""
        return Capabilities()

    @classmethod
    def available(cls) -> Availability:
        """Whether this backend can run here, found out at once and without a network."""
        return Availability(True)

    @abc.abstractmethod
    def estimate(self, problem: BlockProblem) -> Estimate:
        """What solving a problem with this solver's work budget would take."""

    def estimate_within(self, problem: BlockProblem, time_limit: float | None) -> Estimate:
        """What solving it within a time limit (seconds) would take; all of it, as far as this solver knows."""
        estimate = self.estimate(problem)
        return estimate if time_limit is None else replace(estimate, seconds=time_limit)

    # The work

    def solve(
        self,
        problem: BlockProblem,
        *,
        seed: int | None = None,
        time_limit: float | None = None,
        target: float | None = None,
        initial_states: InitialStates = None,
        stop: Callable[[], bool] | None = None,
    ) -> dimod.SampleSet:
        """Look for a feasible state of low energy.

        Args:
            problem: the block problem.
            seed: seed of the search; None draws one, which `.info["seed"]` records.
            time_limit: seconds of search, warm-up not counted; None (or infinity) does the fixed amount of work that
                the solver's settings say, and two such runs with one seed agree to the bit.
            target: an energy at which to stop; it is reached up to the rounding of energies, 1e-13 of their terms.
            initial_states: feasible states to start from, one [n] or several [s, n] (or a SampleSet over 0..n-1).
            stop: called now and then; True ends the search with the best so far. So does Ctrl-C.

        Returns:
            Feasible states in order of energy, energies by `problem.energy`, distinct; so `.first` is the answer.
            `.info` holds `backend`, `timing` (seconds: `setup` for compilation and imports, `solve`, `total`,
            `overrun` where a time limit was exceeded, and `queue` where a service let it wait), `seed`, `versions`,
            `incumbents` ([seconds, energy] pairs), `ended_by` ("work", "time_limit", "target", "stop" or
            "interrupt"), `repaired`, `raw` and what the solver adds.

        Raises:
            SolverError: the problem is one that this solver cannot take (:func:`solvers.fitted` takes it apart).
            OptionError: a limit that makes no sense, or initial states that do not fit the problem.
            UnavailableError: the backend lacks something; the message says what.
        """
        return self._solve(problem, self._run(problem, seed, time_limit, target, initial_states, stop))

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
        """Solve several problems; here one after the other, batched or side by side where a solver can.

        Args:
            problems: the block problems.
            seed: problem number p is solved with seed + p.
            time_limit: seconds for each problem.
            targets: an energy or None for each problem.
            initial_states: initial states or None for each problem.
            stop: as in :meth:`solve`; it ends the problems that are still to come as early as it can. So does Ctrl-C.

        Returns:
            A SampleSet for each problem, in order.
        """
        listed = list(problems)
        runs = self._runs(listed, seed, time_limit, targets, initial_states, stop)
        answers = []
        with listening_together(runs):
            for problem, run in zip(listed, runs, strict=True):
                answers.append(self._solve(problem, run))
                if run.ended_by == "interrupt":  # heard by this run alone, while it was listening
                    end_all(runs, "interrupt")
        return answers

    def solves_together(self, count: int) -> bool:
        """Whether `solve_many` of so many problems is more than a loop: calls at a service, a batch on a GPU."""
        return self.capabilities.remote or self.capabilities.device != "cpu"

    # What a subclass writes

    @abc.abstractmethod
    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        """Look for good states until the work is done or `run.should_end()`."""

    def _warm_up(self, problem: BlockProblem) -> None:  # noqa: B027 - most solvers need none
        """Import and compile what `_search` will use on such a problem; its time is reported as setup."""

    # How a solve goes

    def _set_up(self, problem: BlockProblem) -> None:
        """Import and compile all that solving such a problem takes."""
        problem.form.prepare_energies()
        self._warm_up(problem)

    def _run(
        self,
        problem: BlockProblem,
        seed: int | None,
        time_limit: float | None,
        target: float | None,
        initial_states: InitialStates,
        stop: Callable[[], bool] | None,
    ) -> Run:
        self._refuse_what_does_not_fit(problem)
        initial = _checked_states(problem, initial_states)
        run = Run.checked(seed=seed, time_limit=time_limit, target=target, initial_states=initial, stop=stop)
        if target is not None:
            run.size = size_of_terms(problem)
            run.rounding = EXACT_ROUNDING * (run.size + abs(problem.offset))
        return run

    def _runs(
        self,
        problems: list[BlockProblem],
        seed: int | None,
        time_limit: float | None,
        targets: Sequence[float | None] | None,
        initial_states: Sequence[InitialStates] | None,
        stop: Callable[[], bool] | None,
    ) -> list[Run]:
        each = zip(problems, *_each(problems, seed, targets, initial_states), strict=True)
        return [self._run(problem, s, time_limit, t, states, stop) for problem, s, t, states in each]

    def _refuse_what_is_missing(self) -> None:
        ready = self.available()
        if not ready:
            raise UnavailableError(f"{self.backend}: {ready.reason}")

    def _refuse_what_does_not_fit(self, problem: BlockProblem) -> None:
        if not isinstance(problem, BlockProblem):
            raise OptionError(
                f"a solver takes a problems.BlockProblem, not {type(problem).__name__}; "
                "BlockProblem.from_bqm(bqm, cardinality=k) makes one of a dimod BQM"
            )
        allowed = self.capabilities
        if allowed.max_variables is not None and problem.n > allowed.max_variables:
            raise SolverError(
                f"{self.backend} takes at most {allowed.max_variables} variables, the problem has {problem.n}; "
                "wrap it as solvers.Decompose(solver) to solve by sub-blocks"
            )
        if problem.groups is not None and not allowed.groups:
            raise SolverError(f"{self.backend} takes one cardinality, not a number for each group")

    def _solve(self, problem: BlockProblem, run: Run) -> dimod.SampleSet:
        begun = time.perf_counter()
        self._refuse_what_is_missing()
        self._set_up(problem)
        setup = time.perf_counter() - begun
        with run.listening():
            run.start()
            outcome = self._search(problem, run)
        solve = run.elapsed()
        answer = self._answer(problem, run, outcome)
        answer.info["timing"] = timing(run, setup, solve, time.perf_counter() - begun)
        return answer

    def _feasible(self, problem: BlockProblem, outcome: Outcome) -> StateArray:
        states, _ = problem.checked_states(np.ascontiguousarray(outcome.states, dtype=np.int8))
        feasible = problem.constraint.feasible(states)
        if not len(states) or not feasible.all():
            raise SolverError(
                f"{self.backend} returned {(~feasible).sum()} infeasible of {len(states)} states; this is a bug"
            )
        return states

    def _answer(self, problem: BlockProblem, run: Run, outcome: Outcome) -> dimod.SampleSet:
        states = self._feasible(problem, outcome)
        if len(states) == 1 and run.counted and run.counted[0] == states[0].tobytes():
            energies = np.array([run.counted[1]])
        else:
            energies = problem.energy(states)
        if len(states) > 1:
            order = np.argsort(energies, kind="stable")
            rows = order[_first_of_each(states[order])]
            states, energies = states[rows], energies[rows]
        answer = _sample_set(states, energies)
        best = float(energies[0])
        run.record(best)
        answer.info.update(
            outcome.info,
            backend=self.backend,
            seed=run.seed,
            versions=dict(versions(self.toolkits)),
            incumbents=run.incumbents_down_to(best),
            ended_by=run.ended_by or "work",
            repaired=outcome.repaired,
            raw=outcome.raw or {"energy": best, "feasible": 1.0},
        )
        return answer


def timing(run: Run, setup: float, solve: float, total: float) -> dict[str, float]:
    """The seconds of a solve as `.info["timing"]` holds them."""
    seconds = {"setup": setup, "solve": solve, "total": total}
    if run.time_limit is not None and solve > run.time_limit:
        seconds["overrun"] = solve - run.time_limit
    if run.queue:
        seconds["queue"] = run.queue
    return seconds


def _checked_states(problem: BlockProblem, initial_states: InitialStates) -> StateArray | None:
    if initial_states is None:
        return None
    import dimod

    if isinstance(initial_states, dimod.SampleSet):
        if set(initial_states.variables) != set(range(problem.n)):
            raise OptionError(f"initial_states must be over the variables 0..{problem.n - 1}")
        order = [initial_states.variables.index(v) for v in range(problem.n)]
        initial_states = initial_states.change_vartype("BINARY", inplace=False).record.sample[:, order]
    states, _ = problem.checked_states(initial_states)
    if not len(states):
        raise OptionError("initial_states is empty; leave it out to start from random states")
    feasible = problem.constraint.feasible(states)
    if not feasible.all():
        row = int(np.flatnonzero(~feasible)[0])
        raise OptionError(
            f"initial_states[{row}] has {int(states[row].sum())} ones where the problem demands "
            f"{problem.constraint.total}" + (" in its groups" if problem.groups is not None else "")
        )
    return states


def _sample_set(states: StateArray, energies: Float64Array) -> dimod.SampleSet:
    """States [s, n] over the variables 0..n-1, built at once: `from_samples` looks longer than a short search takes."""
    import dimod

    n = states.shape[1]
    rows = np.zeros(len(states), [("sample", np.int8, (n,)), ("energy", np.float64), ("num_occurrences", np.int_)])
    rows["sample"], rows["energy"], rows["num_occurrences"] = states, energies, 1
    return dimod.SampleSet(rows.view(np.recarray), range(n), {}, "BINARY")


def _first_of_each(states: StateArray) -> npt.NDArray[np.intp]:
    """Rows left when every repetition of an earlier row is dropped."""
    seen: dict[bytes, int] = {}
    for row, packed in enumerate(np.packbits(states.astype(bool), axis=1)):
        seen.setdefault(packed.tobytes(), row)
    return np.fromiter(seen.values(), np.intp, len(seen))


def _each(
    problems: list[BlockProblem],
    seed: int | None,
    targets: Sequence[float | None] | None,
    initial_states: Sequence[InitialStates] | None,
) -> tuple[list[int | None], Sequence[float | None], Sequence[InitialStates]]:
    count = len(problems)
    for name, given in (("targets", targets), ("initial_states", initial_states)):
        if given is not None and len(given) != count:
            raise OptionError(f"{name} has {len(given)} entries for {count} problems")
    if seed is not None:
        check_seed(seed)
    seeds: list[int | None] = [None if seed is None else seed + p for p in range(count)]
    nothing = [None] * count
    return seeds, nothing if targets is None else targets, nothing if initial_states is None else initial_states
