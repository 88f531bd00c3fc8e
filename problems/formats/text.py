"""Rows of numbers in text files, one row a line; errors name the file and the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from problems.errors import FileFormatError
from problems.storage import opened


def read_rows(path: Path) -> list[list[bytes]]:
    """The fields of each line of a file, without the empty lines at its end.

    Raises:
        FileFormatError: it is not a regular file.
        OSError: it cannot be read.
    """
    with opened(path) as (file, size):
        lines = file.read(size).split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.split() for line in lines]


def column(rows: list[list[bytes]], path: Path, index: int, kind: type[int | float], what: str) -> npt.NDArray[Any]:
    """One column of all rows but the first, int64 or float64.

    Args:
        rows: the rows, each with more than `index` fields.
        path: the file they are from, for messages.
        index: the column.
        kind: int or float.
        what: what a field must be, for messages.

    Raises:
        FileFormatError: a field is not such a number.
    """
    dtype = np.int64 if kind is int else np.float64
    try:
        return np.array([kind(row[index]) for row in rows[1:]], dtype)
    except (ValueError, OverflowError):
        for at, row in enumerate(rows[1:], 1):
            try:
                np.array(kind(row[index]), dtype)
            except (ValueError, OverflowError):
                refuse(path, rows, at, f"field {index + 1} must be {what}")
        raise


def refuse(path: Path, rows: list[list[bytes]], at: int, what: str) -> NoReturn:
    """Raise a FileFormatError about row `at`, counted from 0."""
    text = b" ".join(rows[at]).decode("ascii", "replace")[:80]
    raise FileFormatError(f"{path}: line {at + 1}: {text!r}: {what}")
