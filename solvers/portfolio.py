"""Several backends on one problem within one time limit; the best answer counts."""

from __future__ import annotations

import contextvars
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from problems import BlockProblem
from problems.forms import StateArray
from solvers.base import Availability, Capabilities, Estimate, Outcome, Solver
from solvers.decompose import fitted
from solvers.errors import BudgetReached, OptionError, SolverError, UnavailableError
from solvers.registry import get_solver
from solvers.run import Run

logger = logging.getLogger(__name__)

SEPARATOR = "+"
"""Between the members in text: portfolio?solvers=leap?solver=cqm+tabu."""


@dataclass(frozen=True)
class Portfolio(Solver):
    """Let several solvers work on a problem, in turn or at once, and keep the best answer.

    In turn, each gets an even share of the time that is left and begins at the best state of those before it; at once,
    each gets all of the time and begins where the caller says. A member that fails (a service that cannot be reached,
    refuses, has no credentials, or is out of budget) is passed over with a warning on this module's logger; only where
    all of them fail does the portfolio.

    Args:
        solvers: the members: solvers, or backends' names with options; in text with "+" between them.
        at_once: side by side in threads, not one after the other.

    Raises:
        OptionError: no member, or one that does not exist.

    Example:
        >>> from problems import BlockProblem
        >>> problem = BlockProblem([[0, 2, 1], [0, 0, 1], [0, 0, 0]], cardinality=2)
        >>> answer = Portfolio(("sa", "exact")).solve(problem, seed=0)
        >>> [member["backend"] for member in answer.info["members"]]
        ['sa', 'exact']
    """

    name: ClassVar[str] = "portfolio"

    solvers: tuple[Solver | str, ...] | str = "tabu+sa"
    at_once: bool = False

    def __post_init__(self) -> None:
        given = self.solvers.split(SEPARATOR) if isinstance(self.solvers, str) else self.solvers
        members = tuple(get_solver(member) for member in given)
        if not members:
            raise OptionError("a portfolio needs a solver at least, such as solvers=('tabu', 'sa')")
        object.__setattr__(self, "solvers", members)
        if not isinstance(self.at_once, bool):
            raise OptionError(f"at_once {self.at_once!r} must be true or false")

    @property
    def members(self) -> tuple[Solver, ...]:
        """The solvers, in order."""
        return self.solvers  # type: ignore[return-value] # made solvers by __post_init__

    @property
    def backend(self) -> str:
        """The name with those of the members."""
        return f"{self.name}({SEPARATOR.join(member.backend for member in self.members)})"

    @property
    def capabilities(self) -> Capabilities:
        """Any n, as what is too large for a member is decomposed for it; else what all members promise."""
        each = [member.capabilities for member in self.members]
        devices = list(dict.fromkeys(one.device for one in each))
        return Capabilities(
            native_cardinality=all(one.native_cardinality for one in each),
            dense=all(one.dense for one in each),
            low_rank=all(one.low_rank for one in each),
            groups=all(one.groups for one in each),
            deterministic=all(one.deterministic for one in each),
            remote=any(one.remote for one in each),
            device=SEPARATOR.join(devices),
        )

    @classmethod
    def available(cls) -> Availability:
        """Always; whether the members are shows when they are used."""
        return Availability(True)

    def estimate(self, problem: BlockProblem) -> Estimate:
        """The members' estimates, added up in turn; at once the seconds are those of the slowest."""
        each = [fitted(member, problem).estimate(problem) for member in self.members]
        fitting = [one for one in each if one.fits]
        if not fitting:
            return Estimate(math.inf, fits=False, note="; ".join(one.note for one in each))
        seconds = [one.seconds for one in fitting]
        note = "; ".join(f"{m.backend}: {e.note}" for m, e in zip(self.members, each, strict=True) if e.note)
        return Estimate(
            max(seconds) if self.at_once else sum(seconds), sum(one.charge_seconds for one in fitting), True, note,
            sum(one.upload_bytes for one in fitting), sum(one.calls for one in fitting),
        )  # fmt: skip

    def _refuse_what_is_missing(self) -> None:
        missing = [f"{member.backend}: {ready.reason}" for member in self.members if not (ready := _ready(member))]
        if len(missing) == len(self.members):
            raise UnavailableError(f"{self.name}: no member is ready. {'. '.join(missing)}")

    def _warm_up(self, problem: BlockProblem) -> None:
        for member in self.members:
            if _ready(member):
                fitted(member, problem)._warm_up(problem)

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        done = self._at_once(problem, run) if self.at_once else self._in_turn(problem, run)
        answers = [one.answer for one in done if one.answer is not None]
        if not answers:
            raise _failure(self.name, [one.error for one in done if one.error is not None])
        waits = [answer.info["timing"].get("queue", 0.0) for answer in answers]
        run.queue = max(waits) if self.at_once else sum(waits)
        best = min(answers, key=lambda answer: float(answer.first.energy))
        states = np.concatenate([_states(answer) for answer in answers])
        repaired = sum(int(answer.info["repaired"]) for answer in answers)
        info = {"best": best.info["backend"], "members": [one.account() for one in done]}
        return Outcome(states, info, repaired, best.info["raw"])

    def _in_turn(self, problem: BlockProblem, run: Run) -> list[_Turn]:
        done: list[_Turn] = []
        initial = run.initial_states
        for place, member in enumerate(self.members):
            if done and run.should_end():
                break
            limit = None if run.time_limit is None else max(run.remaining(), 1e-3) / (len(self.members) - place)
            turn = _solved(member, problem, run, initial, limit, place)
            done.append(turn)
            if turn.answer is not None:
                if turn.answer.info["ended_by"] == "interrupt":  # the member has taken the signal for itself
                    run.end("interrupt")
                best = _states(turn.answer)[:1]
                initial = best if initial is None else np.concatenate([best, initial])
        return done

    def _at_once(self, problem: BlockProblem, run: Run) -> list[_Turn]:
        # Each thread sees the account that this one goes by.
        contexts = [contextvars.copy_context() for _ in self.members]

        def work(place: int) -> _Turn:
            limit = None if run.time_limit is None else max(run.remaining(), 1e-3)
            args = self.members[place], problem, run, run.initial_states, limit, place
            return contexts[place].run(_solved, *args)

        return run.in_threads(work, len(self.members), len(self.members))


