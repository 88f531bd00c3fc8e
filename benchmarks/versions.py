"""Compare two versions of a solver: milliseconds of a solve to a target, on real blocks and MDPLIB, in alternation.

    git worktree add ../before HEAD~1
    python benchmarks/versions.py ../before --blocks layer --seeds 40

Separate runs on a machine with varying speed do not show differences of 10 %. Here each version is a process on the
same core; they solve the same problem with the same seed in alternation, twice, and the faster counts. The other
version is any checkout of this repository. Targets: MDPLIB's best known values; for blocks, the third best of six short
solves by this version.
Data: HYBRID_ICBS_DATA, see models.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
LIMIT = 1.0  # seconds after which a solver has missed the target
SHORT = {1024: 0.012, 4096: 0.04}  # seconds of the solves that set a target, by the variables there may be


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="a checkout of the other version")
    parser.add_argument("--backend", default="tabu?threads=1")
    parser.add_argument("--blocks", default="", metavar="PATTERN", help="only problems whose name has it")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    if not (arguments.other / "solvers" / "__init__.py").is_file():
        parser.error(f"{arguments.other} is no checkout of this project: it has no solvers/__init__.py")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        versions = [Version(root.resolve(), arguments.backend) for root in (REPOSITORY, arguments.other)]
        ratios = []
        print(f"{'':44}  this: median  worst tenth   other: median  worst tenth   this / other")
        for name, path, threshold in _problems(Path(folder), arguments.blocks):
            seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
            for version in versions:
                version.seconds(path, threshold, arguments.first_seed + arguments.seeds)  # reads, compiles
            took = np.full((2, len(seeds)), np.inf)
            for s, seed in enumerate(seeds):
                for _ in range(2):
                    for v, version in enumerate(versions):
                        took[v, s] = min(took[v, s], version.seconds(path, threshold, seed))
            this, other = 1e3 * took
            ratios.append(float(np.exp(np.log(this / other).mean())))
            cells = [f"{np.median(ms):14.2f} {np.quantile(ms, 0.9):12.2f}" for ms in (this, other)]
            print(f"{name:44}{'  '.join(cells)}  {ratios[-1]:13.2f}", flush=True)
        if ratios:
            mean = np.exp(np.log(ratios).mean())
            print(f"geometric mean of {len(ratios)} ratios, each that of {arguments.seeds} seeds: {mean:.2f}")


def _problems(folder: Path, pattern: str) -> Iterator[tuple[str, Path, float]]:
    """Names of problems, files that hold them, and the energies to reach."""
    import block_solvers
    import real_blocks

    for block in real_blocks.real_blocks(pattern, real_blocks.RECIPES + real_blocks.OTHERS):
        yield block.name, block.problem.save(folder / f"{block.name}.bqm"), _target(block.problem)
    for file_name, problem, threshold in block_solvers.mdplib_problems():
        if pattern in file_name:
            yield file_name, problem.save(folder / f"{Path(file_name).stem}.bqm"), threshold


def _target(problem: Any) -> float:
    from block_solvers import NEAR

    import solvers

    solver = solvers.get_solver("tabu?threads=1")
    limit = next((seconds for n, seconds in SHORT.items() if problem.n <= n), 0.1)
    solver.solve(problem, seed=0, time_limit=limit)  # compiles
    found = sorted(solver.solve(problem, seed=1000 + s, time_limit=limit).first.energy for s in range(6))
    return float(found[2] + NEAR * abs(found[2]))


class Version:
    """A process that solves with the code of one checkout."""

    def __init__(self, root: Path, backend: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(root), "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("versions_child.py")), str(root), backend],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def seconds(self, path: Path, threshold: float, seed: int) -> float:
        """Seconds of a solve to the threshold, or `LIMIT` if it is missed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps([str(path), threshold, seed, LIMIT]), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        if not line:
            self._process.stdin = None  # nothing more is written there
            sys.exit("a version ended before it answered; what it said stands above")
        return float(line)


if __name__ == "__main__":
    main()
