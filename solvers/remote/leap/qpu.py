"""Block problems as Ising problems on a QPU's qubits, and its raw answers as states.

The cardinality becomes a penalty, each variable a chain of qubits, and all biases are scaled together to the ranges of
the hardware. Whole chains are turned over at random (a spin-reversal transform), so that what the hardware prefers by
its imperfections is no state in particular.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dimod
import numpy as np
import numpy.typing as npt

from problems import BlockProblem
from problems.forms import StateArray
from solvers.errors import SolverError


@dataclass(frozen=True)
class Submission:
    """What a QPU is sent.

    Attributes:
        job: data, type and parameters, as the service takes them.
        settings: what reading the answer needs, and the record tells (JSON values).
    """

    job: dict[str, Any]
    settings: dict[str, Any]


def submission(
    solver: Any,
    problem: BlockProblem,
    embedding: Mapping[int, tuple[int, ...]],
    *,
    penalty: float,
    num_reads: int,
    annealing_time: float,
    chain_strength: float,
    flipped: npt.NDArray[np.bool_],
) -> Submission:
    """Embed and scale a problem.

    Args:
        solver: the client library's object of the QPU.
        problem: the block problem.
        embedding: qubits of each variable.
        penalty: strength in place of the cardinality.
        num_reads: anneals.
        annealing_time: microseconds of each.
        chain_strength: times the strength that compensates the torque on a chain; D-Wave's own default is 1.414.
        flipped: variables to turn over [n].
    """
    from dwave.cloud.coders import encode_problem_as_qp
    from dwave.embedding import embed_ising
    from dwave.embedding.chain_strength import uniform_torque_compensation

    model = ising(problem, penalty, flipped)
    strength = float(uniform_torque_compensation(model, prefactor=chain_strength))
    adjacency = _adjacency(solver, {q for chain in embedding.values() for q in chain})
    h, J = embed_ising(model.linear, model.quadratic, embedding, adjacency, chain_strength=strength)
    scale = largest_scale(solver.properties, h, J)
    wanted = {"num_reads": num_reads, "annealing_time": annealing_time, "answer_mode": "raw", "auto_scale": False}
    job = {
        "data": encode_problem_as_qp(
            solver, {q: b * scale for q, b in h.items()}, {c: b * scale for c, b in J.items()}, undirected_biases=True
        ),
        "type": "ising",
        "params": {key: value for key, value in wanted.items() if key in solver.parameters},
    }
    settings = {
        "penalty": penalty, "chain_strength": strength, "scale": scale, "num_reads": num_reads,
        "annealing_time": annealing_time, "flipped": np.flatnonzero(flipped).tolist(),
    }  # fmt: skip
    return Submission(job, settings)


def ising(problem: BlockProblem, penalty: float, flipped: npt.NDArray[np.bool_]) -> dimod.BinaryQuadraticModel:
    """The problem over spins, some of them turned over."""
    h, J, offset = problem.to_ising(penalty)
    sign = np.where(flipped, -1.0, 1.0)
    return dimod.BinaryQuadraticModel.from_ising(
        {v: b * sign[v] for v, b in h.items()}, {(u, v): b * sign[u] * sign[v] for (u, v), b in J.items()}, offset
    )


def largest_scale(properties: Mapping[str, Any], h: Mapping[Any, float], J: Mapping[Any, float]) -> float:
    """The factor with which all biases just fit the ranges of a QPU: the more of it, the less its noise."""
    h_range, j_range = properties["h_range"], properties.get("extended_j_range", properties["j_range"])
    # A coupling of -2 (a chain) is in the extended range; what lies above it must fit the ordinary one.
    lowest, highest = min(j_range[0], properties["j_range"][0]), properties["j_range"][1]
    rooms = [1.0 / max(b / h_range[1], b / h_range[0]) for b in h.values() if b]
    rooms += [1.0 / max(b / highest, b / lowest) for b in J.values() if b]
    return float(min(rooms, default=1.0))


def logical_states(
    problem: BlockProblem,
    spins: npt.NDArray[Any],
    qubits: npt.NDArray[Any],
    occurrences: npt.NDArray[np.int64],
    embedding: Mapping[int, tuple[int, ...]],
    settings: Mapping[str, Any],
    chain_break: str,
) -> tuple[StateArray, npt.NDArray[np.int64], float]:
    """States of the variables from those of the qubits.

    Args:
        problem: the block problem.
        spins: raw answers, zeros and ones [s, q].
        qubits: which qubit each column is [q].
        occurrences: how often each row was read [s].
        embedding: qubits of each variable.
        settings: of the submission.
        chain_break: "majority_vote", or "discard" to leave reads with broken chains out.

    Returns:
        States [t, n], how often each was read [t], and the mean share of broken chains over all reads.

    Raises:
        SolverError: every read has a broken chain, and such are to be discarded.
    """
    from dwave.embedding import chain_breaks, unembed_sampleset

    flipped = np.zeros(problem.n, bool)
    flipped[settings["flipped"]] = True
    raw = dimod.SampleSet.from_samples(
        (2 * spins.astype(np.int8) - 1, qubits.tolist()), "SPIN", energy=np.zeros(len(spins)),
        num_occurrences=occurrences, sort_labels=False,
    )  # fmt: skip
    model = ising(problem, float(settings["penalty"]), flipped)
    chains = [embedding[v] for v in range(problem.n)]
    labels = {q: i for i, q in enumerate(qubits.tolist())}
    broken = chain_breaks.broken_chains(raw.record.sample, [[labels[q] for q in chain] for chain in chains])
    fraction = float(np.average(broken.mean(axis=1), weights=occurrences))
    answer = unembed_sampleset(raw, dict(embedding), model, chain_break_method=getattr(chain_breaks, chain_break))
    if not len(answer):
        raise SolverError(
            f"all {len(spins)} reads have broken chains ({fraction:.0%} of all chains); use a larger chain_strength, a "
            "longer annealing_time or chain_break=majority_vote. The answer is on record: nothing is billed again"
        )
    order = [answer.variables.index(v) for v in range(problem.n)]
    states = (answer.record.sample[:, order] > 0) ^ flipped
    return states.astype(np.int8), np.asarray(answer.record.num_occurrences, np.int64), fraction


def _adjacency(solver: Any, qubits: set[int]) -> dict[int, set[int]]:
    """Couplers that work between some qubits."""
    adjacency: dict[int, set[int]] = {q: set() for q in qubits}
    for u, v in solver.undirected_edges:
        if u in qubits and v in qubits:
            adjacency[u].add(v)
            adjacency[v].add(u)
    return adjacency
