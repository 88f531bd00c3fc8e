"""Samplers that run the circuits: local simulators, simulated devices, IBM devices, or the caller's V2 sampler."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from problems.forms import Float64Array, StateArray
from solvers.base import Availability
from solvers.errors import OptionError, RemoteError, ServiceError, SolverError, UnavailableError
from solvers.qaoa.circuits import parameter_values

if TYPE_CHECKING:
    from qiskit.circuit import QuantumCircuit

logger = logging.getLogger(__name__)

LOCAL = ("statevector", "aer", "aer-mps", "noisy")

LARGEST: dict[str, int | None] = {"statevector": 16, "aer": 24, "aer-mps": 16, "noisy": 12, "fake": 12}
"""Most qubits of each sampler, at which a run takes one or two minutes (noisy shots are simulated one by one)."""

BASIS = ["rz", "sx", "x", "cx"]
"""Gates to which circuits are transpiled where no device is given, with all pairs of qubits coupled."""

_POLL = 2.0  # seconds between checks of a remote job
_WAITING = ("INITIALIZING", "QUEUED")  # statuses of a job that has not started


def kind(sampler: object) -> str:
    """The family of a sampler: one of `LOCAL`, "fake", "ibm", or "own"."""
    return sampler.partition(":")[0] if isinstance(sampler, str) else "own"


def check_name(sampler: object) -> None:
    """Check that a value names a sampler or is one.

    Raises:
        OptionError: it does not; the message lists what is allowed.
    """
    allowed = f"one of {', '.join(LOCAL)}, noisy:SEED, fake:NAME, ibm:NAME, or a V2 sampler"
    if not isinstance(sampler, str):
        if not callable(getattr(sampler, "run", None)):
            raise OptionError(f"sampler {sampler!r} must be {allowed}")
        return
    family, colon, rest = sampler.partition(":")
    named = family in ("fake", "ibm") and bool(rest)
    seeded = family == "noisy" and (not colon or rest.isdecimal())
    if not (named or seeded or (family in LOCAL and not colon)):
        raise OptionError(f"sampler {sampler!r} must be {allowed}")


def read_options(options: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Options of the runtime's sampler, from a mapping or from text such as `twirling.enable_gates:true`.

    In text, pairs are separated by semicolons, and dots name groups of options.

    Raises:
        OptionError: a part of the text that is not KEY:VALUE.
    """
    if options is None or isinstance(options, Mapping):
        return dict(options or {})
    found: dict[str, Any] = {}
    for part in filter(None, options.split(";")):
        key, colon, text = part.partition(":")
        if not colon or not key.strip():
            raise OptionError(f"runtime_options {options!r}: {part!r} must be KEY:VALUE")
        *groups, last = key.strip().split(".")
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = _read(text.strip())
    return found


def ready(sampler: object) -> Availability:
    """Whether the toolkits of a sampler are installed and, for IBM, an account is saved; no network is used."""
    if kind(sampler) not in ("fake", "ibm"):
        return Availability(True)
    if importlib.util.find_spec("qiskit_ibm_runtime") is None:
        return Availability(False, "qiskit-ibm-runtime is not installed; pip install 'hybrid-icbs[ibm]'")
    if kind(sampler) == "ibm" and not os.environ.get("QISKIT_IBM_TOKEN"):
        from qiskit_ibm_runtime import QiskitRuntimeService

        if not QiskitRuntimeService.saved_accounts():
            return Availability(
                False,
                "no IBM Quantum account is known; set QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE, or call "
                "qiskit_ibm_runtime.QiskitRuntimeService.save_account(token=..., instance=...) once",
            )
    return Availability(True)


