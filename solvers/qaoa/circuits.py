"""QAOA as Qiskit circuits: first state, cost layers, mixers.

The first state of XY mixers is a Dicke state in each group, the uniform superposition of all states with the demanded
number of ones, by the construction of Baertschi and Eidenbenz 2019 (Deterministic Preparation of Dicke States, FCT
2019, arXiv 1904.07358): O(k m) gates in depth O(m), by splits and cyclic shifts, without loading amplitudes.

A warm start from a classical solution x* is the product state of Egger et al. 2021 (arXiv 2009.10095), in which each
qubit is found other than in x* with probability epsilon = 1/4, projected onto the feasible states: the amplitude of a
state d swaps away is proportional to (epsilon / (1 - epsilon))^d. By Aktar, Baertschi, Badawy and Eidenbenz
2022 (arXiv 2112.12435) it is prepared as two Dicke states, d ones among the zeros of x* and k - d among its ones,
under a superposition over d. A single basis state is no alternative: QAOA cannot leave it (Cain et al. 2022, arXiv
2207.05089). For mixer x the product state needs no projection, and each qubit's mixer is rotated like its first state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from solvers.qaoa.ansatz import EPSILON, Ansatz, Group, tournament

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qiskit.circuit import Parameter, QuantumCircuit


def qaoa_circuit(ansatz: Ansatz, *, measure: bool = True) -> QuantumCircuit:
    """Build the circuit of an ansatz, with the parameters gamma[0..p-1] and beta[0..p-1].

    Args:
        ansatz: the ansatz.
        measure: whether all qubits are measured at the end, into the register `meas`.

    Returns:
        A circuit on n qubits; :func:`parameter_values` puts angles into the order of its parameters.
    """
    from qiskit.circuit import ParameterVector, QuantumCircuit

    circuit = QuantumCircuit(ansatz.n, name="qaoa")
    _first_state(circuit, ansatz)
    gammas, betas = ParameterVector("gamma", ansatz.reps), ParameterVector("beta", ansatz.reps)
    couplings = [(int(i), int(j)) for i, j in _rounds(ansatz)]
    for gamma, beta in zip(gammas, betas, strict=True):
        for i, field in enumerate(ansatz.fields.tolist()):
            if field:
                circuit.rz(-2.0 * field * gamma, i)
        for i, j in couplings:
            circuit.rzz(2.0 * float(ansatz.couplings[i, j]) * gamma, i, j)
        _mixer(circuit, ansatz, beta)
    if measure:
        circuit.measure_all()
    return circuit


def parameter_values(circuit: QuantumCircuit, angles: Sequence[float]) -> list[float]:
    """Angles [gamma_1 .. gamma_p, beta_1 .. beta_p] in the order of a circuit's parameters.

    A parameter without gates, such as gamma where all states cost the same, gets no value.
    """
    p = len(angles) // 2
    start = {"gamma": 0, "beta": p}
    return [float(angles[start[v.vector.name] + v.index]) for v in circuit.parameters]


def dicke_circuit(m: int, k: int) -> QuantumCircuit:
    """Prepare the uniform superposition of all states of m qubits with k ones from |0 ... 0>."""
    from qiskit.circuit import QuantumCircuit

    circuit = QuantumCircuit(m, name=f"dicke({m},{k})")
    fewer = min(k, m - k)
    if fewer:
        circuit.x(range(m - fewer, m))
        _spread(circuit, list(range(m)), fewer)
    if k > fewer:
        circuit.x(range(m))
    return circuit


def warm_circuit(group: Group, solution: Sequence[int]) -> QuantumCircuit:
    """Prepare the warm start of a group's qubits from |0 ... 0>; see the top of this file.

    Args:
        group: the group.
        solution: its part of the classical solution [m].
    """
    from qiskit.circuit import QuantumCircuit

    circuit = QuantumCircuit(len(group.members), name="warm")
    ones = [t for t, one in enumerate(solution) if one]
    zeros = [t for t, one in enumerate(solution) if not one]
    most = min(len(ones), len(zeros))
    ratio = EPSILON / (1.0 - EPSILON)
    weights = np.array([math.comb(len(ones), d) * math.comb(len(zeros), d) * ratio ** (2 * d) for d in range(most + 1)])
    tails = np.cumsum(weights[::-1])[::-1]
    counter = zeros[::-1][:most]  # d ones among the zeros of the solution, from the last on
    for d, qubit in enumerate(counter):
        angle = 2.0 * math.asin(math.sqrt(tails[d + 1] / tails[d]))
        if d == 0:
            circuit.ry(angle, qubit)
        else:
            _controlled_ry(circuit, angle, counter[d - 1], qubit)
    for qubit, one in zip(counter, ones, strict=False):
        circuit.cx(qubit, one)
    _spread(circuit, zeros, most)
    _spread(circuit, ones[::-1], most)  # so far the ones that leave; X below gives those that stay
    circuit.x(ones)
    return circuit


def _first_state(circuit: QuantumCircuit, ansatz: Ansatz) -> None:
    if ansatz.mixer == "x":
        for i, theta in enumerate(ansatz.tilts.tolist()):
            circuit.ry(theta, i)
        return
    for group in ansatz.groups:
        if not group.members:
            continue
        if ansatz.warm is None or not group.free:
            prepared = dicke_circuit(len(group.members), group.ones)
        else:
            prepared = warm_circuit(group, [int(ansatz.warm[i]) for i in group.members])
        circuit.compose(prepared, qubits=group.members, inplace=True)


def _mixer(circuit: QuantumCircuit, ansatz: Ansatz, beta: Parameter) -> None:
    from qiskit.circuit import library

    if ansatz.mixer != "x":
        for (i, j), weight in zip(ansatz.pairs, ansatz.weights, strict=True):
            circuit.append(library.XXPlusYYGate(-2.0 * weight * beta), [i, j])
        return
    for i, theta in enumerate(ansatz.tilts.tolist()):
        if ansatz.warm is None:
            circuit.rx(-2.0 * beta, i)
        else:
            circuit.ry(-theta, i)
            circuit.rz(-2.0 * beta, i)
            circuit.ry(theta, i)


def _rounds(ansatz: Ansatz) -> list[tuple[int, int]]:
    """Pairs with a coupling, in the rounds of a tournament: n deep instead of 2n as in order of rows."""
    return [(i, j) for i, j in tournament(ansatz.n) if ansatz.couplings[i, j] != 0.0]


def _spread(circuit: QuantumCircuit, qubits: list[int], most: int) -> None:
    """Take |0 .. 0 1^j>, any j up to `most`, to the Dicke state of j ones (the paper's unitary U_{n,k})."""
    for m in range(len(qubits), 1, -1):
        _split_and_shift(circuit, qubits[:m], min(most, m - 1))


def _split_and_shift(circuit: QuantumCircuit, qubits: list[int], k: int) -> None:
    """SCS_{n,k}: |0^{n-l} 1^l> to sqrt(l/n) |0^{n-l} 1^l> + sqrt((n-l)/n) |0^{n-l-1} 1^l 0>, l = 1 .. k."""
    if k < 1:
        return
    n, last = len(qubits), qubits[-1]
    first = qubits[-2]
    circuit.cx(first, last)
    _controlled_ry(circuit, 2.0 * math.acos(math.sqrt(1.0 / n)), last, first)
    circuit.cx(first, last)
    for l in range(2, k + 1):
        target, neighbour = qubits[n - l - 1], qubits[n - l]
        circuit.cx(target, last)
        _doubly_controlled_ry(circuit, 2.0 * math.acos(math.sqrt(l / n)), last, neighbour, target)
        circuit.cx(target, last)


def _controlled_ry(circuit: QuantumCircuit, angle: float, control: int, target: int) -> None:
    """RY controlled by one qubit, of two CX: for a control of zero the two half angles cancel."""
    for half in (angle / 2, -angle / 2):
        circuit.ry(half, target)
        circuit.cx(control, target)


def _doubly_controlled_ry(circuit: QuantumCircuit, angle: float, one: int, other: int, target: int) -> None:
    """RY controlled by two qubits, of four CX: unless both are one the quarter angles cancel."""
    for control, quarter in ((one, angle / 4), (other, -angle / 4)) * 2:
        circuit.ry(quarter, target)
        circuit.cx(control, target)
