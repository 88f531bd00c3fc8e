"""results.csv: one row per problem, backend, time limit and seed, each written before the next solve starts."""

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

_LARGEST = 1 << 32  # bytes of results.csv
_STATUS = ("ok", "infeasible", "failed")


@dataclass(frozen=True)
class Row:
    """The result of one solve. Seconds are wall-clock unless stated otherwise; None for figures that do not apply.

    Attributes:
        problem: name of the problem.
        backend: text of the backend.
        time_limit: seconds; None for the backend's own amount of work.
        seed: seed of the solve.
        status: "ok", "infeasible" (no feasible state: counted, never scored) or "failed".
        energy: energy of the best feasible state, recomputed from the problem.
        seconds: search time; for a service its run or access time, without queue.
        setup: imports, compilation and other work before the clock started.
        wall: wall-clock time of the search on the local machine, with queue and transfers.
        queue: seconds in the service's queue.
        upload: seconds of the upload.
        access: seconds on the QPU.
        charge: seconds that the service bills.
        ended_by: stopping reason.
        solver: the actual solver, if it differs from the backend (a decomposition).
        states: number of distinct returned states.
        infeasible: number of returned states that violate the cardinality.
        samples: number of raw samples.
        raw_feasible: share of feasible raw samples.
        raw: best feasible energy of the raw samples.
        repaired: best energy after repair.
        polished: best energy after repair and polish.
        control_raw: best energy of as many random feasible states.
        control_polished: the same after polishing them like the samples.
        lower_bound: the solver's proven lower bound.
        threads: processors of the worker process.
        machine: the machine of the solve.
        at: end of the solve, ISO 8601, UTC.
        error: error message of a failed solve.
        incumbents: (seconds, energy) of each improvement.
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
        """The unique key of the row."""
        return self.problem, self.backend, self.time_limit, self.seed

    @property
    def scored(self) -> bool:
        """Whether the row has an energy."""
        return self.status == "ok"


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


class Results:
    """The rows of a comparison in an append-only file, locked against concurrent writers.

    When the file is opened, an incomplete last line (after a kill) is removed, and its solve is repeated. A file with
    other columns is refused and not changed.

    Args:
        path: the file, created if missing; None keeps the rows in memory.

    Raises:
        FileFormatError: the file has other contents; the message names the line.
        SolverError: another process is writing to it.
        OSError: the file cannot be read or written.
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
            hold(self._file, "another comparison is writing to this folder; wait until it ends or use another folder")
            text = self._file.read()
            whole = _whole(text)
            self.rows = parsed(whole, path)
            if not text.startswith(whole):  # the last newline or the header is missing
                self._write(whole[len(text) :])
            self._file.truncate(len(whole))
        except BaseException:
            self._file.close()
            raise

    def append(self, row: Row) -> None:
        """Append a row and sync it to disk. Text from solvers is reduced to one line of UTF-8.

        A row that could not be read back, because a solver reported infinite or invalid numbers, is stored as failed.
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
                machine=row.machine, at=row.at, error=_plain(f"the solver reported invalid figures: {error}"),
            )  # fmt: skip
            line = _written(row)
        self._write(line)
        self.rows.append(row)

    def close(self) -> None:
        """Close the file."""
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
        except OSError:  # disk full: leave no partial line
            self._file.truncate(end)
            raise


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file without changing it; a comparison may be writing to it.

    Raises:
        FileFormatError: as :class:`Results`.
        OSError: the file cannot be read.
    """
    _refuse_large(path)
    with opened(path) as (file, _):
        return parsed(_whole(file.read()), path)


def can_be_named(name: str) -> bool:
    """Whether a name can be stored: no control characters, no invalid UTF-8."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def parsed(text: bytes, path: Path) -> list[Row]:
    """Parse the contents of a results.csv.

    Raises:
        FileFormatError: other columns, an invalid cell or a repeated solve; the message names the line.
    """
    try:
        lines = text.decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: is not UTF-8 text: {error}") from error
    if not text.startswith(_HEAD):
        raise FileFormatError(
            f"{path}: line 1: the columns are not those of this version's results.csv; the file was not changed. "
            "Move it or use another folder"
        )
    rows: dict[Key, Row] = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            row = _row(line)
        except (ValueError, TypeError, csv.Error) as error:
            raise FileFormatError(f"{path}: line {number}: is not a valid row: {str(error)[:200]}") from error
        if row.key in rows:
            raise FileFormatError(
                f"{path}: line {number}: {row.backend} on {row.problem}, seed {row.seed}, occurs twice"
            )
        rows[row.key] = row
    return list(rows.values())


def _row(line: str) -> Row:
    """Parse one line.

    Raises:
        ValueError, TypeError, csv.Error: the line is not a valid row.
    """
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 24))
    (cells,) = csv.reader([line], strict=True)
    row = Row(**{name: _value(name, cell) for name, cell in zip(COLUMNS, cells, strict=True)})
    if row.status not in _STATUS or (row.scored and (row.energy is None or not row.incumbents)):
        raise ValueError(f"status {row.status!r}, energy {row.energy}, {len(row.incumbents)} incumbents")
    return row


def _whole(text: bytes) -> bytes:
    """The contents without an incomplete last line, or with the newline that a complete last line lacks."""
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
            raise FileFormatError(f"{path}: size: {size} bytes; at most {_LARGEST} are allowed")


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
    """The text as one line of valid UTF-8."""
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
