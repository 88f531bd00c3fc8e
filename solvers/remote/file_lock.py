"""A file that one process holds at a time."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from solvers.errors import SolverError


def hold(file: BinaryIO, path: Path, what: str, taken: str) -> None:
    """Lock a file for this process; the lock ends with the process, however it ends.

    Args:
        file: the open file.
        path: its name, for the message.
        what: what needs the lock, for the message on systems without.
        taken: what another process does with the file, and the remedy.

    Raises:
        SolverError: another process holds it, or the system has no such locks.
    """
    try:
        import fcntl
    except ImportError as error:  # Windows
        raise SolverError(f"{path}: {what} needs the file locks of Linux or macOS") from error
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise SolverError(f"{path}: {taken}") from error
