"""The record of paid calls: what a service was asked for, under which label, and what it answered.

A call to a service costs money and outlives the process that made it. So each one has a :class:`Ticket`, a plain JSON
dict, and every change of a ticket is in a :class:`Ledger` before the next thing happens: the label before the upload,
the data id before the submission, the problem id before the waiting, the answer before anybody reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Literal, Protocol, Required, TypedDict, cast, get_args

import numpy as np
import numpy.typing as npt

from problems import BlockProblem, FileFormatError, LowRankForm
from problems.storage import opened, parse_json
from solvers.errors import SolverError

Stage = Literal["labelled", "uploaded", "accepted", "answered", "failed", "cancelled"]

STAGES: tuple[str, ...] = get_args(Stage)

LARGEST_LINE = 1 << 28
"""Bytes of one entry of a :class:`FileLedger`: a thousand answers of a million variables are half of it."""


class Ticket(TypedDict, total=False):
    """One call to a service, as JSON values; which keys are there depends on the stage.

    Stages: "labelled" before the upload, "uploaded" with `data_id`, "accepted" with `problem_id`, "answered" with
    `answer`; "failed" and "cancelled" with `error`, and with `problem_id` where the service had taken the problem.
    """

    label: Required[str]
    """Unique name of the call; the service knows it too."""
    stage: Required[Stage]
    run: str
    """Identifier of the run that the call belongs to."""
    service: str
    """Where the call went: the service's endpoint."""
    kind: str
    """What was sent: "nl", "cqm", "bqm" or "qpu" at D-Wave's Leap."""
    solver: str | None
    """Name of the solver at the service, with its graph id where it has one: "NAME" or "NAME/GRAPH_ID"."""
    problem: str
    """:func:`fingerprint` of the block problem."""
    seed: int | None
    time_limit: float | None
    """Seconds asked of the service."""
    data_id: str | None
    problem_id: str | None
    embedding: dict[str, list[int]] | None
    """QPU: the qubits that stand for each variable."""
    settings: dict[str, Any]
    """QPU: chain strength, scale, spin reversal and all else that is needed to read the answer."""
    estimated_charge: float
    """Billed seconds that were expected."""
    charge: float | None
    """Billed seconds as the service reported them; None until then."""
    submitted: str | None
    """When the service was first sent the problem, ISO 8601."""
    answer: dict[str, Any]
    error: str


class Ledger(Protocol):
    """Where tickets are kept; the last one put under a label is the one that counts. Several threads may call it."""

    def get(self, label: str) -> Ticket | None:
        """The ticket of a label, or None."""

    def put(self, ticket: Ticket) -> None:
        """Keep a ticket; when this returns it survives a kill."""

    def tickets(self) -> list[Ticket]:
        """All tickets, in the order in which their labels came."""


class MemoryLedger:
    """A ledger in memory, for calls whose answers are not needed after the process ends."""

    def __init__(self) -> None:
        self._tickets: dict[str, Ticket] = {}
        self._lock = threading.Lock()

    def get(self, label: str) -> Ticket | None:
        """The ticket of a label, or None."""
        with self._lock:
            return _copy(self._tickets.get(label))

    def put(self, ticket: Ticket) -> None:
        """Keep a ticket until the process ends."""
        with self._lock:
            self._tickets[ticket["label"]] = cast(Ticket, dict(checked(ticket)))

    def tickets(self) -> list[Ticket]:
        """All tickets, in the order in which their labels came."""
        with self._lock:
            return [cast(Ticket, dict(ticket)) for ticket in self._tickets.values()]


