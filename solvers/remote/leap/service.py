"""The way to D-Wave's service: credentials, uploads, submissions that happen once, and waiting.

Everything goes through dwave-cloud-client. Problems are uploaded and answers awaited by its `Client`; a submission goes
by its `api.Problems`, where a refusal keeps its headers, so that a wait the service asks for is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from solvers.base import Availability
from solvers.errors import ServiceError, UnavailableError
from solvers.remote.leap import redact
from solvers.remote.leap.failures import ADVICE, classified, refusal

T = TypeVar("T")

WAITS: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds to wait before each further attempt at what failed for now; after the last one :class:`RemoteError`."""

LOOKUPS = 3
"""How often a label is looked for after a submission of unknown fate before the problem is sent again."""

OPTIONS: dict[str, Any] = {}
"""More options of `dwave.cloud.Client`, such as poll intervals, for all connections made from now on."""

Kind = Literal["nl", "cqm", "bqm", "qpu"]

_log = logging.getLogger(__name__)


# Credentials


def credentials(profile: str | None = None, config_file: str | None = None) -> Availability:
    """Whether there are credentials, by dwave-cloud-client's own rules and without a network."""
    try:
        config = _config(profile, config_file)
    except UnavailableError as error:
        return Availability(False, str(error))
    if not config.get("token"):
        return Availability(False, f"no D-Wave credentials were found; {ADVICE}")
    return Availability(True)


def _config(profile: str | None, config_file: str | None) -> dict[str, Any]:
    redact.install()
    try:
        from dwave.cloud.config import load_config
    except ImportError:
        raise UnavailableError("dwave-cloud-client is not installed; pip install dwave-ocean-sdk") from None
    redact.install()
    try:
        config: dict[str, Any] = load_config(config_file=config_file, profile=profile)
    except Exception as error:  # unreadable files, unknown profiles, hostile contents
        raise UnavailableError(
            f"D-Wave's configuration cannot be read: {redact.redact(str(error)).rstrip('.')}; `dwave config inspect` "
            "shows what there is"
        ) from None
    redact.keep_secret(config.get("token"), config.get("client_cert_key"))
    return config


# What passes


def persistent(attempt: Callable[[], T], doing: str, should_stop: Callable[[], bool] | None = None) -> T:
    """Do something that may be done twice, again and again while it fails for now.

    Raises:
        RemoteError: it failed for now to the last.
        ServiceError, UnavailableError: it failed for good.
    """
    for wait in (*WAITS, None):
        try:
            return attempt()
        except Exception as error:
            failure = classified(error, doing)
            if not failure.passing or wait is None:
                raise failure.error from error
            _log.warning("%s; another attempt follows", failure.error)
            pause(wait if failure.wait is None else failure.wait, should_stop)
    raise AssertionError("unreachable: the last attempt returns or raises")


def pause(seconds: float, should_stop: Callable[[], bool] | None = None) -> None:
    """Wait, a little longer than asked so that many do not retry at once; shorter if a stop is requested."""
    end = time.monotonic() + seconds * (1.0 + 0.1 * random.random())
    while (left := end - time.monotonic()) > 0.0 and not (should_stop and should_stop()):
        time.sleep(min(left, 0.1))


# The service


