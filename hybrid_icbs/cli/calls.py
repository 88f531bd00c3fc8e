"""Calls of `hybrid-icbs solve` to services: recorded in a file before they are sent, and limited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import problems
import solvers
from solvers.remote.account import Account, accounting
from solvers.remote.ledger import FileLedger, fingerprint

CALLS = ".calls.jsonl"
"""What the name of a block's file gets for the record of its calls to services."""


@contextmanager
def on_account(
    solver: solvers.Solver,
    problem: problems.BlockProblem,
    record: Path,
    max_calls: int | None,
    max_charge: float | None,
) -> Iterator[None]:
    """Keep the calls of a solve on record, where a service is called.

    Args:
        solver: the solver.
        problem: the block; its content names the run, so the same command finds the same calls again.
        record: file of the calls.
        max_calls: calls that may be made, those of earlier commands with this record included.
        max_charge: seconds that may be billed, likewise.
    """
    if not solver.capabilities.remote:
        yield
        return
    with (
        FileLedger(record) as ledger,
        accounting(Account(ledger, f"solve-{fingerprint(problem)}", max_calls=max_calls, max_charge=max_charge)),
    ):
        yield
