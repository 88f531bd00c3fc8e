"""One of the two processes of versions.py: solves problems with the code of one checkout."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import problems
import solvers


def main() -> None:
    root, backend = Path(sys.argv[1]), sys.argv[2]
    if not Path(solvers.__file__).is_relative_to(root):
        sys.exit(f"solvers came from {solvers.__file__}, not from {root}")
    solver, held, problem = solvers.get_solver(backend), "", None
    for line in sys.stdin:
        path, threshold, seed, limit = json.loads(line)
        if path != held:
            held, problem = path, problems.load(path)
        begun = time.perf_counter()
        solver.solve(problem, seed=seed, target=threshold, time_limit=limit)
        print(min(time.perf_counter() - begun, limit), flush=True)


if __name__ == "__main__":
    main()
