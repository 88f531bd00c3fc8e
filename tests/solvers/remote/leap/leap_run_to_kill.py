"""Solves a block at Leap with a ledger in a file, and kills itself at a stage: a program of the tests of recovery."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np

from problems import BlockProblem
from solvers.remote.leap import Leap, service
from solvers.remote.solver import Account, FileLedger, Ticket, accounting

RUN = "killed"


def block() -> BlockProblem:
    rng = np.random.default_rng(11)
    return BlockProblem.low_rank(rng.normal(size=(10, 3)), rng.normal(size=10), 4)


class Deadly(FileLedger):
    """A ledger that kills its process before or after it has written a stage."""

    def __init__(self, path: Path, when: str, stage: str) -> None:
        super().__init__(path)
        self._when, self._stage = when, stage

    def put(self, ticket: Ticket) -> None:
        if (self._when, self._stage) == ("before", ticket["stage"]):
            os.kill(os.getpid(), signal.SIGKILL)
        super().put(ticket)
        if (self._when, self._stage) == ("after", ticket["stage"]):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    path, kind, when, stage = sys.argv[1:]
    service.OPTIONS = {"poll_backoff_min": 0.01, "poll_backoff_max": 0.05}
    with Deadly(Path(path), when, stage) as ledger, accounting(Account(ledger, RUN)):
        print(Leap(solver=kind).solve(block(), seed=5).first.energy)
