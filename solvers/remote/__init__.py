"""Solvers at remote services: each call has a label, and is on record before it is sent.

- `solver`: what all remote solvers have in common, and the jobs that they wait for
- `services`: the registry of services
- `ledger`: the record of calls, in memory or in a file
- `account`: the budget of a run, and the labels of its calls
- `leap`: D-Wave's Leap
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from solvers.remote.account import Account, accounting, current_account
from solvers.remote.ledger import FileLedger, Ledger, MemoryLedger, Stage, Ticket, fingerprint
from solvers.remote.services import register, service_class, services

if TYPE_CHECKING:
    from solvers.remote.solver import Job, OnStage, RemoteSolver, Stopped

__all__ = [
    "Account",
    "FileLedger",
    "Job",
    "Ledger",
    "MemoryLedger",
    "OnStage",
    "RemoteSolver",
    "Stage",
    "Stopped",
    "Ticket",
    "accounting",
    "current_account",
    "fingerprint",
    "register",
    "service_class",
    "services",
]


def __getattr__(name: str) -> Any:
    """What writing a service needs is imported when it is first used: it compiles repair and polish."""
    if name in ("Job", "OnStage", "RemoteSolver", "Stopped"):
        from solvers.remote import solver

        return getattr(solver, name)
    raise AttributeError(f"module 'solvers.remote' has no attribute {name!r}")
