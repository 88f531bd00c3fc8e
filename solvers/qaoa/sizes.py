"""Gates, memory and seconds of a QAOA run, and whether it fits, before anything is allocated."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from problems import BlockProblem
from solvers.exact.solver import feasible_states
from solvers.qaoa.ansatz import Ansatz
from solvers.qaoa.circuits import qaoa_circuit
from solvers.qaoa.samplers import BASIS, LARGEST, kind
from solvers.qaoa.subspace import MOST_AMPLITUDES, MOST_QUBITS

_AMPLITUDE_BYTES = 72  # per amplitude of a simulation: two states, their start, costs, masks
_GRADIENT = (9e-8, 7e-9)  # seconds per amplitude and layer, and per amplitude that an XY gate rotates
_EVALUATIONS = 30  # per start
_PER_GATE = {"statevector": 1.5e-8, "aer": 1.5e-9}  # seconds for each of 2^n amplitudes
_PER_BOND = 3.3e-9  # for each of 2^(1.5 n) products of matrices, whose bonds all-to-all gates fill
_TRAJECTORY = 1.2e-8  # for each of 2^n amplitudes in each shot of a noisy circuit
_DENSITY = 1.2e-8  # for each of 4^n entries of a density matrix

REMOTE_OVERHEAD = 2.0
REMOTE_SHOT = 250e-6
REMOTE_LAYER = 1e-7
"""Seconds that a device is assumed to charge: for a job, for a shot's reset (IBM's default repetition delay), and for a
layer of gates."""

UPLOAD_PER_GATE = 240.0
"""Bytes for each two-qubit gate of a transpiled circuit in Qiskit's QPY format, single-qubit gates included."""


@dataclass(frozen=True)
class CircuitFacts:
    """Size of a circuit in the gates of a target.

    Attributes:
        qubits: qubits of the problem.
        two_qubit_gates: gates on two qubits.
        depth: layers of gates, measurement included.
    """

    qubits: int
    two_qubit_gates: int
    depth: int

    @classmethod
    def of(cls, circuit: Any, qubits: int) -> CircuitFacts:
        """The size of a transpiled Qiskit circuit."""
        return cls(qubits, int(circuit.num_nonlocal_gates()), int(circuit.depth()))


def circuit_facts(ansatz: Ansatz, backend: Any = None) -> CircuitFacts:
    """Size of an ansatz's circuit, transpiled for a backend, or to `BASIS` with all pairs of qubits coupled."""
    from qiskit.transpiler import generate_preset_pass_manager

    if backend is None:
        return _generic_facts(_Shape(ansatz, ansatz.shape))
    transpiled = generate_preset_pass_manager(3, backend=backend, seed_transpiler=0).run(qaoa_circuit(ansatz))
    return CircuitFacts.of(transpiled, ansatz.n)


@dataclass(frozen=True, eq=False)
class _Shape:
    """An ansatz, equal to all others whose circuits have the same size."""

    ansatz: Ansatz
    key: tuple[object, ...]

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shape) and self.key == other.key


@functools.lru_cache(maxsize=32)
def _generic_facts(shape: _Shape) -> CircuitFacts:
    from qiskit.transpiler import generate_preset_pass_manager

    circuit = qaoa_circuit(shape.ansatz)
    return CircuitFacts.of(
        generate_preset_pass_manager(1, basis_gates=BASIS, seed_transpiler=0).run(circuit), circuit.num_qubits
    )


def amplitudes(problem: BlockProblem, mixer: str) -> int:
    """Amplitudes of an exact simulation: all states for mixer x, otherwise the feasible ones."""
    return 1 << problem.n if mixer == "x" else feasible_states(problem)


def too_large(problem: BlockProblem, sampler: object, mixer: str, simulated: bool) -> str:
    """Why a problem does not fit, with the sizes; empty if it fits.

    Args:
        problem: the block problem.
        sampler: the sampler.
        mixer: the mixer.
        simulated: whether angles are optimised on an exact simulation of the whole problem.
    """
    most = most_qubits(sampler, mixer, simulated)
    if most is not None and problem.n > most:
        return f"takes at most {most} variables with these settings, the problem has {problem.n}"
    if simulated and amplitudes(problem, mixer) > MOST_AMPLITUDES:
        return (
            f"would simulate {amplitudes(problem, mixer):.3g} amplitudes to find angles, at most {MOST_AMPLITUDES} are "
            "within reach (angles='transfer' needs none)"
        )
    return ""


def most_qubits(sampler: object, mixer: str, simulated: bool) -> int | None:
    """Most variables for a sampler and, if `simulated`, the exact simulation; None where only the device knows."""
    limits = [LARGEST.get(kind(sampler))]
    if simulated:
        limits.append(MOST_QUBITS if mixer != "x" else MOST_AMPLITUDES.bit_length() - 1)
    return min((limit for limit in limits if limit is not None), default=None)


def search_seconds(problem: BlockProblem, ansatz: Ansatz, starts: int) -> float:
    """Seconds of the search for angles on the exact simulation."""
    count = amplitudes(problem, ansatz.mixer)
    gates = len(ansatz.pairs) if ansatz.mixer != "x" else 2 * ansatz.n
    gradient = count * ansatz.reps * (_GRADIENT[0] + _GRADIENT[1] * gates / 2)
    return 2e-3 + starts * _EVALUATIONS * (1e-4 + gradient)


def sampling_seconds(n: int, gates: int, sampler: object, shots: int) -> float:
    """Seconds of one run of a circuit; for IBM devices an assumption, without the queue."""
    family = kind(sampler)
    if family in ("noisy", "fake"):
        per_gate = 4.0**n * _DENSITY if 2**n <= shots else shots * 2.0**n * _TRAJECTORY
        return 0.05 + 3 * gates * (2e-5 + per_gate)
    if family == "aer-mps":
        return 0.01 + 1.5 * gates * (2e-5 + math.pow(2.0, 1.5 * n) * _PER_BOND)
    if family in _PER_GATE:
        return 0.01 + 1.5 * gates * (1e-5 + 2.0**n * _PER_GATE[family])
    return REMOTE_OVERHEAD


def memory(problem: BlockProblem, ansatz: Ansatz, sampler: object, shots: int, simulated: bool) -> float:
    """Memory of the simulations in bytes."""
    family, n = kind(sampler), problem.n
    states = 4**n if family in ("noisy", "fake") and 2**n <= shots else 2**n
    sampled = 0 if family in ("ibm", "own") else 16 * states
    return max(sampled, _AMPLITUDE_BYTES * amplitudes(problem, ansatz.mixer) if simulated else 0)
