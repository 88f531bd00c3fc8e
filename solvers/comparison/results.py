"""results.csv: one row for each (problem, backend, time limit, seed), on disk before the next one begins."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import types
import typing
import unicodedata
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from problems import FileFormatError
from problems.storage import opened
from solvers.remote.ledger import hold

FILE = "results.csv"

Key = tuple[str, str, float | None, int]
"""Problem, backend, time limit and seed."""

_LARGEST = 1 << 32  # bytes of a results.csv
_STATUS = ("ok", "infeasible", "failed")


@dataclass(frozen=True)
class Row:
    """One solve. Seconds are wall-clock unless told otherwise; None where a figure does not exist.

    Attributes:
        problem: name of the problem.
        backend: text of the backend.
        time_limit: seconds; None for the backend's own amount of work.
        seed: of the solve.
        status: "ok", "infeasible" (an answer without a feasible state: counted, never scored) or "failed".
        energy: of the best feasible state, recomputed by the problem.
        seconds: of the search; of a service, its own run or access time, queue left out.
        setup: imports, compilation and whatever else came before the clock started.
        wall: of the search as this machine saw it, queue and transfers included.
        queue: seconds that a service let the call wait.
        upload: seconds of the upload.
        access: seconds on the QPU.
        charge: seconds that a service bills.
        ended_by: what ended the search.
        solver: what ran, where it is more than the backend's name says: a decomposition perhaps.
        states: distinct states of the answer.
        infeasible: how many of them broke the cardinality.
        samples: what the toolkit had sampled before repair and polish.
        raw_feasible: share of those that kept the cardinality.
        raw: best feasible energy among them.
        repaired: best energy after repair.
        polished: best energy after repair and polish.
        control_raw: best energy among as many random feasible states.
        control_polished: the same after the polish that the samples got.
        lower_bound: no feasible state is lower, by the solver's proof.
        threads: processors that the racing process had.
        machine: where it ran.
        at: when it was done, ISO 8601, UTC.
        error: why it failed.
        incumbents: [seconds, energy] at each improvement.
    """

    problem: str
    backend: str
    time_limit: float | None
    seed: int
    status: str
    energy: float | None = None
    seconds: float | None = None
    setup: float = 0.0
    wall: float | None = None
    queue: float | None = None
    upload: float | None = None
    access: float | None = None
    charge: float | None = None
    ended_by: str = ""
    solver: str = ""
    states: int = 0
    infeasible: int = 0
    samples: int | None = None
    raw_feasible: float | None = None
    raw: float | None = None
    repaired: float | None = None
    polished: float | None = None
    control_raw: float | None = None
    control_polished: float | None = None
    lower_bound: float | None = None
    threads: int = 1
    machine: str = ""
    at: str = ""
    error: str = ""
    incumbents: tuple[tuple[float, float], ...] = ()

    @property
    def key(self) -> Key:
        """What no other row has."""
        return self.problem, self.backend, self.time_limit, self.seed

    @property
    def scored(self) -> bool:
        """Whether there is an energy to score."""
        return self.status == "ok"


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


class Results:
    """The rows of a race, in a file that is only ever appended to; a lock keeps a second race out.

    A line that a kill cut short is dropped when the file is opened again, and its solve is done again. A file that
    does not begin with this version's columns is another's, and is left as it is.

    Args:
        path: the file, made where it does not exist; None to keep rows in memory.

    Raises:
        FileFormatError: the file holds something else; the message names the line.
        SolverError: another process races into it.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[Row] = []
        self._file: FileIO | None = None
        if path is None:
            return
        path.touch(exist_ok=True)
        _refuse_large(path)
        self._file = path.open("r+b", buffering=0)
        try:
            hold(self._file, "another race is writing into this folder; wait for it, or choose another")
            text = self._file.read()
            whole = _whole(text)
            self.rows = parsed(whole, path)
            if not text.startswith(whole):  # it lacks a newline, or its head
                self._write(whole[len(text) :])
            self._file.truncate(len(whole))
        except BaseException:
            self._file.close()
            raise

    def append(self, row: Row) -> None:
        """Add a row; when this returns it survives a kill. What others have worded is kept on one line of UTF-8.

        A row that could not be read again, since a solver's record of itself holds infinities or what is no number,
        becomes one that failed for that.
        """
        row = dataclasses.replace(
            row, ended_by=_plain(row.ended_by), solver=_plain(row.solver), machine=_plain(row.machine),
            error=_plain(row.error),
        )  # fmt: skip
        line = _written(row)
        try:
            _row(line.decode("utf-8").removesuffix("\n"))
        except (ValueError, TypeError, csv.Error) as error:
            row = Row(
                row.problem, row.backend, row.time_limit, row.seed, "failed", setup=row.setup, threads=row.threads,
                machine=row.machine, at=row.at, error=_plain(f"its record of itself cannot be kept: {error}"),
            )  # fmt: skip
            line = _written(row)
        self._write(line)
        self.rows.append(row)

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        if self._file is None:
            return
        self._file.seek(0, os.SEEK_END)
        end = self._file.tell()
        try:
            view = memoryview(line)
            while view:
                view = view[self._file.write(view) :]
            os.fsync(self._file.fileno())
        except OSError:  # a full disk: half a line must not stand before the next one
            self._file.truncate(end)
            raise


