"""Remote solvers: calls that are sent once, known by their label, and recorded on disk before they are sent."""

from solvers.remote.account import Account, accounting
from solvers.remote.ledger import FileLedger, Ledger, MemoryLedger, Ticket

__all__ = ["Account", "FileLedger", "Ledger", "MemoryLedger", "Ticket", "accounting"]
