"""Speed and quality of `qaoa`, compared with qiskit-optimization's QAOA and random states, on one core.

    python benchmarks/qaoa.py [--quick] [--only race,large,real]

Three parts, each with its bar:

- race: n = 10, k = 5, two layers of the complete XY mixer, against the same circuit optimised by qiskit-optimization's
  QAOA with COBYLA on Qiskit's statevector sampler, 1,024 shots an evaluation, both from the linear ramp. The final
  angles of both sides are evaluated exactly, on Qiskit's state vector. Ours must be at least as low, 100 times faster.
- large: three layers, angles optimised and 1,024 samples drawn: n = 16, k = 8 in less than 5 s, n = 20, k = 10 in less
  than 90 s.
- real: 20 blocks of n = 16 out of a pruning run on the digits that ship with the package. Raw samples (no repair,
  polish or warm start), at most three layers, 1,024 shots: the proven optimum among the samples of at least 14 blocks,
  and the median over blocks of the samples' mean energy within the best 10 % of feasible states. For comparison:
  random feasible states, raw and with the same polish; all mixers and depths (mixer x is penalty QAOA); and 20 random
  blocks with stronger couplings.

Compilation is not timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from problems import BlockProblem

SHOTS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the qaoa backend; see the top of this file.")
    parser.add_argument("--quick", action="store_true", help="fewer problems")
    parser.add_argument("--only", default="race,large,real", help="parts to run, with commas")
    arguments = parser.parse_args()
    _one_core()
    for part in arguments.only.split(","):
        {"race": race, "large": large, "real": real}[part](arguments.quick)


def _one_core() -> None:
    """Keep this process to one processor; BLAS and numba read their variables when they are first imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["QISKIT_PARALLEL"] = "FALSE"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


# The same circuit, by qiskit-optimization and by ours


def race(quick: bool) -> None:
    """Seconds to angles, and the exact expected energy there."""
    from solvers.qaoa import Qaoa

    Qaoa(reps=2).solve(_random(10, 99), seed=0)  # compilation
    rows = []
    for seed in range(2 if quick else 5):
        problem = _random(10, seed)
        ours, theirs = _ours(problem), _peer(problem, seed)
        rows.append((*ours, *theirs, theirs[0] / ours[0]))
        print(
            f"race {seed}: ours {ours[0] * 1e3:7.2f} ms, energy {ours[1]:9.4f}, {ours[2]} evaluations; "
            f"qiskit-optimization {theirs[0]:6.2f} s, energy {theirs[1]:9.4f}, {theirs[2]} evaluations; "
            f"{theirs[0] / ours[0]:.0f} times, ours {'at least as low' if ours[1] <= theirs[1] else 'HIGHER'}"
        )
    held = all(row[1] <= row[4] and row[6] >= 100 for row in rows)
    print(f"race: median {statistics.median(row[6] for row in rows):.0f} times faster; bar 100: {_verdict(held)}\n")


def _ours(problem: BlockProblem) -> tuple[float, float, int]:
    import numpy as np

    from solvers.qaoa.angles import by_gradients
    from solvers.qaoa.ansatz import Ansatz
    from solvers.qaoa.circuits import parameter_values, qaoa_circuit
    from solvers.qaoa.subspace import Simulation

    begun = time.perf_counter()
    ansatz = Ansatz.of(problem, 2, "xy-complete")
    simulation = Simulation.of(problem, ansatz)
    found = by_gradients(lambda reps: simulation.value_and_gradient, 2, 1, 100, np.random.default_rng(0), lambda: False)
    seconds = time.perf_counter() - begun
    circuit = qaoa_circuit(ansatz, measure=False)
    bound = circuit.assign_parameters(parameter_values(circuit, found.angles.tolist()))
    return seconds, _exact_energy(problem, bound), found.evaluations


