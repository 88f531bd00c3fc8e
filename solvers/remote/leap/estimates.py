"""What a call to Leap takes, before anything is sent: least time limits, megabytes, billed seconds, limits of size.

Figures come from the solver's own properties where they are known. Where they are not (without credentials), from the
examples in D-Wave's documentation of solver properties, and the plan says that they are assumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from problems import BlockProblem, DenseForm, LowRankForm
from solvers.remote.leap.models import low_rank
from solvers.remote.leap.service import Kind

DOCUMENTED: dict[str, dict[str, Any]] = {
    "nl": {
        "min_time_limit": 5.0, "num_nodes_multiplier": 8.306792043756981e-05,
        "state_size_multiplier": 2.8379674360396316e-10, "num_nodes_state_size_multiplier": 2.1097317822863966e-12,
        "offset": 0.012671678446550175, "maximum_number_of_nodes": 2_000_000, "maximum_state_size": 786_432_000,
        "maximum_decision_state_size": 52_428_800, "maximum_time_limit_hrs": 24.0, "quota_conversion_rate": 20,
    },
    "cqm": {
        "minimum_time_limit_s": 5.0, "num_variables_multiplier": 1.57e-4, "num_biases_multiplier": 4.65e-6,
        "num_constraints_multiplier": 6.44e-9, "maximum_number_of_variables": 500_000,
        "maximum_number_of_biases": 750_000_000, "maximum_number_of_constraints": 100_000,
        "maximum_time_limit_hrs": 24.0, "quota_conversion_rate": 20,
    },
    "bqm": {
        "minimum_time_limit": [[1, 3.0], [1024, 3.0], [4096, 10.0], [10_000, 40.0], [30_000, 200.0], [100_000, 600.0]],
        "maximum_number_of_variables": 1_000_000, "maximum_number_of_biases": 200_000_000,
        "maximum_time_limit_hrs": 24.0, "quota_conversion_rate": 20,
    },
    "qpu": {"largest_clique": 160, "quota_conversion_rate": 1},
}  # fmt: skip
"""Properties assumed where the service has not been asked. Time rules: defaults in dwave-system 1.36; limits: examples
in D-Wave's documentation; the clique: Pegasus P16 with a few per cent of its qubits missing."""

_QPU_PROGRAMMING = 15_100.0  # microseconds of a call: programming and thermalization of an Advantage system
_QPU_READ = 256.0  # microseconds of a read beside its anneal: readout of hundreds of qubits, and the delay after it
_UPLOAD_RATE = 4e6  # bytes a second, of an ordinary office line
_ROUND_TRIPS = 2.0  # seconds of all requests of a call together


@dataclass(frozen=True)
class Plan:
    """What one call takes.

    Attributes:
        solver: kind of solver: "nl", "cqm", "bqm" or "qpu".
        at: name of the solver at the service, or None where it was not asked.
        n: variables of the problem.
        upload_bytes: size of what is uploaded.
        minimum_time_limit: least seconds that the service takes for such a problem; 0 for the QPU.
        time_limit: seconds that will be asked for; for the QPU, its access time.
        charge_seconds: seconds that will be billed: of hybrid time, or of QPU access for the QPU.
        quota_seconds: what that takes of a quota that is counted in seconds of QPU access.
        seconds: wall-clock seconds, without the queue, which is unknown.
        num_reads: reads of the QPU, as far as a time limit allows; None for hybrid solvers.
        fits: whether the service takes the problem.
        assumed: whether limits and times are documented ones, not the service's own.
        note: why it does not fit, with sizes; or what the figures rest on.
    """

    solver: str
    at: str | None
    n: int
    upload_bytes: float
    minimum_time_limit: float
    time_limit: float
    charge_seconds: float
    quota_seconds: float
    seconds: float
    num_reads: int | None = None
    fits: bool = True
    assumed: bool = True
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def planned(
    kind: Kind,
    problem: BlockProblem,
    time_limit: float | None,
    *,
    properties: Mapping[str, Any] | None = None,
    at: str | None = None,
    num_reads: int = 1000,
    annealing_time: float = 20.0,
    largest_clique: int | None = None,
) -> Plan:
    """Plan a call.

    Args:
        kind: kind of solver.
        problem: the block problem.
        time_limit: seconds wanted; None for the least that the service takes.
        properties: the solver's own, or None for documented ones.
        at: the solver's name at the service.
        num_reads: reads wanted of a QPU.
        annealing_time: microseconds of each anneal.
        largest_clique: variables that embed in the QPU, where that is known.
    """
    known = {**DOCUMENTED[kind], **(properties or {})}
    if largest_clique is not None:
        known["largest_clique"] = largest_clique
    reasons = _too_large(kind, problem, known)
    note = "; ".join(reasons) or (
        f"by the properties of {at}" if properties else "assumed: documented limits and times, not this account's own"
    )
    rate = float(known["quota_conversion_rate"])
    if kind == "qpu":
        reads = num_reads
        read = (annealing_time + _QPU_READ) * 1e-6
        if time_limit is not None:
            reads = max(1, min(reads, int((time_limit - _QPU_PROGRAMMING * 1e-6) / read)))
        access = _access_time(known, problem.n, reads, annealing_time)
        return Plan(
            kind, at, problem.n, 0.0, 0.0, access, access, access / rate, access + _ROUND_TRIPS, reads, not reasons,
            properties is None, note,
        )  # fmt: skip
    least = minimum_time(kind, problem, known)
    asked = max(least, time_limit or 0.0)
    longest = 3600.0 * float(known["maximum_time_limit_hrs"])
    if asked > longest:
        reasons.append(f"a time limit of {asked:.4g} s is more than the {longest:.4g} s that it takes")
        note = "; ".join(reasons)
    size = upload_size(kind, problem)
    seconds = size / _UPLOAD_RATE + asked + _ROUND_TRIPS
    return Plan(
        kind, at, problem.n, size, least, asked, asked, asked / rate, seconds, None, not reasons, properties is None,
        note,
    )  # fmt: skip