@dataclass
class Device:
    """An open sampler, and the target of its circuits.

    Attributes:
        name: name in the record.
        sampler: a V2 sampler.
        seeded: creates a sampler from a seed, for toolkits that set the seed at construction; None for the others.
        backend: target of transpiling, or None.
        transpiles: whether circuits are transpiled at all.
        remote: whether a run leaves this machine.
        jobs: ids of the remote jobs sent.
        queue: seconds that these waited before they started, as seen by the checks.
    """

    name: str
    sampler: Any
    seeded: Callable[[int], Any] | None = None
    backend: Any = None
    transpiles: bool = True
    remote: bool = False
    jobs: list[str] = field(default_factory=list)
    queue: float = 0.0

    def prepared(self, circuit: QuantumCircuit) -> QuantumCircuit:
        """Transpile a circuit for this device with Qiskit's preset pass manager.

        Raises:
            SolverError: the circuit has more qubits than the device.
        """
        from qiskit.transpiler import generate_preset_pass_manager

        if not self.transpiles:
            return circuit
        if self.backend is None:
            return generate_preset_pass_manager(1, basis_gates=BASIS, seed_transpiler=0).run(circuit)
        size = getattr(self.backend, "num_qubits", None)
        if size is not None and circuit.num_qubits > size:
            raise SolverError(
                f"qaoa: the problem needs {circuit.num_qubits} qubits, {self.name} has {size}; "
                f"solve by sub-blocks: solvers.Decompose(Qaoa(...), size={min(size, 16)})"
            )
        # Routing on a real coupling map is worth the highest level; all-to-all simulators need no routing.
        level = 3 if self.name.partition(":")[0] in ("fake", "ibm") else 1
        return generate_preset_pass_manager(level, backend=self.backend, seed_transpiler=0).run(circuit)

    def sample(
        self, circuit: QuantumCircuit, angles: Float64Array, shots: int, seed: int, should_end: Callable[[], bool]
    ) -> StateArray:
        """Run a prepared circuit with given angles; return the measured states [shots, n].

        Raises:
            RemoteError, ServiceError: a remote job failed for a temporary or a permanent reason.
            SolverError: a local run failed, or the run ended while a remote job waited (which is then cancelled).
        """
        sampler = self.seeded(seed) if self.seeded else self.sampler
        values = parameter_values(circuit, angles.tolist())
        with _explained(self.name, self.remote):
            job = sampler.run([(circuit, values)], shots=shots)
            if self.remote:
                self._wait(job, should_end)
            bits = job.result()[0].data.meas.to_bool_array(order="little")
        return np.ascontiguousarray(bits.reshape(-1, bits.shape[-1]), np.int8)

    def _wait(self, job: Any, should_end: Callable[[], bool]) -> None:
        self.jobs.append(str(job.job_id()))
        logger.info("%s: job %s was submitted; QiskitRuntimeService().job(id) finds it again", self.name, self.jobs[-1])
        begun = seen = time.perf_counter()
        while not job.in_final_state():
            if str(job.status()).rpartition(".")[2] in _WAITING:
                seen = time.perf_counter()
            if should_end():
                with contextlib.suppress(Exception):  # a job that has started cannot be cancelled
                    job.cancel()
                raise SolverError(f"{self.name}: the run ended while job {self.jobs[-1]} waited; it was cancelled")
            time.sleep(_POLL)
        self.queue += seen - begun


@contextlib.contextmanager
def opened(sampler: Any, n: int, shots: int, mode: str, options: Mapping[str, Any], seed: int) -> Iterator[Device]:
    """Open the device of a sampler; a session or batch is closed at the end.

    Args:
        sampler: a name, see :class:`solvers.qaoa.Qaoa`, or a V2 sampler.
        n: number of qubits.
        shots: samples per run.
        mode: "job", "batch" or "session", for devices of the runtime.
        options: options of the runtime's sampler.
        seed: seed of the runtime's local simulations of devices.

    Raises:
        OptionError: there is no device of that name.
        UnavailableError: a toolkit or an account is missing.
    """
    missing = ready(sampler)
    if not missing:
        raise UnavailableError(f"qaoa with sampler={sampler!r}: {missing.reason}")
    family = kind(sampler)
    if family in ("fake", "ibm"):
        with _explained(sampler, family == "ibm"):
            backend = _fake(sampler) if family == "fake" else _ibm(sampler, n)
        name = f"{family}:{backend.name}"
        with contextlib.ExitStack() as stack:
            with _explained(name, family == "ibm"):
                held = stack.enter_context(_held(backend, mode))
                made = _runtime_sampler(held, options, seed if family == "fake" else None)
            yield Device(name, made, backend=backend, remote=family == "ibm")
        return
    yield _own(sampler) if family == "own" else _local(sampler, n, shots)


