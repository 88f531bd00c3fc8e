"""What every remote solver is: a call that is sent once, known by its label, and found again after any failure.

A remote solver writes what is its service's own: :meth:`RemoteSolver._ticket` says what a new call is,
:meth:`RemoteSolver._open` continues a call from the stage of its ticket (a new one, one whose data is
uploaded, one that the service has accepted), :meth:`RemoteSolver._read` makes states of an answer. All else is here:
labels, budgets, the record of each stage, several calls in flight, and that an answer on record is never paid twice.

    with accounting(Account(FileLedger("calls.jsonl"), "trial-1", max_charge=60)):
        solve(problem, backend="leap", seed=0)  # again after a kill: the same job, found by its label
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

import numpy as np

from problems import BlockProblem
from solvers.base import InitialStates, Outcome, Solver, timing
from solvers.checks import at_least
from solvers.errors import BudgetReached, OptionError, RemoteError, ServiceError, SolverError
from solvers.local.repair import polish, repair, single_state
from solvers.remote.account import Account, accounting, current_account, throw_away_account
from solvers.remote.ledger import FileLedger, Ledger, MemoryLedger, Stage, Ticket, fingerprint
from solvers.run import Run, end_all, listening_together

if TYPE_CHECKING:
    import dimod

__all__ = [
    "Account", "FileLedger", "Job", "Ledger", "MemoryLedger", "OnStage", "RemoteSolver", "Stage", "Stopped", "Ticket",
    "accounting", "current_account", "fingerprint",
]  # fmt: skip

OnStage: TypeAlias = Callable[[Ticket], None]
"""Called with the ticket at each stage of a call, before the next request; an exception of it ends the call."""

LOOK_SECONDS = 0.05
"""How often a wait for a service looks whether someone asked to stop."""


@dataclass(frozen=True)
class RemoteSolver(Solver):
    """What all solvers at a service have in common.

    Args:
        in_flight: calls that :meth:`solve_many` has under way at once.
        max_charge: billed seconds that a single call may take; None for any.
    """

    kinds: ClassVar[tuple[str, ...]] = ()
    """Kinds of solvers at the service, where it has several: values of the setting `solver`."""

    in_flight: int = 8
    max_charge: float | None = None

    def __post_init__(self) -> None:
        at_least(1, in_flight=self.in_flight)
        given = self.max_charge
        if given is not None and (isinstance(given, bool) or not 0.0 <= given < float("inf")):
            raise OptionError(f"max_charge {given!r} must be a finite number of seconds, 0 or more")

    # What a subclass writes

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """What is sent, a part of labels and tickets."""

    @abc.abstractmethod
    def _charge(self, problem: BlockProblem, time_limit: float | None) -> float:
        """Seconds that the service will bill for a call; it may ask the service."""

    @abc.abstractmethod
    def _ticket(self, problem: BlockProblem, label: str, seed: int, time_limit: float | None) -> Ticket:
        """The ticket of a new call, at stage "labelled", with all that must be known before anything is sent."""

    @abc.abstractmethod
    def _open(
        self,
        problem: BlockProblem,
        ticket: Ticket,
        on_stage: OnStage | None,
        run: Run | None,
        known: bool,
        send: bool = True,
    ) -> Job:
        """Bring a call forward until the service has accepted it.

        Args:
            problem: the block problem.
            ticket: what is known of the call, at stage "labelled", "uploaded" or "accepted".
            on_stage: called at every stage, before the next request.
            run: the waiting solve, which may be ended meanwhile.
            known: whether the label may have been sent before, so that the service must be asked for it first.
            send: whether to send what the service does not know.
        """

    @abc.abstractmethod
    def _read(self, problem: BlockProblem, run: Run, ticket: Ticket) -> Outcome:
        """Feasible states of the answer of a ticket."""

    # Calls one by one

    def submit(
        self,
        problem: BlockProblem,
        *,
        label: str | None = None,
        seed: int | None = None,
        time_limit: float | None = None,
        on_stage: OnStage | None = None,
    ) -> Job:
        """Send a problem to the service and return when it is accepted, without waiting for the answer.

        Nothing is counted or limited here but `max_charge` of a call: budgets and records are `solve`'s, or the
        caller's own, which is called at each stage.

        Args:
            problem: the block problem.
            label: unique name of the call; None makes one up.
            seed: for what is random on this side; None draws one.
            time_limit: seconds asked of the service; its minimum for the problem where that is more.
            on_stage: called with the ticket at each stage, before the next thing happens; what it raises ends the call.

        Raises:
            UnavailableError: credentials are missing or refused.
            RemoteError: the service cannot be reached.
            ServiceError: it refuses the problem.
            BudgetReached: the call would be billed more than `max_charge` seconds.
        """
        self._refuse_what_is_missing()
        run = self._run(problem, seed, time_limit, None, None, None)
        self._refuse_charge(self._charge(problem, run.time_limit))
        label = label or throw_away_account().label(self.kind, problem, seed)
        ticket = self._ticket(problem, label, run.seed, run.time_limit)
        if on_stage is not None:
            on_stage(cast(Ticket, dict(ticket)))
        return self._open(problem, ticket, on_stage, run, known=False)

    def fetch(self, ticket: Ticket, problem: BlockProblem, *, on_stage: OnStage | None = None) -> Job:
        """Find a call again, from the stage of its ticket; nothing is sent.

        Args:
            ticket: of this call, as `Job.ticket` or `on_stage` gave it.
            problem: the problem that was sent.
            on_stage: called with the ticket at each further stage.

        Raises:
            SolverError: the ticket belongs to another problem or solver.
            RemoteError: the service cannot be reached.
            ServiceError: the call failed, was cancelled, or never reached the service.
        """
        if ticket.get("problem", fingerprint(problem)) != fingerprint(problem):
            raise SolverError(f"the ticket of {ticket['label']!r} belongs to another problem than the one given")
        if ticket.get("kind", self.kind) != self.kind:
            raise SolverError(f"the ticket of {ticket['label']!r} is of kind {ticket['kind']!r}, not {self.kind!r}")
        if ticket["stage"] in ("failed", "cancelled"):
            raise ServiceError(f"{self.backend}: {ticket['label']!r}: {ticket.get('error') or ticket['stage']}")
        if ticket["stage"] == "answered":
            return StoredJob(self, problem, ticket, on_stage)
        self._refuse_what_is_missing()
        return self._open(problem, ticket, on_stage, None, known=True, send=False)

    # Calls of the contract

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
        """Solve several problems, `in_flight` of them under way at once; see :meth:`solvers.Solver.solve_many`.

        Raises:
            BudgetReached: the account has not enough for all; what was under way is on its ledger first.
            RemoteError, ServiceError: one call failed; the others under way were waited for and are on the ledger.
        """
        listed = list(problems)
        runs = self._runs(listed, seed, time_limit, targets, initial_states, stop)
        if not listed:
            return []
        self._refuse_what_is_missing()
        account = current_account() or throw_away_account()
        work = zip(listed, runs, strict=True)
        futures: list[Future[dimod.SampleSet]] = []
        failure: Exception | None = None
        with listening_together(runs), ThreadPoolExecutor(self.in_flight, "remote") as pool:
            pending: set[Future[dimod.SampleSet]] = set()
            while True:
                while failure is None and len(pending) < self.in_flight and len(futures) < len(listed):
                    problem, run = next(work)
                    try:
                        label = self._entered(problem, run, account)
                    except SolverError as error:
                        failure = error
                        break
                    futures.append(pool.submit(self._solve_apart, problem, run, account, label))
                    pending.add(futures[-1])
                if not pending:
                    break
                done, pending = wait(pending, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
                failure = failure or next((_exception(future) for future in done if _exception(future)), None)
                if any(run.told_to_end() == "stop" for run in runs):
                    end_all(runs, "stop")
        if failure is not None:
            raise failure
        return [future.result() for future in futures]

    # How a solve goes

    def _warm_up(self, problem: BlockProblem) -> None:
        polish(BlockProblem(np.ones((3, 3)), cardinality=1), [1, 0, 0])

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        account = current_account() or throw_away_account()
        return self._called(problem, run, account, self._entered(problem, run, account))

    def _solve(self, problem: BlockProblem, run: Run) -> dimod.SampleSet:
        return _with_service_times(super()._solve(problem, run))

    def _solve_apart(self, problem: BlockProblem, run: Run, account: Account, label: str | None) -> dimod.SampleSet:
        """One of several solves, in a thread of its own: signals and `stop` are the main one's."""
        begun = time.perf_counter()
        self._set_up(problem)
        setup = time.perf_counter() - begun
        run.start()
        outcome = self._called(problem, run, account, label)
        solve = run.elapsed()
        answer = self._answer(problem, run, outcome)
        answer.info["timing"] = timing(run, setup, solve, time.perf_counter() - begun)
        return _with_service_times(answer)

    def _finished(self, problem: BlockProblem, run: Run, ticket: Ticket, setup: float) -> dimod.SampleSet:
        """The answer of a ticket, wrapped."""
        outcome = self._read(problem, run, ticket)
        solve = run.elapsed()
        answer = self._answer(problem, run, outcome)
        answer.info["timing"] = timing(run, setup, solve, setup + run.elapsed())
        return _with_service_times(answer)

    def _entered(self, problem: BlockProblem, run: Run, account: Account) -> str | None:
        """The label of a call, its estimate set aside; None where no call is needed."""
        if single_state(problem) is not None:
            return None
        if run.initial_states is not None:
            run.record(float(np.min(problem.energy(run.initial_states))))
        if run.told_to_end():
            return None
        label = account.label(self.kind, problem, run.seed)
        try:
            known = account.get(label)
            if known is None or known["stage"] not in ("accepted", "answered"):
                charge = self._charge(problem, run.time_limit)
                self._refuse_charge(charge)
                account.reserve(label, charge)
        except BaseException:
            account.give_back(label)
            raise
        return label

    def _refuse_charge(self, charge: float) -> None:
        if self.max_charge is not None and charge > self.max_charge * (1 + 1e-9):
            raise BudgetReached(
                f"{self.backend}: this call would be billed {charge:.4g} s, more than the {self.max_charge:.4g} s that "
                "a call may take; raise max_charge, lower time_limit, or choose a smaller block"
            )

    def _called(self, problem: BlockProblem, run: Run, account: Account, label: str | None) -> Outcome:
        """The answer to a call, on the ledger before anything else is done with it; without one, what is at hand."""
        if label is None:
            return _at_hand(problem, run)
        try:
            ticket = account.get(label)
            if ticket is None or ticket["stage"] != "answered":
                ticket = self._waited(problem, run, account, label, ticket)
        except BaseException:
            account.give_back(label)
            raise
        if ticket is None:
            account.give_back(label)
            return _at_hand(problem, run)
        outcome = self._read(problem, run, ticket)
        if run.initial_states is not None:
            outcome.states = np.concatenate([outcome.states, run.initial_states])
        return outcome

    def _waited(
        self, problem: BlockProblem, run: Run, account: Account, label: str, ticket: Ticket | None
    ) -> Ticket | None:
        """The ticket with its answer; None where someone asked to stop before."""
        known = ticket is not None
        if ticket is None or ticket["stage"] == "failed":
            ticket = self._ticket(problem, label, run.seed, run.time_limit)
            account.put(ticket)
        try:
            job = self._open(problem, ticket, account.put, run, known)
        except Stopped:
            return None
        while not job.wait(LOOK_SECONDS):
            if run.told_to_end():
                return None
        return job.ticket