def minimum_time(kind: str, problem: BlockProblem, known: Mapping[str, Any]) -> float:
    """Least seconds that a hybrid solver takes for a problem, by the rules of dwave-system's samplers."""
    n, groups = problem.n, _groups(problem)
    if kind == "bqm":
        sizes, seconds = zip(*known["minimum_time_limit"], strict=True)
        return float(np.interp(n, sizes, seconds))
    if kind == "cqm":
        work = known["num_variables_multiplier"] * n + known["num_biases_multiplier"] * biases("cqm", problem)
        return float(max(work + known["num_constraints_multiplier"] * n * groups, known["minimum_time_limit_s"]))
    nodes, state = nl_nodes(problem), nl_state_size(problem)
    work = known["num_nodes_multiplier"] * nodes + known["state_size_multiplier"] * state
    work += known["num_nodes_state_size_multiplier"] * nodes * state + known["offset"]
    return float(max(work, known["min_time_limit"]))


def biases(kind: str, problem: BlockProblem) -> int:
    """Linear and quadratic biases of the model that is sent."""
    n = problem.n
    pairs = n * (n - 1) // 2
    if kind == "cqm":
        if isinstance(problem.form, DenseForm):
            pairs = int(np.count_nonzero(problem.form.matrix)) // 2
        return 2 * n + pairs  # each variable in the objective and in its constraint
    return n + pairs


def nl_nodes(problem: BlockProblem) -> int:
    """Nodes of the nonlinear model."""
    sets, shifted, _ = _sets(problem)
    return sets + 2 * shifted + (sets > 1) + 11


def nl_state_size(problem: BlockProblem) -> int:
    """Bytes that the nonlinear model's nodes hold, constants included."""
    n, k = problem.n, problem.constraint.total
    sets, shifted, moved = _sets(problem)
    extra = shifted + moved + (k if sets > 1 else 0)
    if low_rank(problem):
        assert isinstance(problem.form, LowRankForm)
        r = problem.form.rank
        return 8 * (n * r + n + k * r + 2 * r + 2 * k + 5 + extra)
    return 8 * (n * n + n + k * n + n + 3 * k + 5 + extra)


def upload_size(kind: str, problem: BlockProblem) -> float:
    """Bytes of the file that is uploaded, within a few kilobytes."""
    n, groups = problem.n, _groups(problem)
    if kind == "nl":
        columns = problem.form.rank if low_rank(problem) and isinstance(problem.form, LowRankForm) else n
        return 8.0 * n * (columns + 1) + 160.0 * nl_nodes(problem) + 1500.0
    if kind == "cqm":
        return 16.0 * biases("cqm", problem) + 850.0 * groups + 2000.0
    return 24.0 * (biases("bqm", problem) - n) + 12.0 * n


def _too_large(kind: str, problem: BlockProblem, known: Mapping[str, Any]) -> list[str]:
    """For each limit that the problem exceeds a sentence with both sizes."""
    sizes: dict[str, tuple[str, float]] = {}
    if kind == "nl":
        decisions = 8 * problem.constraint.total
        sizes = {
            "maximum_number_of_nodes": ("nodes", nl_nodes(problem)),
            "maximum_state_size": ("bytes of state", nl_state_size(problem)),
            "maximum_decision_state_size": ("bytes of decisions", decisions),
        }
    elif kind == "qpu":
        sizes = {"largest_clique": ("fully coupled variables", problem.n)}
    else:
        sizes = {
            "maximum_number_of_variables": ("variables", problem.n),
            "maximum_number_of_biases": ("biases", biases(kind, problem)),
        }
        if kind == "cqm":
            sizes["maximum_number_of_constraints"] = ("constraints", _groups(problem))
    return [
        f"the problem has {given:.0f} {what}, the {kind} solver takes {known[limit]:.0f}"
        for limit, (what, given) in sizes.items()
        if limit in known and given > known[limit]
    ]


def _access_time(known: Mapping[str, Any], n: int, reads: int, annealing_time: float) -> float:
    """Seconds of QPU access, by the solver's timing data where it has any."""
    timing = known.get("problem_timing_data")
    if not timing:
        return (_QPU_PROGRAMMING + reads * (annealing_time + _QPU_READ)) * 1e-6
    qubits = min(float(known.get("num_qubits", math.inf)), n * (n / 12.0 + 1.0))  # of a clique in Pegasus
    parameters = np.asarray(timing["readout_time_model_parameters"], float)
    sizes, times = np.split(parameters, 2)
    if timing["readout_time_model"] == "pwl_log_log":
        readout = 10.0 ** float(np.interp(np.log10(max(qubits, 1.0)), sizes, times))
    else:
        readout = float(np.interp(qubits, sizes, times))
    once = timing["typical_programming_time"] + timing["default_programming_thermalization"]
    each = annealing_time + readout + timing["qpu_delay_time_per_sample"] + timing["default_readout_thermalization"]
    return float(once + reads * each) * 1e-6


def _groups(problem: BlockProblem) -> int:
    return int(np.count_nonzero(problem.constraint.sizes))


def _sets(problem: BlockProblem) -> tuple[int, int, int]:
    """Set variables, those that do not begin at place 0, and their ones."""
    counts, sizes = problem.constraint.counts, problem.constraint.sizes
    later = (counts > 0) & (np.cumsum(sizes) - sizes > 0)
    return int(np.count_nonzero(counts)), int(later.sum()), int(counts[later].sum())
