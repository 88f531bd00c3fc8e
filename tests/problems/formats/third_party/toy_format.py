"""A third-party problem file format: first line `TOY n`, then lines `i j coefficient` of x^T Q x; no cardinality."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from problems import BlockProblem, FileFormatError
from problems.formats import Format, required
from problems.storage import write_bytes


def read(path: Path, cardinality: object, groups: object) -> BlockProblem:
    head, *lines = path.read_text("ascii").splitlines()
    n = int(head.removeprefix("TOY "))
    Q = np.zeros((n, n))
    for number, line in enumerate(lines, 2):
        try:
            i, j, value = line.split()
            Q[int(i), int(j)] = float(value)
        except (ValueError, IndexError) as error:
            raise FileFormatError(f"{path}: line {number}: {line!r} must be `i j coefficient`") from error
    return BlockProblem(Q, cardinality=required(path, cardinality), groups=groups)


def write(problem: BlockProblem, path: Path) -> Path:
    Q = np.triu(2 * problem.form.dense()) + np.diag(problem.single_energies)
    lines = [f"TOY {problem.n}", *(f"{i} {j} {float(Q[i, j])!r}" for i, j in np.argwhere(Q).tolist())]
    write_bytes(path, "\n".join(lines).encode("ascii"))
    return path


def sniff(head: bytes) -> bool:
    return head.startswith(b"TOY ")


FORMAT = Format("toy", read, endings=(".toy",), sniff=sniff, write=write)
