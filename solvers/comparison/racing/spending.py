"""What a race may spend at services: one budget for all its calls, and a label of its own for each of them."""

from __future__ import annotations

from problems import BlockProblem
from solvers.remote.account import Account
from solvers.remote.ledger import Ledger

CALLS = "calls.jsonl"
"""The record of a race's calls, in its folder."""


class RaceAccount(Account):
    """The account of a race, as one of its tasks uses it.

    Labels tell backends and time limits apart, which an account of one solver need not: two backends that ask the same
    service for the same problem with the same seed must not be given one answer.

    Args:
        ledger: where the race's tickets are kept.
        run: the race, part of every label; the budget is counted over all of it.
        task: names backend and time limit.
        max_calls: calls that the race may make in all.
        max_charge: seconds that services may bill it in all.
    """

    def __init__(
        self, ledger: Ledger, run: str, task: str, *, max_calls: int | None = None, max_charge: float | None = None
    ) -> None:
        super().__init__(ledger, run, max_calls=max_calls, max_charge=max_charge)
        self.task = task

    def label(self, kind: str, problem: BlockProblem, seed: int | None) -> str:
        """As :meth:`solvers.remote.account.Account.label`, with the task in it."""
        return super().label(f"{kind}/{self.task}", problem, seed)
