"""QAOA on Qiskit: `solvers.solve(problem, backend="qaoa")`.

- `solver`: the backend; its settings, estimate and record.
- `ansatz`: cost, mixer and first state of a circuit, read by both the circuit and the simulation.
- `circuits`: the ansatz as a Qiskit circuit; `samplers`: simulators and devices that run it.
- `subspace`: exact simulation with gradients; `kernels`: its compiled loops.
- `angles`: search for the circuit's angles; `sizes`: gates, memory and seconds before anything is run.
"""

from solvers.qaoa.solver import Qaoa

__all__ = ["Qaoa"]