@dataclass(frozen=True)
class _Turn:
    """What became of one member."""

    member: Solver
    seconds: float
    answer: Any = None
    error: SolverError | None = None

    def account(self) -> dict[str, Any]:
        """The member's line in the record."""
        line: dict[str, Any] = {"backend": self.member.backend, "seconds": self.seconds}
        if self.answer is None:
            return line | {"energy": None, "error": str(self.error)}
        kept = ("timing", "ended_by", "repaired", "raw", "incumbents")
        return line | {"energy": float(self.answer.first.energy)} | {key: self.answer.info[key] for key in kept}


def _solved(
    member: Solver, problem: BlockProblem, run: Run, initial: StateArray | None, limit: float | None, place: int
) -> _Turn:
    """One member's answer, or why there is none."""
    begun = run.elapsed()
    solver = fitted(member, problem)
    try:
        if limit is not None and solver.capabilities.remote:
            _refuse_what_takes_longer(solver, problem, limit)
        answer = solver.solve(
            problem, seed=(run.seed + place) % (1 << 62), time_limit=limit, target=run.target, initial_states=initial,
            stop=_listening(run),
        )  # fmt: skip
    except SolverError as error:
        logger.warning("%s is passed over: %s", member.backend, error)
        return _Turn(member, run.elapsed() - begun, error=error)
    run.record(float(answer.first.energy))
    return _Turn(member, run.elapsed() - begun, answer)


def _listening(run: Run) -> Callable[[], bool]:
    """The portfolio's own end, for a member that keeps the clock itself."""
    return lambda: run.told_to_end() is not None


def _refuse_what_takes_longer(solver: Solver, problem: BlockProblem, limit: float) -> None:
    least = solver.estimate_within(problem, limit).charge_seconds
    if least > limit * (1 + 1e-9):
        raise SolverError(f"a call takes {least:.3g} s at least, and it has {limit:.3g} s of the time limit")


def _failure(name: str, errors: list[SolverError]) -> SolverError:
    """One error for all members': the budget's end where one of them came to it, as a later run may go on."""
    text = f"{name}: every member failed. " + ". ".join(str(error) for error in errors)
    for kind in (BudgetReached, type(errors[0])):
        if any(isinstance(error, kind) for error in errors):
            return kind(text)
    return SolverError(text)


def _ready(member: Solver) -> Availability:
    """Whether a member can run, as it would find out itself."""
    try:
        member._refuse_what_is_missing()
    except UnavailableError as error:
        return Availability(False, str(error))
    return Availability(True)


def _states(answer: Any) -> StateArray:
    return np.ascontiguousarray(answer.record.sample, np.int8)
