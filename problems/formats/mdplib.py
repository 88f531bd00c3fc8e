"""Instances of the maximum-diversity library (MDPLIB): the same class of problems, with best known values."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from problems.block import BlockProblem
from problems.errors import FileFormatError
from problems.storage import opened


def read_mdplib(path: str | os.PathLike[str]) -> BlockProblem:
    """Read a maximum-diversity instance of MDPLIB (Marti, Duarte et al.): `n m`, then `i j distance` for every pair.

    The m of n elements with the largest sum of distances are sought, so Q_ij = -distance / 2. A file best.csv beside it
    (columns file, n, m, best_known) gives the best known energy, the negative of the best known sum.

    Raises:
        FileFormatError: the file is not of that format; the message names the line.
        OSError: it cannot be read.
    """
    path = Path(path)
    with opened(path) as (file, size):
        lines = file.read(size).split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    rows = [line.split() for line in lines]
    n, m = _mdplib_sizes(rows, path)
    i, j = (_mdplib_column(rows, path, column, int, f"an element 0..{n - 1}") for column in (0, 1))
    distance = _mdplib_column(rows, path, 2, float, "a finite distance")
    for bad, what in (
        ((i < 0) | (i >= n) | (j < 0) | (j >= n), f"elements are 0..{n - 1}"),
        (i == j, "an element has no distance to itself"),
        (~np.isfinite(distance), "a distance must be finite"),
    ):
        if bad.any():
            _mdplib_fail(path, rows, int(bad.argmax()) + 1, what)
    first = np.unique(np.minimum(i, j) * n + np.maximum(i, j), return_index=True)[1]
    if len(first) < len(i):
        again = int(np.setdiff1d(np.arange(len(i)), first)[0])
        _mdplib_fail(path, rows, again + 1, "this pair has a distance already")
    Q = np.zeros((n, n))
    Q[i, j] = Q[j, i] = -distance / 2
    problem = BlockProblem(Q, None, m, provenance={"method": "MDPLIB", "file": path.name})
    best = _mdplib_best(path, n, m)
    return problem if best is None else problem.with_best_known(-best, proven=False, found_by="MDPLIB's best known")


def _mdplib_sizes(rows: list[list[bytes]], path: Path) -> tuple[int, int]:
    """The sizes n and m, once the number of lines and the fields of each are known to fit them."""
    try:
        n, m = (int(field) for field in rows[0])
    except (ValueError, IndexError):
        raise FileFormatError(f"{path}: line 1: must be `n m`, two whole numbers") from None
    if not 0 <= m <= n:
        raise FileFormatError(f"{path}: line 1: {m} of {n} elements cannot be chosen")
    for at, row in enumerate(rows[1:], 1):
        if len(row) != 3:
            _mdplib_fail(path, rows, at, "must be `i j distance`")
    if len(rows) - 1 != n * (n - 1) // 2:
        raise FileFormatError(
            f"{path}: {n} elements have {n * (n - 1) // 2} pairs, but {len(rows) - 1} distances follow line 1"
        )
    return n, m


def _mdplib_column(rows: list[list[bytes]], path: Path, column: int, kind: Any, what: str) -> npt.NDArray[Any]:
    try:
        return np.array([kind(row[column]) for row in rows[1:]], np.int64 if kind is int else np.float64)
    except (ValueError, OverflowError):
        for at, row in enumerate(rows[1:], 1):
            try:
                np.array(kind(row[column]), np.int64 if kind is int else np.float64)
            except (ValueError, OverflowError):
                _mdplib_fail(path, rows, at, f"field {column + 1} must be {what}")
        raise


def _mdplib_fail(path: Path, rows: list[list[bytes]], at: int, what: str) -> None:
    text = b" ".join(rows[at]).decode("ascii", "replace")[:80]
    raise FileFormatError(f"{path}: line {at + 1}: {text!r}: {what}")


def _mdplib_best(path: Path, n: int, m: int) -> float | None:
    """The best known sum of distances, where a best.csv beside the instance has one."""
    table = path.parent / "best.csv"
    if not table.exists():
        return None
    with opened(table) as (file, size):
        text = file.read(min(size, 1 << 20)).decode("utf-8", "replace")
    for at, row in enumerate(csv.DictReader(text.splitlines()), 2):
        if row.get("file") != path.name:
            continue
        try:
            sizes, best = (int(row["n"]), int(row["m"])), float(row["best_known"])
        except (KeyError, ValueError, TypeError) as error:
            raise FileFormatError(f"{table}: line {at}: file, n, m and best_known are needed") from error
        if sizes != (n, m) or not np.isfinite(best):
            raise FileFormatError(f"{table}: line {at}: says {row}, but {path.name} has n = {n}, m = {m}")
        return best
    return None
