"""A problem that Leap has, or is about to have: its ticket brought forward, and its answer awaited."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np

from problems import BlockProblem
from solvers.errors import RemoteError, ServiceError
from solvers.remote.leap import models, redact, service
from solvers.remote.leap.failures import classified
from solvers.remote.ledger import Ticket
from solvers.remote.solver import Job, OnStage, RemoteSolver
from solvers.run import Run

_log = logging.getLogger(__name__)


class LeapJob(Job):
    """A job at Leap; see :class:`solvers.remote.solver.Job`.

    Attributes:
        service: the connection.
    """

    def __init__(
        self,
        solver: RemoteSolver,
        problem: BlockProblem,
        ticket: Ticket,
        on_stage: OnStage | None,
        run: Run | None,
        connection: service.Service,
    ) -> None:
        super().__init__(solver, problem, ticket, on_stage, run)
        self.service = connection
        self._future: Any = None
        self._failures = 0
        self._again = 0.0

    # Stages

    def uploaded(self, data_id: str, seconds: float) -> None:
        """The service has the data."""
        settings = {**self._ticket.get("settings", {}), "upload_seconds": seconds}
        self.reached("uploaded", data_id=data_id, settings=settings)

    def accepted(self, problem_id: str, submitted: str | None = None) -> None:
        """The service has the problem."""
        self.reached("accepted", problem_id=problem_id, submitted=submitted or self._ticket.get("submitted"))

    def refused(self, reason: str) -> None:
        """The service does not want the problem: nothing was sent that could be billed."""
        self.reached("failed", error=redact.redact(reason), charge=0.0)

    # Waiting

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the answer, and put it on the ticket; a poll that failed for now is followed by another later."""
        end = None if timeout is None else time.monotonic() + timeout
        while self._ticket["stage"] != "answered":
            left = 3600.0 if end is None else max(0.0, end - time.monotonic())
            pause = self._again - time.monotonic()
            if pause > 0.0:
                time.sleep(min(pause, left))
            elif self._look(left):
                return True
            if end is not None and time.monotonic() >= end:
                return False
        return True

    def cancel(self) -> None:
        """Ask the service to drop the job, and note that."""
        problem_id = self._ticket.get("problem_id")
        if problem_id and self._ticket["stage"] == "accepted":
            self.service.cancel(problem_id)
            self.reached("cancelled", error="cancelled by this side")

    def _look(self, seconds: float) -> bool:
        doing = f"waiting for problem {self._ticket['problem_id']} at {self.service.solver.name}"
        if self._ticket["stage"] in ("failed", "cancelled"):
            raise ServiceError(f"{doing}: {self._ticket.get('error')}")
        if self._future is None:
            self._future = self.service.watch(str(self._ticket["problem_id"]))
        if not self._future.wait(seconds):
            return False
        try:
            answer, charge = self._answer(self._future)
        except Exception as error:
            self._failed(error, doing)
            return False
        self.reached("answered", answer=answer, charge=charge)
        return True

    def _failed(self, error: Exception, doing: str) -> None:
        """Another look later for what failed for now; otherwise the end of the job, on the ticket first."""
        from dwave.cloud import exceptions

        self._future = None
        failure = classified(error, doing)
        if failure.passing and self._failures < len(service.WAITS):
            wait = service.WAITS[self._failures] if failure.wait is None else failure.wait
            self._failures += 1
            self._again = time.monotonic() + wait
            _log.warning("%s; another attempt follows", failure.error)
            return
        # A job stays "accepted", to be found again, unless it is known that no answer will come.
        if isinstance(error, exceptions.CanceledFutureError):
            self.reached("cancelled", error=str(failure.error))
        elif isinstance(error, exceptions.SolverFailureError | exceptions.SolverOfflineError) or failure.gone:
            self.reached("failed", error=str(failure.error))
        raise failure.error from error

    # The answer

    def _answer(self, future: Any) -> tuple[dict[str, Any], float | None]:
        """What the service answered as JSON values, and the seconds it bills."""
        result = future.result()
        problem = self._problem
        kind = self._ticket["kind"]
        if kind == "nl":
            try:
                states = models.nl_states(problem, result["answer"])
            except ServiceError as error:  # a download that was cut short, or an error page in its place
                raise RemoteError(str(error)) from error
            answer = models.packed(states)
            reported = dict(future.timing)
        elif kind == "qpu":
            qubits = np.asarray(result["active_variables"], np.int64)
            spins = np.asarray(result["solutions"])[:, qubits]
            answer = models.packed(spins > 0, np.asarray(result["num_occurrences"]))
            answer["qubits"] = qubits.tolist()
            reported = dict(future.timing)
        else:
            sampleset = future.sampleset
            answer = models.packed(*models.sampleset_states(problem, sampleset))
            reported = dict(sampleset.info.get("timing", {}))
        answer["timing"], charge = self._times(future, reported)
        return answer, charge

    def _times(self, future: Any, reported: dict[str, Any]) -> tuple[dict[str, float], float | None]:
        """Seconds of queue, upload, access and charge, as far as they are known; the service reports microseconds."""
        seconds = {key: float(value) * 1e-6 for key, value in reported.items() if isinstance(value, int | float)}
        times: dict[str, float] = {}
        if "upload_seconds" in self._ticket.get("settings", {}):
            times["upload"] = float(self._ticket["settings"]["upload_seconds"])
        access = seconds.get("qpu_access_time", 0.0)
        run = seconds.get("run_time", access)
        charge = seconds.get("charge_time", access if self._ticket["kind"] == "qpu" else None)
        if future.time_received and future.time_solved:
            times["queue"] = max(0.0, (future.time_solved - future.time_received).total_seconds() - run)
        times |= {"access": access, "run": run}
        if charge is not None:
            times["charge"] = charge
        return times, charge
