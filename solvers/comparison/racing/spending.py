"""The account of a comparison: one budget for all calls to services, and a unique label for each call."""

from __future__ import annotations

from problems import BlockProblem
from solvers.remote.account import Account
from solvers.remote.ledger import Ledger

CALLS = "calls.jsonl"
"""File of the recorded calls in the comparison's folder."""


class RaceAccount(Account):
    """The account of one task of a comparison.

    Labels include backend and time limit, so that two backends that call the same service with the same problem and
    seed do not share an answer.

    Args:
        ledger: the ledger of the comparison's calls.
        run: identifies the comparison, in every label; the budget covers all its calls.
        task: identifies backend and time limit.
        max_calls: maximal number of calls of the comparison.
        max_charge: maximal billed seconds of the comparison.
    """

    def __init__(
        self, ledger: Ledger, run: str, task: str, *, max_calls: int | None = None, max_charge: float | None = None
    ) -> None:
        super().__init__(ledger, run, max_calls=max_calls, max_charge=max_charge)
        self.task = task

    def label(self, kind: str, problem: BlockProblem, seed: int | None) -> str:
        """As :meth:`solvers.remote.account.Account.label`, including the task."""
        return super().label(f"{kind}/{self.task}", problem, seed)
