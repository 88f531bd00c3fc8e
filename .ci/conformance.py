"""Put the local solvers of an installed package to the checks of solvers.testing."""

from solvers import get_solver
from solvers.testing import conformance_checks

for backend in ("sa", "tabu", "exact", "ocean-sa?num_sweeps=100"):
    for check in conformance_checks():
        skipped = check(lambda backend=backend: get_solver(backend))
        print(f"{backend}: {check}{f' (skipped: {skipped})' if skipped else ''}")