class FileLedger:
    """A ledger in a file of JSON lines, which are only ever appended, each on disk before `put` returns.

    A line that a kill cut short is dropped when the file is opened again. One process at a time may hold the file.

    Args:
        path: the file; made where it does not exist.

    Raises:
        FileFormatError: the file holds something else; the message names the line.
        SolverError: another process holds it.
        OSError: it cannot be read or written.

    Example:
        >>> import tempfile
        >>> with FileLedger(Path(tempfile.mkdtemp()) / "calls.jsonl") as ledger:
        ...     ledger.put({"label": "trial/1", "stage": "labelled"})
        ...     ledger.get("trial/1")["stage"]
        'labelled'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._memory = MemoryLedger()
        self.path.touch(exist_ok=True)
        with opened(self.path):  # a pipe or device is refused before it is held open
            pass
        self._file: FileIO = self.path.open("r+b", buffering=0)
        try:
            hold(self._file, "another process holds this ledger; wait for it to end, or name another")
            self._read()
        except BaseException:
            self._file.close()
            raise

    def get(self, label: str) -> Ticket | None:
        """The ticket of a label, or None."""
        return self._memory.get(label)

    def put(self, ticket: Ticket) -> None:
        """Append a ticket, on disk when this returns."""
        line = json.dumps(checked(ticket), allow_nan=False).encode("ascii") + b"\n"
        if len(line) > LARGEST_LINE:
            raise SolverError(f"{self.path}: a ticket of {len(line)} bytes; {LARGEST_LINE} at most can be kept")
        with self._lock:
            self._file.seek(0, os.SEEK_END)
            end = self._file.tell()
            try:
                _write_all(self._file, line)
                os.fsync(self._file.fileno())
            except OSError:  # a full disk: half a line must not stand before the next one
                self._file.truncate(end)
                raise
            self._memory.put(ticket)

    def tickets(self) -> list[Ticket]:
        """All tickets, in the order in which their labels came."""
        return self._memory.tickets()

    def close(self) -> None:
        """Let the file go; other processes may open it then."""
        self._file.close()

    def __enter__(self) -> FileLedger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self) -> None:
        whole = 0  # bytes up to the end of the last complete line
        number = 0
        while line := self._line():
            number += 1
            complete = line.endswith(b"\n")
            try:
                ticket = checked(parse_json(line, self.path, f"line {number}"))
            except (FileFormatError, SolverError) as error:
                if not complete:
                    break
                message = str(error) if isinstance(error, FileFormatError) else f"{self.path}: line {number}: {error}"
                raise FileFormatError(message) from error
            self._memory.put(ticket)
            whole += len(line)
            if not complete:
                _write_all(self._file, b"\n")
                whole += 1
        self._file.truncate(whole)

    def _line(self) -> bytes:
        """The next line, of `LARGEST_LINE` bytes at most."""
        pieces, size = [], 0
        start = self._file.tell()
        while piece := self._file.read(1 << 16):
            end = piece.find(b"\n") + 1
            pieces.append(piece[:end] if end else piece)
            size += len(pieces[-1])
            if size > LARGEST_LINE:
                raise FileFormatError(f"{self.path}: a line of more than {LARGEST_LINE} bytes is no ticket")
            if end:
                break
        self._file.seek(start + size)
        return b"".join(pieces)


def hold(file: FileIO, taken: str) -> None:
    """Lock an open file until it is closed or the process ends, however it ends.

    Args:
        file: the open file.
        taken: what another process does with the file, and the remedy.

    Raises:
        SolverError: another process holds the lock.
        OSError: the file system has no locks.
    """
    from filelock import lock_descriptor

    if not lock_descriptor(file.fileno(), blocking=False):
        raise SolverError(f"{file.name}: {taken}")


def checked(ticket: Mapping[str, Any]) -> Ticket:
    """A ticket, when what is given is one.

    Raises:
        SolverError: it is not; the message names the key.
    """
    if not isinstance(ticket, Mapping):
        raise SolverError(f"a ticket is a JSON object, not {type(ticket).__name__}")
    for key, kinds in _KINDS.items():
        if key in ticket and (not isinstance(ticket[key], kinds) or isinstance(ticket[key], bool)):
            raise SolverError(f"ticket: {key}: {ticket[key]!r:.100} is not of the kind that is needed there")
    if not ticket.get("label"):
        raise SolverError("ticket: label: is missing")
    if ticket.get("stage") not in STAGES:
        raise SolverError(f"ticket: stage: {ticket.get('stage')!r:.100} must be one of {', '.join(STAGES)}")
    for stage, key in (("uploaded", "data_id"), ("accepted", "problem_id"), ("answered", "answer")):
        if ticket["stage"] == stage and not ticket.get(key):
            raise SolverError(f"ticket: {key}: is missing at stage {stage!r}")
    return cast(Ticket, ticket)


def fingerprint(problem: BlockProblem) -> str:
    """A hash of what a problem asks: its coefficients to the bit, and its cardinality."""
    form = problem.form
    digest = hashlib.sha256()
    arrays: list[npt.NDArray[Any]] = [form.factor if isinstance(form, LowRankForm) else form.dense()]
    arrays += [problem.linear, problem.constraint.counts, problem.constraint.groups, np.array(problem.offset)]
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


_TEXT, _NUMBER = (str, type(None)), (int, float, type(None))

_KINDS: dict[str, tuple[type, ...]] = {
    "label": (str,), "stage": (str,), "run": (str,), "service": (str,), "kind": (str,), "solver": _TEXT,
    "problem": (str,), "seed": (int, type(None)), "time_limit": _NUMBER, "data_id": _TEXT, "problem_id": _TEXT,
    "embedding": (dict, type(None)), "settings": (dict,), "estimated_charge": (int, float), "charge": _NUMBER,
    "submitted": _TEXT, "answer": (dict,), "error": (str,),
}  # fmt: skip


def _copy(ticket: Ticket | None) -> Ticket | None:
    return None if ticket is None else cast(Ticket, dict(ticket))


def _write_all(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
