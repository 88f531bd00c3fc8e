"""What one run may spend at services, and what it has spent: labels, budgets, and the ledger behind them."""

from __future__ import annotations

import contextlib
import contextvars
import math
import re
import secrets
import threading
from collections.abc import Iterator

from problems import BlockProblem
from solvers.checks import at_least
from solvers.errors import BudgetReached, OptionError
from solvers.remote.ledger import Ledger, MemoryLedger, Ticket, fingerprint

_RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@:-]{0,99}")

_SENT = ("labelled", "uploaded", "accepted", "answered")


class Account:
    """The labels, the budget and the record of one run; its methods may be called from several threads.

    A call counts from the moment at which it is reserved: with its estimate until the service reports the charge. One
    that ended at stage "labelled" or "uploaded" may have been sent, so it counts; one that the service never took does
    not. Calls on record from before (a resumed run) count like those of this process.

    Args:
        ledger: where the run's tickets are kept.
        run: identifier of the run, part of every label, so no two runs of one account at a service may share it;
            letters, digits and _.+=@:- (100 at most).
        max_calls: calls that the run may make in all; None for any number.
        max_charge: seconds that the services may bill the run in all; None for any.

    Raises:
        OptionError: an identifier or a limit that cannot be used.

    Example:
        >>> from solvers.remote.ledger import MemoryLedger
        >>> from problems import BlockProblem
        >>> account = Account(MemoryLedger(), "trial", max_charge=10.0)
        >>> account.label("nl", BlockProblem([[0, 1], [0, 0]], cardinality=1), seed=7)
        'hybrid-icbs/trial/nl/n2/s7'
    """

    def __init__(
        self, ledger: Ledger, run: str, *, max_calls: int | None = None, max_charge: float | None = None
    ) -> None:
        if not isinstance(run, str) or not _RUN.fullmatch(run):
            raise OptionError(f"run {run!r} must be made of up to 100 letters, digits and _.+=@:-")
        if max_calls is not None:
            at_least(0, max_calls=max_calls)
        if max_charge is not None and not 0.0 <= max_charge < math.inf:
            raise OptionError(f"max_charge {max_charge!r} must be a finite number of seconds, 0 or more")
        self.ledger = ledger
        self.run = run
        self.max_calls = max_calls
        self.max_charge = max_charge
        self._lock = threading.RLock()
        self._in_use: set[str] = set()
        self._reserved: dict[str, float] = {}
        self._sent: dict[str, Ticket] = {}
        for ticket in ledger.tickets():
            if ticket.get("run") == run:
                self._note(ticket)

    # What was spent

    @property
    def calls(self) -> int:
        """Calls made, possibly made, or reserved."""
        with self._lock:
            return len(self._reserved.keys() | self._sent.keys())

    @property
    def charged(self) -> float:
        """Seconds that the services have reported as billed."""
        with self._lock:
            return sum(ticket.get("charge") or 0.0 for ticket in self._sent.values())

    @property
    def committed(self) -> float:
        """Seconds billed, and the estimates of all calls whose charge is not known yet."""
        with self._lock:
            return sum(self._reserved.values()) + sum(_cost(ticket) for ticket in self._sent.values())

    # A call

    def label(self, kind: str, problem: BlockProblem, seed: int | None) -> str:
        """The label of the next call for a problem: the same one in a run that is repeated.

        A label that this account has given out already, that is on record for another problem, or whose job the
        service has ended without an answer, is passed over for the same one with "-2", "-3" and so on behind it.

        Args:
            kind: what is sent.
            problem: the block problem.
            seed: the seed of the solve.
        """
        base = f"hybrid-icbs/{self.run}/{kind}/n{problem.n}" + ("" if seed is None else f"/s{seed}")
        own = fingerprint(problem)
        with self._lock:
            number, label = 1, base
            while label in self._in_use or not _usable(self.ledger.get(label), own):
                number += 1
                label = f"{base}-{number}"
            self._in_use.add(label)
        return label

    def give_back(self, label: str) -> None:
        """Let a label be given out again: its call did not come to an answer, and the next attempt carries it on."""
        with self._lock:
            self._in_use.discard(label)
            self._reserved.pop(label, None)

    def reserve(self, label: str, estimated_charge: float) -> None:
        """Set a call's estimate aside, unless it counts already because it is on record as sent.

        Args:
            label: the call's.
            estimated_charge: seconds that the service is expected to bill.

        Raises:
            BudgetReached: the call would go beyond the calls or seconds that the run may spend.
        """
        with self._lock:
            if label in self._sent or label in self._reserved:
                return
            calls, committed = self.calls, self.committed
            spent = f"run {self.run!r} has made {calls} calls and spent {committed:.4g} s ({self.charged:.4g} s billed)"
            if self.max_calls is not None and calls + 1 > self.max_calls:
                raise BudgetReached(
                    f"{spent}; one more would exceed its limit of {self.max_calls} calls. "
                    "Resume it with a larger --max-calls (max_calls=) to go on"
                )
            if self.max_charge is not None and committed + estimated_charge > self.max_charge * (1 + 1e-9):
                raise BudgetReached(
                    f"{spent}; the next call takes {estimated_charge:.4g} s, beyond its limit of "
                    f"{self.max_charge:.4g} s. Resume it with a larger --max-charge (max_charge=) to go on"
                )
            self._reserved[label] = estimated_charge

    def get(self, label: str) -> Ticket | None:
        """The ticket on record for a label."""
        return self.ledger.get(label)

    def put(self, ticket: Ticket) -> None:
        """Keep a ticket in the ledger, as this run's, and count it."""
        own: Ticket = {**ticket, "run": self.run}
        with self._lock:
            self.ledger.put(own)
            self._note(own)

    def _note(self, ticket: Ticket) -> None:
        label = ticket["label"]
        self._reserved.pop(label, None)
        if ticket["stage"] in _SENT or ticket.get("problem_id"):
            slim = {key: ticket[key] for key in ("stage", "charge", "estimated_charge") if key in ticket}
            self._sent[label] = {"label": label, **slim}  # type: ignore[typeddict-item]
        else:
            self._sent.pop(label, None)


@contextlib.contextmanager
def accounting(account: Account) -> Iterator[Account]:
    """Let all remote solves of this thread, whoever makes them, go by an account.

    Example:
        >>> with accounting(Account(MemoryLedger(), "trial")) as account:
        ...     current_account() is account
        True
    """
    token = _current.set(account)
    try:
        yield account
    finally:
        _current.reset(token)


def current_account() -> Account | None:
    """The account of :func:`accounting`, or None outside of it."""
    return _current.get()


def throw_away_account() -> Account:
    """An account without limits, with a ledger in memory, for a run that is not resumed."""
    return Account(MemoryLedger(), secrets.token_hex(8))


_current: contextvars.ContextVar[Account | None] = contextvars.ContextVar("account", default=None)


def _usable(ticket: Ticket | None, own: str) -> bool:
    if ticket is None:
        return True
    spent = ticket["stage"] in ("failed", "cancelled") and bool(ticket.get("problem_id"))
    return not spent and ticket.get("problem", own) == own


def _cost(ticket: Ticket) -> float:
    charge = ticket.get("charge")
    return ticket.get("estimated_charge", 0.0) if charge is None else charge