def _peer(problem: BlockProblem, seed: int) -> tuple[float, float, int]:
    from qiskit.circuit import Parameter, QuantumCircuit, library
    from qiskit.primitives import StatevectorSampler
    from qiskit.quantum_info import SparsePauliOp
    from qiskit.transpiler import generate_preset_pass_manager
    from qiskit_optimization.minimum_eigensolvers import QAOA
    from qiskit_optimization.optimizers import COBYLA

    from solvers.qaoa.angles import ramp
    from solvers.qaoa.ansatz import Ansatz
    from solvers.qaoa.circuits import dicke_circuit

    ansatz = Ansatz.of(problem, 2, "xy-complete")
    n = problem.n
    terms = [("Z", [i], -h) for i, h in enumerate(ansatz.fields)]  # s = -Z
    terms += [("ZZ", [i, j], ansatz.couplings[i, j]) for i in range(n) for j in range(i + 1, n)]
    beta, mixer = Parameter("beta"), QuantumCircuit(n)
    for (i, j), weight in zip(ansatz.pairs, ansatz.weights, strict=True):
        mixer.append(library.XXPlusYYGate(-2.0 * weight * beta), [i, j])
    gammas, betas = ramp(2)[:2], ramp(2)[2:]
    # Without it each evaluation exponentiates the cost as a sparse matrix, twenty times slower.
    gates = generate_preset_pass_manager(1, basis_gates=["rz", "ry", "x", "cx", "rzz", "xx_plus_yy"])
    qaoa = QAOA(
        StatevectorSampler(default_shots=SHOTS, seed=seed), COBYLA(), reps=2,
        initial_state=dicke_circuit(n, problem.constraint.total), mixer=mixer, initial_point=[*betas, *gammas],
        pass_manager=gates,
    )  # fmt: skip
    begun = time.perf_counter()
    result = qaoa.compute_minimum_eigenvalue(SparsePauliOp.from_sparse_list(terms, n))
    seconds = time.perf_counter() - begun
    bound = result.optimal_circuit.assign_parameters(result.optimal_point)
    bound.remove_final_measurements()
    return seconds, _exact_energy(problem, gates.run(bound)), int(result.cost_function_evals)


def _exact_energy(problem: BlockProblem, circuit: Any) -> float:
    """Expected energy of a circuit's state, on Qiskit's state vector."""
    import numpy as np
    from qiskit.quantum_info import Statevector

    probabilities = Statevector(circuit).probabilities()
    reached = np.flatnonzero(probabilities > 1e-14)
    states = ((reached[:, None] >> np.arange(problem.n)) & 1).astype(np.int8)
    return float(probabilities[reached] @ problem.energy(states))


# Larger blocks


def large(quick: bool) -> None:
    """Seconds of whole solves, three layers."""
    from solvers.qaoa import Qaoa

    Qaoa(reps=3).solve(_random(10, 99), seed=0)  # compilation
    for n, bar in ((16, 5.0),) if quick else ((16, 5.0), (20, 90.0)):
        for mixer in ("xy-complete", "xy-ring"):
            solver = Qaoa(reps=3, mixer=mixer)
            begun = time.perf_counter()
            answer = solver.solve(_random(n, 0), seed=0)
            seconds = time.perf_counter() - begun
            info = answer.info
            print(
                f"large: n = {n}, k = {n // 2}, {mixer}: {seconds:.2f} s, {info['evaluations']} evaluations, "
                f"{info['circuit']['two_qubit_gates']} two-qubit gates; bar {bar:.0f} s: {_verdict(seconds < bar)}"
            )
    print()


# Real blocks, raw samples


def real(quick: bool) -> None:
    """Quality of samples, compared with random feasible states."""
    blocks = _digits_blocks()
    best = _table("20 blocks of a pruning run on digits, n = 16, k = 8", blocks[: 5 if quick else 20], quick)
    if not quick:
        _table("20 random blocks, n = 16, k = 8", [_random(16, seed) for seed in range(20)], quick)
        found, rank = best["xy-complete", 3]
        print(f"real: optimum sampled in {found} of 20 (bar 14): {_verdict(found >= 14)}")
        print(f"real: median mean energy in the best {rank:.2%} (bar 10 %): {_verdict(rank <= 0.1)}")


