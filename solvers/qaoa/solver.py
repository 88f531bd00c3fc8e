"""The `qaoa` backend: angles from an exact simulation, samples from the circuit run by Qiskit."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from problems import BlockProblem
from problems.forms import Float64Array, StateArray
from problems.penalty import KINDS
from problems.penalty import penalty as penalty_of
from solvers.base import Availability, Capabilities, Estimate, Outcome, Solver
from solvers.checks import at_least, one_of
from solvers.errors import OptionError, SolverError, UnavailableError
from solvers.local.repair import polish, repair, single_state
from solvers.ocean.penalised import most_promising, stop_after_grace
from solvers.qaoa import angles as search
from solvers.qaoa import sizes
from solvers.qaoa.ansatz import MIXERS, Ansatz
from solvers.qaoa.circuits import qaoa_circuit
from solvers.qaoa.samplers import Device, check_name, kind, opened, read_options, ready
from solvers.qaoa.subspace import Simulation
from solvers.run import Run

BEST_VARIABLES = 12
"""Variables of the sub-blocks of larger problems: a tenth of a second each."""


@dataclass(frozen=True)
class Qaoa(Solver):
    """Quantum approximate optimisation (Farhi et al. 2014, arXiv 1411.4028) with mixers that keep the cardinality.

    XY mixers on a Dicke state keep the number of ones of each group, so that every noiseless sample is feasible
    (Hadfield et al. 2019, arXiv 1709.03489; Wang et al. 2020, arXiv 1904.09314). Angles are optimised on an exact
    simulation in the feasible subspace and bound into the circuit, which any V2 sampler runs. Samples with a wrong
    cardinality, from noise or mixer x, are repaired; all are polished by swaps. A local run of a circuit is not
    interrupted.

    Angles are in units that transfer between blocks: gamma multiplies the cost divided by its standard deviation over
    all feasible states (for mixer x over all states, penalty included).

    `.info` holds `angles` (gammas, betas), `expected` (expected energy: exact from a simulation, otherwise a mean of
    samples; penalty included for mixer x), `circuit` (qubits, two-qubit gates, depth, for the device or otherwise in
    rz, sx, x, cx between all pairs), `mixer`, `sampler`, `shots`, `evaluations`, `penalty`, `warm_start` (energy of the
    classical solution) and `jobs` (ids of remote jobs). `raw` describes the samples as measured: `energy` (of the best
    feasible one), `feasible` (share of feasible ones), `mean` (energy of the feasible ones), `repaired` and `polished`
    (best energies after repair and after polish), and `lowered` (whether these two lowered the best energy).

    Args:
        reps: layers of cost and mixer, p.
        mixer: "xy-complete" (all pairs of a group), "xy-ring" (neighbours; fewer gates, needs more layers) or "x"
            (single qubits, with a penalty for the cardinality).
        sampler: "aer" (Qiskit Aer's statevector simulator), "statevector" (Qiskit's own), "aer-mps" (matrix product
            states), "noisy" or "noisy:SEED" (Aer with the noise of Qiskit's GenericBackendV2 of that seed), "fake:NAME"
            (a snapshot of an IBM device, simulated with its noise and coupling map), "ibm:NAME" (an IBM device;
            "ibm:least_busy" takes the one with the shortest queue), or a V2 sampler object. An object's circuits are
            transpiled for its `backend`, or for rz, sx, x, cx where it has none; its randomness is its own.
        shots: samples.
        angles: source of the angles: "subspace" (exact simulation with gradients), "sampler" (SPSA on what the
            sampler measures, starting from the linear ramp), or "transfer" (from small sub-blocks of the problem, or
            `transfer_from`).
        transfer_from: angles of an earlier block, gammas then betas as in `.info["angles"]` (in text with commas or
            semicolons); implies angles="transfer".
        starts: descents from different starts; the first is the linear ramp.
        iterations: most steps of each descent; for "sampler" the exact number, of two runs of the circuit each.
        cvar: share of the best outcomes whose mean is minimised (conditional value at risk); 1.0 for all.
        warm_start: start near a classical solution (the best of the initial states, or the result of a descent)
            instead of the uniform superposition; see :mod:`solvers.qaoa.circuits`.
        penalty: for mixer x, the strength of the penalty: a number, "sufficient" or "measured", see
            :mod:`problems.penalty`.
        polish: whether to improve the samples by a descent by swaps.
        mode: how jobs are sent to a runtime device: one by one, or in a batch or session opened by the solve.
        runtime_options: options of qiskit-ibm-runtime's Sampler for error suppression and the like, a mapping, or
            text such as "dynamical_decoupling.enable:true;twirling.enable_gates:true".

    Example:
        >>> problem = BlockProblem([[0, 2, 1], [0, 0, 1], [0, 0, 0]], cardinality=2)
        >>> Qaoa(reps=1).solve(problem, seed=0).first.energy
        1.0
    """

    name: ClassVar[str] = "qaoa"
    toolkits: ClassVar[tuple[str, ...]] = ("numpy", "numba", "scipy", "qiskit", "qiskit-aer", "qiskit-ibm-runtime")

    reps: int = 2
    mixer: Literal["xy-complete", "xy-ring", "x"] = "xy-complete"
    sampler: Any = "aer"
    shots: int = 1024
    angles: Literal["subspace", "sampler", "transfer"] = "subspace"
    transfer_from: tuple[float, ...] | str | None = None
    starts: int = 3
    iterations: int = 100
    cvar: float = 1.0
    warm_start: bool = False
    penalty: float | str = "measured"
    polish: bool = True
    mode: Literal["job", "batch", "session"] = "job"
    runtime_options: Mapping[str, Any] | str | None = None

    def __post_init__(self) -> None:
        at_least(1, reps=self.reps, shots=self.shots, starts=self.starts, iterations=self.iterations)
        one_of(MIXERS, mixer=self.mixer)
        one_of(("subspace", "sampler", "transfer"), angles=self.angles)
        one_of(("job", "batch", "session"), mode=self.mode)
        check_name(self.sampler)
        if isinstance(self.cvar, bool) or not isinstance(self.cvar, int | float) or not 0.0 < self.cvar <= 1.0:
            raise OptionError(f"cvar {self.cvar!r} must be a number above 0 and at most 1")
        for name in ("warm_start", "polish"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} {getattr(self, name)!r} must be true or false")
        if isinstance(self.penalty, str):
            if self.penalty not in KINDS:
                raise OptionError(f"penalty {self.penalty!r} must be a number, 'sufficient' or 'measured'")
        elif isinstance(self.penalty, bool) or not 0.0 <= self.penalty < math.inf:
            raise OptionError(f"penalty {self.penalty!r} must be a finite number of at least 0")
        read_options(self.runtime_options)
        self._take_angles()

    def _take_angles(self) -> None:
        if self.transfer_from is None:
            return
        try:
            given = search.parsed(self.transfer_from)
        except (TypeError, ValueError):
            given = ()
        if len(given) != 2 * self.reps:
            raise OptionError(
                f"transfer_from {self.transfer_from!r} must be {2 * self.reps} numbers for reps={self.reps}: gammas, "
                "then betas"
            )
        object.__setattr__(self, "transfer_from", given)
        object.__setattr__(self, "angles", "transfer")

    # Properties

    @property
    def capabilities(self) -> Capabilities:
        """As many variables as the sampler has qubits; larger problems need `solvers.Decompose`."""
        most = sizes.most_qubits(self.sampler, self.mixer, self.angles == "subspace")
        remote = kind(self.sampler) == "ibm"
        return Capabilities(
            max_variables=most,
            native_cardinality=self.mixer != "x",
            low_rank=False,
            deterministic=kind(self.sampler) not in ("ibm", "own"),
            remote=remote,
            device=self.sampler if remote else "cpu",
            best_variables=min(BEST_VARIABLES, most or BEST_VARIABLES),
        )

    @classmethod
    def available(cls) -> Availability:
        """Whether Qiskit and Qiskit Aer are installed; the account of a device is checked when it is used."""
        missing = [name for name in ("qiskit", "qiskit_aer") if importlib.util.find_spec(name) is None]
        if missing:
            names = " ".join(name.replace("_", "-") for name in missing)
            return Availability(False, f"{names} is not installed; pip install {names}")
        return Availability(True)

    def estimate(self, problem: BlockProblem) -> Estimate:
        """Seconds, and in the note qubits, gates and depth after transpiling and memory; nothing is sent or simulated.

        The coupling map of an IBM device is fetched if there is an account; billed seconds are assumptions.
        """
        reason = sizes.too_large(problem, self.sampler, self.mixer, self.angles == "subspace")
        if reason:
            return Estimate(math.inf, fits=False, note=f"qaoa {reason}")
        if single_state(problem) is not None:
            return Estimate(1e-3, note="only one state is feasible")
        ansatz = self._ansatz(problem, problem.random_states(1, 0)[0] if self.warm_start else None)
        target, backend = "all-to-all rz, sx, x, cx", None
        if kind(self.sampler) in ("fake", "ibm") and ready(self.sampler):
            with self._open(problem.n, 0) as device:
                backend, target = device.backend, device.name
                if problem.n > backend.num_qubits:
                    note = f"qaoa needs {problem.n} qubits, {device.name} has {backend.num_qubits}"
                    return Estimate(math.inf, fits=False, note=note)
        facts = sizes.circuit_facts(ansatz, backend)
        runs = 2 * self.iterations + 13 if self.angles == "sampler" else 1
        sampling = runs * sizes.sampling_seconds(problem.n, facts.two_qubit_gates, self.sampler, self.shots)
        searching = sizes.search_seconds(problem, ansatz, self.starts) if self.angles == "subspace" else 0.5
        bytes_needed = sizes.memory(problem, ansatz, self.sampler, self.shots, self.angles == "subspace")
        note = (
            f"{facts.qubits} qubits, {facts.two_qubit_gates} two-qubit gates, depth {facts.depth} ({target}); "
            f"{runs} run{'s' if runs > 1 else ''} of {self.shots} shots; simulation "
            f"{bytes_needed / 1e6:.3g} MB; angles {searching:.2g} s, sampling {sampling:.2g} s"
        )
        if kind(self.sampler) != "ibm":
            return Estimate(searching + sampling, note=note)
        shot = sizes.REMOTE_SHOT + facts.depth * sizes.REMOTE_LAYER
        charge = runs * (sizes.REMOTE_OVERHEAD + self.shots * shot)
        note += f"; billed about {charge:.2g} s, assumed, queue not counted"
        upload = sizes.UPLOAD_PER_GATE * facts.two_qubit_gates * runs
        return Estimate(searching + charge, charge, note=note, upload_bytes=upload, calls=runs)

    # The work

    def _refuse_what_does_not_fit(self, problem: BlockProblem) -> None:
        super()._refuse_what_does_not_fit(problem)
        reason = sizes.too_large(problem, self.sampler, self.mixer, self.angles == "subspace")
        if reason:
            raise SolverError(f"{self.backend} {reason}; wrap it as solvers.Decompose(solver) to solve by sub-blocks")

    def _refuse_what_is_missing(self) -> None:
        super()._refuse_what_is_missing()
        missing = ready(self.sampler)
        if not missing:
            raise UnavailableError(f"{self.backend} with sampler={self.sampler!r}: {missing.reason}")

    def _warm_up(self, problem: BlockProblem) -> None:
        import qiskit.transpiler  # noqa: F401
        import qiskit_aer  # noqa: F401
        import scipy.optimize  # noqa: F401

        tiny = BlockProblem(np.ones((3, 3)), np.arange(3.0), cardinality=1)
        polish(tiny, repair(tiny, np.zeros(3))[0])
        Simulation.of(tiny, Ansatz.of(tiny, 1, self.mixer)).value_and_gradient([0.1, 0.1])

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        only = single_state(problem)
        if only is not None:
            return Outcome(only, {"mixer": self.mixer, "sampler": self._sampler_name, "shots": 0, "evaluations": 0})
        found = [] if run.initial_states is None else [run.initial_states]
        for states in found:
            run.record(float(problem.energy(states).min()))
        if run.ended_by == "target":
            return Outcome(found[0], {"mixer": self.mixer, "sampler": self._sampler_name, "shots": 0, "evaluations": 0})
        warm = self._classical(problem, run) if self.warm_start else None
        if warm is not None:
            found.append(warm[None])
        ansatz = self._ansatz(problem, warm)
        with ExitStack() as stack:
            device = stack.enter_context(self._open(problem.n, _seed(run, 0)))
            circuit = device.prepared(qaoa_circuit(ansatz))
            angles, expected, evaluations = self._angles(problem, ansatz, device, circuit, run)
            if device.remote and run.should_end():
                raise SolverError(f"{self.backend} ended ({run.ended_by}) before its circuit was sent to {device.name}")
            samples = device.sample(circuit, angles, self.shots, _seed(run, 1), run.should_end)
            run.queue = device.queue
        raw, states, repaired = self._gathered(problem, samples, run)
        if expected is None:
            expected = float(np.mean(self._costs(problem, ansatz, samples)))
        facts = (
            sizes.CircuitFacts.of(circuit, ansatz.n)
            if kind(self.sampler) in ("fake", "ibm")
            else sizes.circuit_facts(ansatz)
        )
        info = {
            "angles": angles.tolist(),
            "expected": expected,
            "circuit": asdict(facts),
            "mixer": self.mixer,
            "sampler": device.name,
            "shots": len(samples),
            "evaluations": evaluations,
            "penalty": ansatz.penalty if self.mixer == "x" else None,
            "warm_start": None if warm is None else float(problem.energy(warm)),
            "jobs": device.jobs,
        }
        return Outcome(np.concatenate([*found, states]), info, repaired, raw)

    @property
    def _sampler_name(self) -> str:
        return self.sampler if isinstance(self.sampler, str) else type(self.sampler).__name__

    def _open(self, n: int, seed: int) -> Any:
        return opened(self.sampler, n, self.shots, self.mode, read_options(self.runtime_options), seed)

    def _ansatz(self, problem: BlockProblem, warm: StateArray | None) -> Ansatz:
        strength = 0.0
        if self.mixer == "x":
            strength = penalty_of(problem, self.penalty) if isinstance(self.penalty, str) else float(self.penalty)
        return Ansatz.of(problem, self.reps, self.mixer, strength, warm)

    def _classical(self, problem: BlockProblem, run: Run) -> StateArray:
        """The solution of a warm start [n]."""
        given = run.initial_states
        if given is None:
            given = polish(problem, repair(problem, np.zeros((1, problem.n), np.int8))[0])
        best: StateArray = given[int(np.argmin(problem.energy(given)))]
        return best

    def _angles(
        self, problem: BlockProblem, ansatz: Ansatz, device: Device, circuit: Any, run: Run
    ) -> tuple[Float64Array, float | None, int]:
        """Angles, their exact expected energy if it is known, and the number of evaluations of the objective."""
        rng = run.generator()
        if isinstance(self.transfer_from, tuple):
            run.should_end()
            return np.array(self.transfer_from), None, 0
        gates = int(circuit.num_nonlocal_gates())
        once = sizes.sampling_seconds(problem.n, gates, self.sampler, self.shots)

        def enough() -> bool:  # leaves time for the samples
            if run.remaining() < once:
                run.end("time_limit")
            return run.should_end()

        if self.angles == "transfer":
            found = search.transferred(
                problem, self.reps, self.mixer, ansatz.penalty, ansatz.warm, self.cvar, self.starts, self.iterations,
                rng, enough,
            )  # fmt: skip
            return found.angles, None, found.evaluations
        if self.angles == "subspace":
            simulation = Simulation.of(problem, ansatz)

            def objective_at(reps: int) -> search.Objective:
                return lambda x: simulation.value_and_gradient(x, self.cvar)

            found = search.by_gradients(objective_at, self.reps, self.starts, self.iterations, rng, enough)
            return found.angles, simulation.mean_cost(found.angles), found.evaluations
        calls = iter(range(2, 1 << 30))

        def measured(x: Float64Array) -> float:
            samples = device.sample(circuit, x, self.shots, _seed(run, next(calls)), run.should_end)
            costs = np.sort(self._costs(problem, ansatz, samples))
            return float(costs[: max(1, math.ceil(self.cvar * len(costs)))].mean() - ansatz.offset) / ansatz.scale

        found = search.on_sampler(measured, search.ramp(self.reps), self.iterations, rng, enough)
        return found.angles, None, found.evaluations

    def _costs(self, problem: BlockProblem, ansatz: Ansatz, samples: StateArray) -> Float64Array:
        """Energies of samples, for mixer x with the penalty [s]."""
        energies = np.asarray(problem.energy(samples))
        if ansatz.mixer != "x":
            return energies
        missed = problem.constraint.counted(samples) - problem.constraint.counts
        return np.asarray(energies + ansatz.penalty * np.square(missed).sum(axis=1))

    def _gathered(self, problem: BlockProblem, samples: StateArray, run: Run) -> tuple[dict[str, Any], StateArray, int]:
        """The record of the measured samples, the samples repaired and polished, and how many were repaired."""
        kept = np.atleast_1d(problem.is_feasible(samples))
        energies = np.asarray(problem.energy(samples[kept]))
        best = float(energies.min()) if len(energies) else None
        if best is not None:
            run.record(best)
        states, repaired = repair(problem, most_promising(problem, samples))
        lowest = mended = float(problem.energy(states).min())
        if self.polish:
            states = polish(problem, states, stop_after_grace(run))
            lowest = float(problem.energy(states).min())
        run.record(lowest)
        raw = {
            "energy": best,
            "feasible": float(kept.mean()),
            "mean": float(energies.mean()) if len(energies) else None,
            "lowered": best is None or lowest < best,
            "repaired": mended,
            "polished": lowest if self.polish else None,
        }
        return raw, states, repaired


def _seed(run: Run, call: int) -> int:
    """A seed of 31 bits, which all samplers accept, from the run's seed."""
    return int(np.random.SeedSequence([run.seed, call]).generate_state(1)[0] >> 1)


__all__ = ["Qaoa"]