class Service:
    """One connection to the service, for one kind of solver.

    Attributes:
        solver: the client library's object of the solver chosen.
        endpoint: URL of the service.
    """

    def __init__(self, kind: Kind, name: str | None, profile: str | None, config_file: str | None) -> None:
        ready = credentials(profile, config_file)
        if not ready:
            raise UnavailableError(f"leap: {ready.reason}")
        from dwave.cloud import Client

        redact.install()
        self.kind = kind
        chosen = _DEFAULTS[kind]
        options = {"defaults": {"solver": chosen, "connection_close": True}, **OPTIONS}
        doing = "connecting to the service"
        client = "qpu" if kind == "qpu" else "hybrid"
        self._client: Any = persistent(
            lambda: Client.from_config(config_file=config_file, profile=profile, client=client, **options), doing
        )
        redact.keep_secret(self._client.config.token)
        redact.install()
        self.endpoint = str(self._client.config.endpoint).rstrip("/")
        self.solver: Any = persistent(lambda: self._chosen(name), doing)
        types = set(self.solver.supported_problem_types)
        if not types & _TYPES[kind]:
            raise ServiceError(
                f"solver {self.solver.name} takes problems of type {', '.join(sorted(types))}, not {kind}; name "
                "another with solver_name=, or leave the solver out of D-Wave's configuration"
            )

    def _chosen(self, name: str | None) -> Any:
        from dwave.cloud.exceptions import SolverNotFoundError, SolverOfflineError

        filters = {"name": name} if name else {}
        try:
            return self._client.get_solver(**filters)
        except SolverNotFoundError:
            wanted = filters or dict(self._client.config.solver or {})
            wanted.pop("order_by", None)
            with contextlib.suppress(SolverNotFoundError):
                offline = self._client.get_solvers(online=False, refresh=True, **wanted)
                if offline:
                    raise SolverOfflineError(offline[0].name) from None
            raise

    @property
    def properties(self) -> dict[str, Any]:
        """Properties of the solver that the service reports: limits, ranges, minimum times."""
        return dict(self.solver.properties)

    @property
    def name(self) -> str:
        """The solver's name, with its graph id where it has one: NAME or NAME/GRAPH_ID."""
        graph = getattr(self.solver, "graph_id", None)
        return f"{self.solver.name}/{graph}" if graph else str(self.solver.name)

    def upload(self, data: Any, should_stop: Callable[[], bool] | None = None) -> str:
        """Upload a model (a binary file), parts that failed again, and return its data id."""
        return str(
            persistent(
                lambda: self._client.upload_problem_encoded(data).result(),
                f"uploading to {self.solver.name}",
                should_stop,
            )
        )

    def submit(
        self,
        job: Mapping[str, Any],
        label: str,
        should_stop: Callable[[], bool] | None = None,
    ) -> str:
        """Submit a job once, and return its problem id.

        After a failure that leaves open whether the service has taken the job, its label is looked for first.

        Args:
            job: `data`, `type` and `params`.
            label: the job's unique label.
            should_stop: cuts waits short.
        """
        from dwave.cloud.api import models

        posted = models.ProblemJob.model_validate({**job, "solver": self.solver.identity.dict(), "label": label})
        doing = f"submitting {label!r} to {self.solver.name}"
        for wait in (*WAITS, None):
            try:
                return self._submit(posted, label)
            except Exception as error:
                failure = classified(error, doing)
                if not failure.passing:
                    raise failure.error from error
                _log.warning("%s; its label is looked for before another attempt", failure.error)
                if wait is not None:
                    pause(wait if failure.wait is None else failure.wait, should_stop)
                found = self.find(label, should_stop, LOOKUPS if failure.sent else 1)
                if found is not None:
                    return found
                if wait is None:
                    raise failure.error from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _submit(self, posted: Any, label: str) -> str:
        from dwave.cloud.api import models

        with self._problems() as problems:
            (answer,) = problems.submit_problems([posted])
        if isinstance(answer, models.ProblemSubmitError):
            failure = refusal(answer.error_code, redact.redact(answer.error_msg), f"submitting {label!r}", None)
            raise failure.error
        return str(answer.id)

    def find(self, label: str, should_stop: Callable[[], bool] | None = None, looks: int | None = None) -> str | None:
        """The problem id of the job with a label, the latest where there are several; None where there is none.

        A job that was accepted a moment ago may not be listed yet, so the service is asked `looks` times (`LOOKUPS`).
        """

        def look() -> str | None:
            with self._problems() as problems:
                found = problems.list_problems(label=label)
            jobs = [job for job in found if job.label == label]
            return str(max(jobs, key=lambda job: job.submitted_on).id) if jobs else None

        for again in range(LOOKUPS if looks is None else looks):
            if again:
                pause(WAITS[0] if WAITS else 0.0, should_stop)
            found = persistent(look, f"looking for {label!r}", should_stop)
            if found is not None:
                return found
        return None

    def watch(self, problem_id: str) -> Any:
        """The client library's future of a job."""
        return self._client.retrieve_answer(problem_id)

    def cancel(self, problem_id: str) -> None:
        """Ask the service to drop a job."""

        def ask() -> None:
            with self._problems() as problems:
                problems.cancel_problems([problem_id])

        persistent(ask, f"cancelling {problem_id}")

    def close(self) -> None:
        """End the client's threads and connections; jobs at the service go on."""
        self._client.close(wait=False)

    @contextlib.contextmanager
    def _problems(self) -> Iterator[Any]:
        from dwave.cloud.api import Problems

        with Problems.from_config(self._client.config) as problems:
            yield problems


_TYPES = {"nl": {"nl"}, "cqm": {"cqm"}, "bqm": {"bqm"}, "qpu": {"ising"}}

_DEFAULTS: dict[str, dict[str, Any]] = {
    kind: {"supported_problem_types__contains": kind, "order_by": "-properties.version"}
    for kind in ("nl", "cqm", "bqm")
} | {"qpu": {"supported_problem_types__contains": "ising", "qpu": True, "order_by": "-num_active_qubits"}}

_connections: dict[tuple[str, ...], Service] = {}
_connecting = threading.Lock()


def connection(kind: Kind, name: str | None, profile: str | None, config_file: str | None) -> Service:
    """The connection for a kind of solver and the present credentials; made at its first use."""
    key = _key(kind, name, profile, config_file)
    with _connecting:
        if key not in _connections:
            _connections[key] = Service(kind, name, profile, config_file)
        return _connections[key]


def connected(kind: Kind, name: str | None, profile: str | None, config_file: str | None) -> Service | None:
    """That connection, if it was made already."""
    try:
        return _connections.get(_key(kind, name, profile, config_file))
    except UnavailableError:
        return None


def disconnect() -> None:
    """Close all connections; the next use makes new ones, with the properties that the service reports then."""
    with _connecting:
        while _connections:
            _connections.popitem()[1].close()


def _key(kind: str, name: str | None, profile: str | None, config_file: str | None) -> tuple[str, ...]:
    config = json.dumps({**_config(profile, config_file), **OPTIONS}, sort_keys=True, default=str)
    return (kind, name or "", hashlib.sha256(config.encode()).hexdigest())