class Job(abc.ABC):
    """A call that a service has accepted, or whose answer is on record.

    Args:
        solver: whose call it is.
        problem: the block problem.
        ticket: what is known of the call.
        on_stage: called at every further stage, before the next request.
        run: the solve that waits for it; None makes one of the ticket's seed.
    """

    def __init__(
        self,
        solver: RemoteSolver,
        problem: BlockProblem,
        ticket: Ticket,
        on_stage: OnStage | None = None,
        run: Run | None = None,
    ) -> None:
        self._solver, self._problem, self._on_stage = solver, problem, on_stage
        self._ticket = ticket
        self._run = run or solver._run(problem, ticket.get("seed"), None, None, None, None)

    @property
    def ticket(self) -> Ticket:
        """What is known of the call, plain JSON: :meth:`RemoteSolver.fetch` finds the job again by it."""
        return cast(Ticket, dict(self._ticket))

    @abc.abstractmethod
    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the answer, and bring the ticket to stage "answered" when it is there.

        Args:
            timeout: seconds; None for as long as it takes, 0 for a look.

        Returns:
            Whether the answer is there.

        Raises:
            RemoteError: the service cannot be reached; the job lives on.
            ServiceError: the job failed or was cancelled; the ticket says so.
        """

    @abc.abstractmethod
    def cancel(self) -> None:
        """Ask the service to drop the job; one that runs already may be billed and answered nevertheless."""

    def result(self, timeout: float | None = None) -> dimod.SampleSet:
        """Wait for the answer and read it, as :meth:`solvers.Solver.solve` returns it.

        Args:
            timeout: seconds to wait; None for as long as it takes.

        Raises:
            RemoteError: the service cannot be reached, or did not answer in time; the job lives on.
            ServiceError: the job failed or was cancelled.
        """
        if not self.wait(timeout):
            raise RemoteError(
                f"no answer within {timeout:.4g} s to problem {self._ticket.get('problem_id')}, which lives on at the "
                "service; wait longer, or find it again later with fetch(ticket, problem)"
            )
        begun = time.perf_counter()
        self._solver._set_up(self._problem)
        setup = time.perf_counter() - begun
        return self._solver._finished(self._problem, self._run, self._ticket, setup)

    def reached(self, stage: Stage, **changes: Any) -> None:
        """Update the ticket to a stage and report it."""
        self._ticket = cast(Ticket, {**self._ticket, **changes, "stage": stage})
        if self._on_stage is not None:
            self._on_stage(self.ticket)


class StoredJob(Job):
    """A job whose answer is on record."""

    def wait(self, timeout: float | None = None) -> bool:
        """The answer is there."""
        return True

    def cancel(self) -> None:
        """There is nothing left to cancel."""


class Stopped(Exception):
    """Someone asked to stop before the service had accepted the call."""


def _at_hand(problem: BlockProblem, run: Run) -> Outcome:
    """A feasible state without a call: the only one, the initial states, or the greedy one."""
    only = single_state(problem)
    if only is not None:
        return Outcome(only, {"sent": False})
    states = run.initial_states
    if states is None:
        states = polish(problem, repair(problem, np.zeros(problem.n, np.int8))[0])
    return Outcome(states, {"sent": False}, raw={"energy": None, "feasible": 0.0})


def _exception(future: Future[Any]) -> Exception | None:
    error = future.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error


def _with_service_times(answer: dimod.SampleSet) -> dimod.SampleSet:
    """The service's own seconds beside ours."""
    answer.info["timing"].update(answer.info.pop("service_timing", {}))
    return answer
