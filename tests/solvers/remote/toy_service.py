"""A remote service as a third party writes one, with public names only; the service runs in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from solvers import Capabilities, Estimate, Outcome, RemoteError, ServiceError
from solvers.remote import Job, RemoteSolver, Stopped, fingerprint


@dataclass
class Service:
    """Jobs by label; `offline` lets every wait for an answer fail."""

    jobs: dict = field(default_factory=dict)
    submissions: int = 0
    offline: bool = False

    def submit(self, label, problem):
        self.submissions += 1
        self.jobs[label] = problem.random_states(3, 0).tolist()

    def answer(self, label):
        if self.offline:
            raise RemoteError("the toy service is offline")
        return self.jobs[label]


SERVICE = Service()


class ToyJob(Job):
    """A job of the toy service; its label is also its problem id."""

    def wait(self, timeout=None):
        if self.ticket["stage"] != "answered":
            answer = SERVICE.answer(self.ticket["problem_id"])
            self.reached("answered", answer={"states": answer}, charge=2.0)
        return True

    def cancel(self):
        self.reached("cancelled", error="cancelled by the caller")


@dataclass(frozen=True)
class Toy(RemoteSolver):
    """Random states, billed 2 seconds a call and estimated at 3."""

    name: ClassVar[str] = "toy-service"

    @property
    def kind(self):
        return "toy"

    @property
    def capabilities(self):
        return Capabilities(remote=True, device="toy-service", deterministic=False)

    def estimate(self, problem):
        return Estimate(0.1, charge_seconds=3.0, calls=1)

    def _charge(self, problem, time_limit):
        return 3.0

    def _ticket(self, problem, label, seed, time_limit):
        return {
            "label": label, "stage": "labelled", "kind": self.kind, "problem": fingerprint(problem), "seed": seed,
            "estimated_charge": 3.0,
        }  # fmt: skip

    def _open(self, problem, ticket, on_stage, run, known, send=True):
        job = ToyJob(self, problem, ticket, on_stage, run)
        if ticket["stage"] == "accepted":
            return job
        label = ticket["label"]
        if not (known and label in SERVICE.jobs):
            if not send:
                raise ServiceError(f"{label!r} was never submitted")
            if run is not None and run.told_to_end():
                raise Stopped
            SERVICE.submit(label, problem)
        job.reached("accepted", problem_id=label)
        return job

    def _read(self, problem, run, ticket):
        return Outcome(np.array(ticket["answer"]["states"], np.int8), {"charge": ticket["charge"]})
