"""D-Wave's Leap as a solver of block problems: hybrid solvers, and the QPU itself."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt

from problems import BlockProblem
from problems.forms import StateArray
from problems.penalty import KINDS, penalty
from solvers.base import Availability, Capabilities, Estimate, Outcome
from solvers.checks import at_least, one_of
from solvers.errors import OptionError, ServiceError, UnavailableError
from solvers.local.repair import polish, repair
from solvers.ocean.penalised import LARGEST, most_promising
from solvers.remote.leap import models, qpu
from solvers.remote.leap.embeddings import clique_embedding, largest_clique
from solvers.remote.leap.estimates import DOCUMENTED, Plan, planned
from solvers.remote.leap.job import LeapJob
from solvers.remote.leap.service import Kind, Service, connected, connection, credentials
from solvers.remote.ledger import Ticket, fingerprint
from solvers.remote.solver import OnStage, RemoteSolver, Stopped
from solvers.run import Run

_SHORT_CHAINS = 64  # variables of a clique whose chains stay at six qubits in Pegasus P16


@dataclass(frozen=True)
class Leap(RemoteSolver):
    """Solve at D-Wave's Leap service. Credentials are those that dwave-cloud-client finds.

    The ledger of the account (:func:`solvers.remote.accounting`) records a call's label before the upload, its data id
    before the submission, and its problem id before the wait: a killed run finds its jobs again and pays none twice.
    A time limit is the number of seconds that the service is asked to search, at least its minimum for the problem's
    size (also the default). For the QPU it bounds the number of reads.

    Args:
        solver: "nl" (nonlinear, with the cardinality native and low-rank blocks sent as their factors), "cqm"
            (cardinality as a constraint), "bqm" (a penalty) or "qpu" (a penalty, and a clique embedding).
        solver_name: a named solver at the service; None for the newest of its kind, or the configured one.
        profile: profile in D-Wave's configuration file; None for the one it chooses.
        config_file: path of that file; None for the usual places.
        polish: whether to descend by swaps from every answer.
        penalty: for "bqm" and "qpu", as in :class:`solvers.ocean.penalised.Penalised`.
        num_reads: anneals of a call to the QPU.
        annealing_time: microseconds of each.
        chain_strength: times the strength that compensates the torque on a chain (uniform torque compensation).
        spin_reversal: whether to turn random variables over, by the seed, before they are sent to the QPU.
        chain_break: what becomes of reads with broken chains: "majority_vote" or "discard".
    """

    name: ClassVar[str] = "leap"
    toolkits: ClassVar[tuple[str, ...]] = ("dwave-cloud-client", "dwave-optimization", "dwave-system", "dimod", "numpy")

    kinds: ClassVar[tuple[str, ...]] = ("nl", "cqm", "bqm", "qpu")

    solver: Literal["nl", "cqm", "bqm", "qpu"] = "nl"
    solver_name: str | None = None
    profile: str | None = None
    config_file: str | None = None
    polish: bool = True
    penalty: float | str = "measured"
    num_reads: int = 1000
    annealing_time: float = 20.0
    chain_strength: float = 1.414
    spin_reversal: bool = True
    chain_break: Literal["majority_vote", "discard"] = "majority_vote"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.kinds, solver=self.solver)
        one_of(("majority_vote", "discard"), chain_break=self.chain_break)
        at_least(1, num_reads=self.num_reads)
        if isinstance(self.penalty, str):
            if self.penalty not in KINDS:
                raise OptionError(f"penalty {self.penalty!r} must be a number, 'sufficient' or 'measured'")
        elif isinstance(self.penalty, bool) or not 0.0 <= self.penalty < math.inf:
            raise OptionError(f"penalty {self.penalty!r} must be a finite number of at least 0")
        for key in ("annealing_time", "chain_strength"):
            given = getattr(self, key)
            if isinstance(given, bool) or not isinstance(given, int | float) or not 0.0 < given < math.inf:
                raise OptionError(f"{key} {given!r} must be a finite number above 0")
        for key in ("polish", "spin_reversal"):
            if not isinstance(getattr(self, key), bool):
                raise OptionError(f"{key} {getattr(self, key)!r} must be true or false")

    # What it says of itself

    @property
    def kind(self) -> Kind:
        """The kind of solver, part of labels and tickets."""
        return self.solver

    @property
    def backend(self) -> str:
        """The name with the kind of solver."""
        return f"{self.name}({self.solver})"

    @property
    def capabilities(self) -> Capabilities:
        """Of the kind of solver; the service's own limits are `plan`'s matter."""
        native = self.solver in ("nl", "cqm")
        largest = {"nl": None, "cqm": LARGEST, "bqm": LARGEST, "qpu": self._largest_clique()}[self.solver]
        return Capabilities(
            largest, native_cardinality=native, low_rank=self.solver == "nl", deterministic=False, remote=True,
            device="leap", best_variables=min(_SHORT_CHAINS, largest or 0) if self.solver == "qpu" else None,
        )  # fmt: skip

    @classmethod
    def available(cls) -> Availability:
        """Whether there are credentials; the network is not touched."""
        return credentials()

    def plan(self, problem: BlockProblem, time_limit: float | None = None, *, live: bool = False) -> Plan:
        """What a call for a problem takes.

        Args:
            problem: the block problem.
            time_limit: seconds asked of the service.
            live: ask the service for the solver's properties, if no call has done so yet.

        Raises:
            UnavailableError, RemoteError, ServiceError: with `live`, credentials or the service are missing.
        """
        service = self._service() if live else self._connected()
        properties, at = (None, None) if service is None else (service.properties, service.name)
        return planned(
            self.solver, problem, time_limit, properties=properties, at=at, num_reads=self.num_reads,
            annealing_time=self.annealing_time, largest_clique=self._largest_clique() if self.solver == "qpu" else None,
        )  # fmt: skip

    def estimate(self, problem: BlockProblem) -> Estimate:
        """From the service's own properties where a call has fetched them, from documented ones otherwise."""
        return self.estimate_within(problem, None)

    def estimate_within(self, problem: BlockProblem, time_limit: float | None) -> Estimate:
        """The same where so many seconds are asked of the service."""
        plan = self.plan(problem, time_limit)
        return Estimate(plan.seconds, plan.charge_seconds, plan.fits, plan.note, plan.upload_bytes, calls=1)

    def _largest_clique(self) -> int:
        service = self._connected() if self.solver == "qpu" else None
        return largest_clique(service.solver) if service else int(DOCUMENTED["qpu"]["largest_clique"])

    # The way there

    def _refuse_what_is_missing(self) -> None:
        ready = credentials(self.profile, self.config_file)
        if not ready:
            raise UnavailableError(f"{self.backend}: {ready.reason}")

    def _service(self) -> Service:
        return connection(self.solver, self.solver_name, self.profile, self.config_file)

    def _connected(self) -> Service | None:
        return connected(self.solver, self.solver_name, self.profile, self.config_file)

    # A call

    def _charge(self, problem: BlockProblem, time_limit: float | None) -> float:
        plan = self.plan(problem, time_limit, live=True)
        if not plan.fits:
            raise ServiceError(f"{self.backend}: {plan.note}; choose smaller blocks")
        return plan.charge_seconds

    def _ticket(self, problem: BlockProblem, label: str, seed: int, time_limit: float | None) -> Ticket:
        plan = self.plan(problem, time_limit, live=True)
        ticket: Ticket = {
            "label": label, "stage": "labelled", "service": self._service().endpoint, "kind": self.solver,
            "solver": plan.at, "problem": fingerprint(problem), "seed": seed, "time_limit": plan.time_limit,
            "data_id": None, "problem_id": None, "embedding": None,
            "settings": {"minimum_time_limit": plan.minimum_time_limit}, "estimated_charge": plan.charge_seconds,
            "charge": None, "submitted": None,
        }  # fmt: skip
        if self.solver in ("bqm", "qpu"):
            kind = self.penalty
            ticket["settings"]["penalty"] = penalty(problem, kind) if isinstance(kind, str) else float(kind)
        if self.solver == "qpu":
            ticket["settings"]["num_reads"] = plan.num_reads
            embedding = clique_embedding(self._service().solver, problem.n)
            ticket["embedding"] = {str(v): list(chain) for v, chain in embedding.items()}
            ticket["settings"] |= self._submission(problem, ticket).settings
        return ticket

    def _submission(self, problem: BlockProblem, ticket: Ticket) -> qpu.Submission:
        flipped = np.zeros(problem.n, bool)
        if self.spin_reversal:
            flipped = np.random.default_rng(ticket["seed"]).random(problem.n) < 0.5
        settings = ticket["settings"]
        return qpu.submission(
            self._service().solver, problem, _embedding(ticket), penalty=float(settings["penalty"]),
            num_reads=int(settings["num_reads"]), annealing_time=self.annealing_time,
            chain_strength=self.chain_strength, flipped=flipped,
        )  # fmt: skip

    def _open(
        self,
        problem: BlockProblem,
        ticket: Ticket,
        on_stage: OnStage | None,
        run: Run | None,
        known: bool,
        send: bool = True,
    ) -> LeapJob:
        service = self._service()
        if ticket.get("service", service.endpoint) != service.endpoint:
            raise ServiceError(
                f"{self.backend}: {ticket['label']!r} went to {ticket['service']}, and D-Wave's configuration now "
                f"names {service.endpoint}; set DWAVE_API_ENDPOINT or the region back, so that it is not paid twice"
            )
        job = LeapJob(self, problem, ticket, on_stage, run, service)
        if ticket["stage"] == "accepted":
            return job
        should_stop = None if run is None else lambda: run.told_to_end() is not None
        if known:
            found = service.find(ticket["label"], should_stop)
            if found is not None:
                job.accepted(found)
                return job
            if not send:
                raise ServiceError(
                    f"{self.backend}: {ticket['label']!r} is unknown to the service: it was never submitted"
                )
        self._send(problem, job, run)
        return job

    def _send(self, problem: BlockProblem, job: LeapJob, run: Run | None) -> None:
        """Upload, unless that was done, and submit."""
        service = job.service
        old = job.ticket["data_id"] if job.ticket["stage"] == "uploaded" else None

        def stopped() -> bool:
            return run is not None and run.told_to_end() is not None

        def upload() -> None:
            begun = time.perf_counter()
            with self._file(problem, job.ticket) as file:
                data_id = service.upload(file, stopped)
            job.uploaded(data_id, time.perf_counter() - begun)

        def submit() -> str:
            if stopped():
                raise Stopped
            ticket = job.ticket
            if self.solver == "qpu":
                posted = self._submission(problem, ticket).job
            else:
                reference = {"format": "ref", "data": ticket["data_id"]}
                posted = {"data": reference, "type": self.solver, "params": {"time_limit": ticket["time_limit"]}}
            return service.submit(posted, ticket["label"], stopped)

        try:
            if self.solver != "qpu" and old is None:
                upload()
            try:
                problem_id = submit()
            except ServiceError:
                if old is None:
                    raise
                upload()  # the service keeps data for a while only
                problem_id = submit()
        except (ServiceError, UnavailableError) as error:
            job.refused(str(error))
            raise
        job.accepted(problem_id, submitted=datetime.now(UTC).isoformat(timespec="seconds"))

    def _file(self, problem: BlockProblem, ticket: Ticket) -> BinaryIO:
        if self.solver == "nl":
            return models.nl_file(problem)
        if self.solver == "cqm":
            return models.cqm_file(problem)
        return models.bqm_file(problem, float(ticket["settings"]["penalty"]))

    # Its answer

    def _read(self, problem: BlockProblem, run: Run, ticket: Ticket) -> Outcome:
        answer, settings = ticket["answer"], ticket.get("settings", {})
        states, occurrences = models.unpacked(answer)
        info: dict[str, Any] = {
            "solver": ticket.get("solver"), "label": ticket["label"], "problem_id": ticket.get("problem_id"),
            "service_timing": answer.get("timing", {}), "sent": True, "charge": ticket.get("charge"),
            "time_limit": {"asked": ticket.get("time_limit"), "minimum": settings.get("minimum_time_limit")},
        }  # fmt: skip
        if ticket["kind"] == "qpu":
            embedding = _embedding(ticket)
            qubits = np.asarray(answer["qubits"], np.int64)
            states, occurrences, broken = qpu.logical_states(
                problem, states, qubits, occurrences, embedding, settings, self.chain_break
            )
            chains = [len(chain) for chain in embedding.values()]
            told = ("chain_strength", "scale", "num_reads", "annealing_time")
            info["qpu"] = {key: settings[key] for key in told} | {
                "chain_break_fraction": broken, "qubits": sum(chains), "longest_chain": max(chains),
                "graph_id": (ticket.get("solver") or "").partition("/")[2], "reads_kept": int(occurrences.sum()),
            }  # fmt: skip
        if "penalty" in settings:
            info["penalty"] = settings["penalty"]
        return self._repaired(problem, run, states, occurrences, info)

    def _repaired(
        self,
        problem: BlockProblem,
        run: Run,
        states: StateArray,
        occurrences: npt.NDArray[np.int64],
        info: dict[str, Any],
    ) -> Outcome:
        """Feasible states of an answer, and the energies that each step of the way had."""
        if not len(states) or states.shape[1] != problem.n:
            raise ServiceError(
                f"{self.backend}: the answer to {info['label']!r} holds no state of {problem.n} variables"
            )
        kept = np.atleast_1d(problem.is_feasible(states))
        raw = float(problem.energy(states[kept]).min()) if kept.any() else None
        if raw is not None:
            run.record(raw)
        feasible = float(np.average(kept, weights=occurrences))
        found, repaired = repair(problem, most_promising(problem, states))
        energies = {"raw": raw, "repaired": float(problem.energy(found).min())}
        run.record(energies["repaired"] or 0.0)
        if self.polish:
            found = polish(problem, found, lambda: run.told_to_end() is not None)
            energies["polished"] = float(problem.energy(found).min())
            run.record(energies["polished"] or 0.0)
        info |= {"energies": energies, "rows": int(occurrences.sum())}
        return Outcome(found, info, repaired, {"energy": raw, "feasible": feasible})


def _embedding(ticket: Ticket) -> dict[int, tuple[int, ...]]:
    embedding = cast("dict[str, list[int]]", ticket["embedding"])
    return {int(v): tuple(chain) for v, chain in embedding.items()}