def _local(name: str, n: int, shots: int) -> Device:
    if name == "statevector":
        from qiskit.primitives import StatevectorSampler

        return Device(name, None, seeded=lambda seed: StatevectorSampler(seed=seed), transpiles=False)
    from qiskit_aer import AerSimulator
    from qiskit_aer.primitives import SamplerV2

    # One thread: in several, sums are taken in another order and the same seed may give another answer.
    if name.startswith("noisy"):
        from qiskit.providers.fake_provider import GenericBackendV2

        device = GenericBackendV2(n, seed=int(name.partition(":")[2] or 0))
        # A density matrix costs as much as 2^n states, trajectories one state per shot.
        method = "density_matrix" if 2**n <= shots else "statevector"
        simulator = AerSimulator.from_backend(device, method=method, max_parallel_threads=1)
        return Device(name, None, seeded=lambda seed: SamplerV2.from_backend(simulator, seed=seed), backend=device)
    method = "matrix_product_state" if name == "aer-mps" else "statevector"
    simulator = AerSimulator(method=method, max_parallel_threads=1)
    return Device(name, None, seeded=lambda seed: SamplerV2.from_backend(simulator, seed=seed), backend=simulator)


def _own(sampler: Any) -> Device:
    from qiskit.primitives import StatevectorSampler

    backend = getattr(sampler, "backend", None)
    backend = backend() if callable(backend) and not hasattr(backend, "target") else backend
    return Device(
        type(sampler).__name__, sampler, backend=backend, transpiles=not isinstance(sampler, StatevectorSampler)
    )


def _fake(sampler: str) -> Any:
    from qiskit_ibm_runtime.fake_provider import FakeProviderForBackendV2

    wanted = sampler.partition(":")[2].lower().removeprefix("fake_")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # listing all snapshots warns of some of them
        backends = {backend.name.removeprefix("fake_"): backend for backend in FakeProviderForBackendV2().backends()}
    if wanted not in backends:
        raise OptionError(f"sampler {sampler!r}: there is no such fake device; there are {', '.join(sorted(backends))}")
    return backends[wanted]


def _ibm(sampler: str, n: int) -> Any:
    from qiskit_ibm_runtime import QiskitRuntimeService

    name = sampler.partition(":")[2]
    service = QiskitRuntimeService()
    if name == "least_busy":
        return service.least_busy(operational=True, simulator=False, min_num_qubits=n)
    return service.backend(name)


def _held(backend: Any, mode: str) -> contextlib.AbstractContextManager[Any]:
    from qiskit_ibm_runtime import Batch, Session

    if mode == "job":
        return contextlib.nullcontext(backend)
    held: contextlib.AbstractContextManager[Any] = (Batch if mode == "batch" else Session)(backend=backend)
    return held


def _runtime_sampler(held: Any, options: Mapping[str, Any], seed: int | None) -> Any:
    from qiskit_ibm_runtime.executor_sampler import Sampler

    given = dict(options)
    if seed is not None:
        given["simulator"] = {"seed_simulator": seed, **dict(given.get("simulator", {}))}
    try:
        return Sampler(mode=held, options=given)
    except ValueError as error:
        raise OptionError(f"runtime_options {dict(options)!r}: {error}") from error


@contextlib.contextmanager
def _explained(name: object, remote: bool) -> Iterator[None]:
    """Convert errors of a toolkit to those of `solvers`."""
    try:
        yield
    except (SolverError, OptionError):
        raise
    except Exception as error:  # toolkits and services raise any type
        text = f"{name} failed: {type(error).__name__}: {error}"
        if not remote:
            raise SolverError(text) from error
        status = getattr(error, "status_code", None)
        passing = isinstance(error, OSError) or (isinstance(status, int) and (status == 429 or status >= 500))
        raise (RemoteError if passing else ServiceError)(text) from error


def _read(text: str) -> Any:
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text
