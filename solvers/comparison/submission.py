"""Results in the columns of a submission to QOBLIB, the Quantum Optimization Benchmarking Library.

(Koch et al. 2025, arXiv 2504.03832; columns from its CONTRIBUTING.md.) Runtimes are means over runs, without queue and
warm-up, as QOBLIB requires. Submitter, affiliation and reference are N/A, for the user to fill in.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from solvers.comparison.comparison import Comparison
from solvers.comparison.measures import Figures, Standing
from solvers.comparison.results import Row

COLUMNS = (
    "Problem", "Submitter", "Affiliation", "Date", "Reference", "Best Objective Value", "Optimality Bound",
    "Modeling Approach", "# Decision Variables", "# Binary Variables", "# Integer Variables", "# Continuous Variables",
    "# Non-Zero Coefficients", "Coefficients Type", "Coefficients Range", "Workflow", "Algorithm Type", "Paradigm",
    "# Runs", "# Feasible Runs", "# Successful Runs", "Success Threshold", "Hardware Specifications", "Total Runtime",
    "Time to Solution", "CPU Runtime", "GPU Runtime", "QPU Runtime", "Other HW Runtime", "Remarks",
)  # fmt: skip

MISSING = "N/A"


def submission(comparison: Comparison) -> str:
    """The table as CSV: one line per problem, backend and time limit.

    As QOBLIB defines, a run is successful if it reached the best energy of its own backend's runs (threshold 0).
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, restval=MISSING, lineterminator="\n")
    writer.writeheader()
    for each in comparison.figures:
        own = comparison.groups[each.problem, each.backend, each.time_limit]
        backend = comparison.race.backends[each.backend]
        writer.writerow(_line(each, own, comparison.standings[each.problem], backend))
    return file.getvalue()


def _line(each: Figures, rows: Sequence[Row], standing: Standing, backend: Mapping[str, Any]) -> dict[str, Any]:
    facts, classical = standing.facts, backend["paradigm"] == "Classical"
    tolerance = facts.tolerance(standing.best.energy)
    own_best = math.inf if each.best is None else each.best + tolerance
    successes = [row for row in rows if row.energy is not None and row.energy <= own_best]
    bounds = [row.lower_bound for row in rows if row.lower_bound is not None]
    net = [_without_queue(row) for row in rows]
    total = _mean(net)
    limit = "own amount of work" if each.time_limit is None else f"time limit {each.time_limit:g} s"
    tuned = ", ".join(f"{key}={value}" for key, value in backend["tuned"].items()) or "defaults"
    polished = backend["settings"].get("polish")  # None: the solver does not repair
    repaired = "" if polished is None else f"; repair{' and polish to local optima' if polished else ''} where needed"
    gpu = backend["device"].startswith("cuda")
    known = f"{'proven optimum' if standing.best.proven else 'best known'} {standing.best.energy:.12g}"
    return {
        "Problem": each.problem,
        "Date": max(row.at for row in rows)[:10] or MISSING,
        "Best Objective Value": MISSING if each.best is None else repr(each.best),
        "Optimality Bound": repr(max(bounds)) if bounds else MISSING,
        "Modeling Approach": f"cardinality-constrained binary quadratic, {facts.form} ({facts.groups} cardinalities)",
        "# Decision Variables": facts.n,
        "# Binary Variables": facts.n,
        "# Integer Variables": 0,
        "# Continuous Variables": 0,
        "# Non-Zero Coefficients": facts.coefficients,
        "Coefficients Type": "integer" if facts.whole else "continuous",
        "Coefficients Range": f"[{facts.least:g}, {facts.most:g}]",
        "Workflow": f"{backend['name']} ({tuned}); {limit}{repaired}",
        "Algorithm Type": "Deterministic" if backend["name"] == "exact" else "Stochastic",
        "Paradigm": backend["paradigm"],
        "# Runs": each.runs,
        "# Feasible Runs": each.feasible,
        "# Successful Runs": len(successes),
        "Success Threshold": 0,
        "Hardware Specifications": "; ".join(dict.fromkeys(f"{row.machine}; {row.threads} used" for row in rows)),
        "Total Runtime": _seconds(total),
        "Time to Solution": _seconds(_mean([row.incumbents[-1][0] for row in successes])),
        "CPU Runtime": MISSING if gpu else _seconds(total if classical else _mean([_local(row) for row in rows])),
        "GPU Runtime": _seconds(total) if gpu else MISSING,
        "QPU Runtime": _seconds(_mean([row.access for row in rows])),
        "Other HW Runtime": MISSING,
        "Remarks": f"{each.successful} of {each.runs} runs reached the {known}",
    }


def _without_queue(row: Row) -> float | None:
    """Run time without queue; a recorded answer may have a queue longer than this wall time."""
    if row.queue is None or row.wall is None or row.seconds is None:
        return row.seconds
    return max(row.seconds, row.wall - row.queue)


def _local(row: Row) -> float | None:
    """Seconds on the local machine, without the service's run time and queue."""
    if row.wall is None or row.access is None or row.seconds is None:
        return row.seconds
    return max(0.0, row.wall - row.seconds - (row.queue or 0.0))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _seconds(value: float | None) -> str:
    return MISSING if value is None else f"{value:.6g}"
