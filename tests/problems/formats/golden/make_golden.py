"""Make the golden files of the format: `python tests/problems/formats/golden/make_golden.py`, once for each version.

The coefficients are dyadic fractions, so that every machine writes the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from problems import BestKnown, BlockProblem, Labels, save


def dense() -> BlockProblem:
    n = 5
    Q = np.array(
        [[0.25 * (i + 1) * (j + 1) * (-1) ** (i + j) if abs(i - j) != 3 else 0 for j in range(n)] for i in range(n)]
    )
    return BlockProblem(
        Q, [1.5, -2.0, 0.0, 0.125, 7.0], 2, offset=-3.75, provenance={"layer": "fc1", "step": 7, "seed": 1},
        best_known=BestKnown(-8.5, True, "enumeration"),
    )  # fmt: skip


def low_rank() -> BlockProblem:
    n, rank = 6, 3
    A = np.array([[0.5 * ((3 * i + 5 * r) % 7 - 3) for r in range(rank)] for i in range(n)], np.float32)
    labels = Labels(np.array([0, 0, 1, 1, 2, 2], np.int32), np.array([3, 10, 0, 2**33, 5, 6], np.int64))
    return BlockProblem.low_rank(
        A, [0.5, -1.0, 2.0, -0.25, 0.0, 1.0], [1, 2], offset=0.5, groups=[0, 1, 0, 1, 1, 0], labels=labels,
        provenance={"method": "icbs", "layers": ["fc1", "fc2", "fc3"]},
    )  # fmt: skip


PROBLEMS = {"v1_dense": dense, "v1_low_rank": low_rank}

if __name__ == "__main__":
    for name, make in PROBLEMS.items():
        save(make(), Path(__file__).parent / name)