def _table(title: str, blocks: list[BlockProblem], quick: bool) -> dict[tuple[str, int], tuple[int, float]]:
    import numpy as np

    import solvers
    from solvers.local.repair import polish
    from solvers.qaoa import Qaoa

    optima = [float(solvers.solve(block, "exact").first.energy) for block in blocks]
    ladders = [np.sort(block.energy(_all_states(block.n, block.constraint.total))) for block in blocks]
    near = [1e-9 * float(ladder[-1] - ladder[0]) for ladder in ladders]
    starts = [polish(block, block.random_states(200, 0)) for block in blocks]
    hits = [float(np.mean(b.energy(s) <= e + d)) for b, s, e, d in zip(blocks, starts, optima, near, strict=True)]
    print(
        f"{title}; descent from a random state ends in the optimum in {np.mean(hits):.0%} of trials "
        f"({min(hits):.0%} on the hardest block)"
    )
    print("| samples | layers | two-qubit gates | depth | feasible | found | mean in the best | found, polished | s |")
    print("|---|---|---|---|---|---|---|---|---|")

    def row(
        name: str, layers: object, facts: Any, share: float, energies: list[Any], polished: list[float], s: float
    ) -> Any:
        found = sum(e is not None and e[0] <= o + d for e, o, d in zip(energies, optima, near, strict=True))
        ranks = [float(np.mean(l <= e[1])) if e else 1.0 for e, l in zip(energies, ladders, strict=True)]
        after = sum(e <= o + d for e, o, d in zip(polished, optima, near, strict=True))
        gates = ("", "") if facts is None else (facts["two_qubit_gates"], facts["depth"])
        rank = float(np.median(ranks))
        print(
            f"| {name} | {layers} | {gates[0]} | {gates[1]} | {share:.0%} | {found}/{len(blocks)} | {rank:.2%} | "
            f"{after}/{len(blocks)} | {s:.2f} |",
            flush=True,
        )
        return found, rank

    drawn = [block.random_states(SHOTS, seed) for seed, block in enumerate(blocks)]
    energies = [np.asarray(block.energy(states)) for block, states in zip(blocks, drawn, strict=True)]
    polished = [
        float(b.energy(polish(b, s[np.argsort(b.energy(s))[:100]])).min()) for b, s in zip(blocks, drawn, strict=True)
    ]
    row("random feasible", "", None, 1.0, [(float(e.min()), float(e.mean())) for e in energies], polished, 0.0)
    results = {}
    for mixer in ("xy-complete", "xy-ring", "x"):
        for reps in (1, 3) if quick else (1, 2, 3):
            begun = time.perf_counter()
            raw = [Qaoa(reps=reps, mixer=mixer, polish=False).solve(block, seed=0) for block in blocks]
            seconds = (time.perf_counter() - begun) / len(blocks)
            told = [answer.info["raw"] for answer in raw]
            samples = [(r["energy"], r["mean"]) if r["energy"] is not None else None for r in told]
            after = [
                float(block.energy(polish(block, answer.record.sample)).min())
                for block, answer in zip(blocks, raw, strict=True)
            ]
            name = f"{mixer}{', penalty' if mixer == 'x' else ''}"
            share = float(np.mean([r["feasible"] for r in told]))
            results[mixer, reps] = row(name, reps, raw[0].info["circuit"], share, samples, after, seconds)
    print()
    return results


def _digits_blocks() -> list[BlockProblem]:
    from hybrid_icbs import Config, Pruner
    from hybrid_icbs.digits import digits_classifier, load_digits

    config = Config.of(density=0.1, seed=0, block_size=16, round_size=20)
    return Pruner(digits_classifier(40), load_digits("train"), config).ask(20)


def _all_states(n: int, k: int) -> np.ndarray[Any, Any]:
    import numpy as np

    masks = np.arange(1 << n)
    masks = masks[np.bitwise_count(masks) == k]
    return ((masks[:, None] >> np.arange(n)) & 1).astype(np.int8)


def _random(n: int, seed: int) -> BlockProblem:
    import numpy as np

    from problems import BlockProblem

    rng = np.random.default_rng(seed)
    return BlockProblem(rng.normal(size=(n, n)), rng.normal(size=n), n // 2)


def _verdict(held: bool) -> str:
    return "held" if held else "MISSED"


if __name__ == "__main__":
    main()
