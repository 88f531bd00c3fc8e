"""Instances of the maximum-diversity library, MDPLIB (Marti, Duarte et al.): same problem class, with best values."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from problems.data import BestKnown, ProblemData
from problems.errors import FileFormatError
from problems.formats.format import Format
from problems.formats.text import column, read_rows, refuse
from problems.storage import opened

_HEAD = re.compile(rb"\s*\d+[ \t]+\d+[ \t]*\r?\n")  # the two sizes alone on a line


def read(path: Path, cardinality: int | npt.ArrayLike | None, groups: npt.ArrayLike | None) -> ProblemData:
    """Read a maximum-diversity instance: `n m`, then `i j distance` for every pair of elements.

    The m of n elements with the largest sum of distances are sought, so Q_ij = -distance / 2. A file best.csv beside it
    (columns file, n, m, best_known) gives the best known energy, the negative of the best known sum.

    Args:
        path: the file.
        cardinality: not used; the file has its own, m.
        groups: not used.

    Raises:
        FileFormatError: the file is not of that format; the message names the line.
        OSError: it cannot be read.
    """
    rows = read_rows(path)
    n, m = _sizes(rows, path)
    i, j = (column(rows, path, index, int, f"an element 0..{n - 1}") for index in (0, 1))
    distance = column(rows, path, 2, float, "a finite distance")
    for bad, what in (
        ((i < 0) | (i >= n) | (j < 0) | (j >= n), f"elements are 0..{n - 1}"),
        (i == j, "an element has no distance to itself"),
        (~np.isfinite(distance), "a distance must be finite"),
    ):
        if bad.any():
            refuse(path, rows, int(bad.argmax()) + 1, what)
    first = np.unique(np.minimum(i, j) * n + np.maximum(i, j), return_index=True)[1]
    if len(first) < len(i):
        again = int(np.setdiff1d(np.arange(len(i)), first)[0])
        refuse(path, rows, again + 1, "this pair has a distance already")
    Q = np.zeros((n, n))
    Q[i, j] = Q[j, i] = -distance / 2
    best = _best_known(path, n, m)
    return ProblemData.dense(
        Q, None, m, provenance={"method": "MDPLIB", "file": path.name},
        best_known=None if best is None else BestKnown(-best, found_by="MDPLIB's best known"),
    )  # fmt: skip


def _sniff(head: bytes) -> bool:
    return _HEAD.match(head) is not None


FORMAT = Format("mdplib", read, sniff=_sniff)


def _sizes(rows: list[list[bytes]], path: Path) -> tuple[int, int]:
    """The sizes n and m, if the number of lines and of each line's fields fit them."""
    try:
        n, m = (int(field) for field in rows[0])
    except (ValueError, IndexError):
        raise FileFormatError(f"{path}: line 1: must be `n m`, two integers") from None
    if not 0 <= m <= n:
        raise FileFormatError(f"{path}: line 1: {m} of {n} elements cannot be chosen")
    for at, row in enumerate(rows[1:], 1):
        if len(row) != 3:
            refuse(path, rows, at, "must be `i j distance`")
    if len(rows) - 1 != n * (n - 1) // 2:
        raise FileFormatError(
            f"{path}: {n} elements have {n * (n - 1) // 2} pairs, but {len(rows) - 1} distances follow line 1"
        )
    return n, m


def _best_known(path: Path, n: int, m: int) -> float | None:
    """The best known sum of distances, if a best.csv beside the instance has it."""
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
            raise FileFormatError(f"{table}: line {at}: has {row}, but {path.name} has n = {n}, m = {m}")
        return best
    return None