def read_rows(path: Path) -> list[Row]:
    """The rows of a file as far as it has come; it stays as it is, and a race may be writing into it.

    Raises:
        FileFormatError: as :class:`Results`.
        OSError: it cannot be read.
    """
    _refuse_large(path)
    with opened(path) as (file, _):
        return parsed(_whole(file.read()), path)


def can_be_named(name: str) -> bool:
    """Whether a name can stand in the file: no control characters, no bytes of a file's name that are not UTF-8."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def parsed(text: bytes, path: Path) -> list[Row]:
    """The rows of a results.csv.

    Raises:
        FileFormatError: another head, a cell of another kind, or a solve that is there twice; names the line.
    """
    try:
        lines = text.decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: is not UTF-8 text: {error}") from error
    if not text.startswith(_HEAD):
        raise FileFormatError(
            f"{path}: line 1: the columns are not those of this version's results.csv; the file was left as it is. "
            "Move it away, or choose another folder"
        )
    rows: dict[Key, Row] = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            row = _row(line)
        except (ValueError, TypeError, csv.Error) as error:
            raise FileFormatError(f"{path}: line {number}: is not a row of a race: {str(error)[:200]}") from error
        if row.key in rows:
            raise FileFormatError(
                f"{path}: line {number}: {row.backend} on {row.problem}, seed {row.seed}, is twice here"
            )
        rows[row.key] = row
    return list(rows.values())


def _row(line: str) -> Row:
    """The row of a line.

    Raises:
        ValueError, TypeError, csv.Error: it is none.
    """
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 24))
    (cells,) = csv.reader([line], strict=True)
    row = Row(**{name: _value(name, cell) for name, cell in zip(COLUMNS, cells, strict=True)})
    if row.status not in _STATUS or (row.scored and (row.energy is None or not row.incumbents)):
        raise ValueError(f"status {row.status!r}, energy {row.energy}, {len(row.incumbents)} incumbents")
    return row


def _whole(text: bytes) -> bytes:
    """What a file should hold: without a last line that a kill cut short, with the newline that an editor dropped."""
    if _HEAD.startswith(text):
        return _HEAD
    end = text.rfind(b"\n") + 1
    if not text.startswith(_HEAD) or end == len(text):
        return text
    try:
        _row(text[end:].decode("utf-8"))
    except (ValueError, TypeError, csv.Error):
        return text[:end]
    return text + b"\n"


def _refuse_large(path: Path) -> None:
    with opened(path) as (_, size):
        if size > _LARGEST:
            raise FileFormatError(f"{path}: size: {size} bytes are more than the {_LARGEST} that are taken")


def _written(row: Row) -> bytes:
    return _line([_text(getattr(row, name)) for name in COLUMNS])


def _line(cells: typing.Iterable[str]) -> bytes:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(cells)
    return file.getvalue().encode("utf-8")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return json.dumps(value, separators=(",", ":"))
    return value if isinstance(value, str) else repr(value)


def _plain(text: str) -> str:
    """One line of what can be written as UTF-8."""
    return " ".join(text.split()).encode("utf-8", "backslashreplace").decode("utf-8")


def _value(name: str, cell: str) -> Any:
    if name == "incumbents":
        pairs = tuple((float(seconds), float(energy)) for seconds, energy in json.loads(cell))
        if not all(math.isfinite(number) for pair in pairs for number in pair):
            raise ValueError("incumbents must be finite")
        return pairs
    kind = _KINDS[name]
    if isinstance(kind, types.UnionType):
        if not cell:
            return None
        kind = typing.get_args(kind)[0]
    value = kind(cell)
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} is {cell}")
    return value


_KINDS = typing.get_type_hints(Row)

_HEAD = _line(COLUMNS)
