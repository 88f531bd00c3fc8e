"""A Ray cluster: an existing one, or one started on this machine that ends with the dispatch."""

from __future__ import annotations

import contextlib
import contextvars
import importlib.metadata
import importlib.util
import itertools
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np

from solvers.base import Availability
from solvers.checks import at_least
from solvers.dispatch import worker
from solvers.dispatch.base import LOOK_SECONDS, RETRIES, Dispatch, Handle
from solvers.dispatch.errors import WorkerLost
from solvers.dispatch.parcels import SentHandle, SentOnce, pack, pickled
from solvers.dispatch.ray_node import MISSING, Arrived, remote_flag
from solvers.dispatch.ray_setup import environment_of_workers, imported, messages_to_log, undisturbed
from solvers.errors import OptionError, SolverError, UnavailableError
from solvers.run import cpu_threads

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)

_AHEAD = 2  # tasks sent per processor, so that the data of the next one has arrived when one ends
_CONNECT_SECONDS = 10.0  # for the host of a cluster to answer
_HTTP2_SETTINGS = 4  # type of the frame that each side of HTTP/2 sends first
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, _HTTP2_SETTINGS, 0, 0, 0, 0, 0])
_UNPLACED_SECONDS = 30.0  # without a result, after which the log says if no node has enough processors


class RayCluster(Dispatch):
    """A Ray cluster; lost tasks are restarted, and each large array is sent to each node once.

    If this process is connected to a cluster already, that one is used and stays connected.

    Args:
        address: host:port of a cluster, or "auto" for the one that runs on this machine or that RAY_ADDRESS names;
            None starts one on this machine, which ends with the dispatch.
        workers: tasks that run at once; None for one per processor of the cluster.
        threads: threads that each task may use; Ray reserves as many processors of a node.
        retries: how often a task is restarted after its worker or node was lost.

    Raises:
        OptionError: an invalid setting.
    """

    name: ClassVar[str] = "ray"

    def __init__(
        self, address: str | None = None, workers: int | None = None, threads: int = 1, retries: int = RETRIES
    ) -> None:
        at_least(1, threads=threads)
        at_least(0, retries=retries)
        if workers is not None:
            at_least(1, workers=workers)
        if address is not None and address != "auto" and not re.fullmatch(r".+:\d+", address):
            raise OptionError(f"address {address!r} must be 'auto' or host:port; without one Ray starts here")
        self.address, self.threads, self.retries = address, threads, retries
        self._given_workers = workers
        self.workers = workers or max(1, cpu_threads() // threads)
        self._ray: Any = None
        self._ours = False
        self._busy = False
        self._sent: SentOnce[Any]
        self._call: Any = None
        self._flag: Any = None
        self._undo_messages: Callable[[], None]

    @classmethod
    def available(cls) -> Availability:
        """Whether Ray is installed."""
        if importlib.util.find_spec("ray") is None:
            return Availability(False, 'Ray is not installed; pip install "hybrid-icbs[ray]"')
        return Availability(True)

    def close(self) -> None:
        """Free all shared objects, and end the cluster if it was started here."""
        ray, self._ray = self._ray, None
        if ray is None:
            return
        self._sent.clear()
        self._flag = self._call = None
        if self._ours:
            ray.shutdown()
            self._undo_messages()

    def share(self, obj: T) -> Handle[T]:
        """Put the large arrays into the object store; each node fetches them once."""
        ray = self._opened()
        return _PutHandle(obj, pack(obj, self._sent, ray.cloudpickle.CloudPickler), self._sent.release)

    # Calls

    def _map(self, function: Callable[[T], R], tasks: Iterator[T], stop: Callable[[], bool]) -> Iterator[tuple[int, R]]:
        if self._busy:
            raise SolverError("a dispatch does one piece of work at a time; end the other iteration first")
        ray = self._opened()
        self._busy = True
        numbered = enumerate(tasks)
        piece = os.urandom(8).hex()
        places: dict[Any, int] = {}
        stopped, heard = False, time.monotonic()
        try:
            while True:
                most = self.workers if self._given_workers else _AHEAD * self.workers
                for place, task in itertools.islice(numbered, max(0, most - len(places))):
                    places[self._send(function, task, piece)] = place
                if not places:
                    return
                done, _ = ray.wait(list(places), timeout=LOOK_SECONDS)
                if not done and time.monotonic() - heard > _UNPLACED_SECONDS:
                    heard = time.monotonic()
                    self._warn_if_nothing_can_run()
                for ref in done:
                    heard = time.monotonic()
                    place = places.pop(ref)
                    yield place, self._result(ref, place)
                if not stopped and stop():
                    stopped = True
                    ray.get(self._flag.stop.remote(piece))
        finally:
            self._busy = False
            for ref in places:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.cancel(ref, force=True)

    def _send(self, function: Callable[[T], R], task: T, piece: str) -> Any:
        parts: dict[Any, int] = {}
        token = _travelling.set(parts)
        try:
            payload = pickled((function, task), pickler=self._ray.cloudpickle.CloudPickler)
        finally:
            _travelling.reset(token)
        return self._call.remote(_version(), payload, self._flag, piece, self.threads, *parts)

    def _result(self, ref: Any, place: int) -> Any:
        errors = self._ray.exceptions
        losses = errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError, errors.ObjectLostError
        try:
            message = self._ray.get(ref)
        except errors.RayTaskError as error:
            raise SolverError(f"a node of the Ray cluster could not begin task {place}: {error.cause}") from error
        except losses as error:
            raise WorkerLost(
                f"task {place} lost its worker on the Ray cluster {self.retries + 1} times: {_first_line(error)}"
            ) from error
        except errors.RayError as error:
            raise SolverError(f"the Ray cluster failed at task {place}: {_first_line(error)}") from error
        if message[:1] == MISSING:
            raise UnavailableError(message[1:].decode())
        return worker.opened(message)

    def _warn_if_nothing_can_run(self) -> None:
        processors = self._ray.cluster_resources().get("CPU", 0.0)
        if processors < self.threads:
            logger.warning("a task waits for %d processors; the Ray cluster has %g", self.threads, processors)

    # The cluster

    def _opened(self) -> Any:
        """Ray, connected."""
        if self._ray is not None:
            return self._ray
        self.refuse_what_is_missing()
        ray = imported()
        self._ours = False
        if not ray.is_initialized():
            self._connect(ray)
        elif (connected := ray.get_runtime_context().gcs_address).rpartition(":")[2] != self._port(connected):
            raise OptionError(
                f"this process is connected to the Ray cluster at {connected}, not {self.address}; call ray.shutdown() "
                "first"
            )
        self._ray = ray
        if self._given_workers is None:
            self.workers = max(1, int(ray.cluster_resources().get("CPU", 1) // self.threads))
        self._sent = SentOnce(lambda raw: ray.put(np.frombuffer(raw, np.uint8)), lambda ref: None)
        self._call = _remote_call(ray, self.threads, self.retries)
        self._flag = remote_flag(ray)
        return ray

    def _connect(self, ray: Any) -> None:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
        processors = self.workers * self.threads
        with undisturbed():
            if self.address is None:
                with environment_of_workers(self.threads):
                    ray.init(address="local", num_cpus=processors, num_gpus=0, include_dashboard=False, **quiet)
            else:
                try:
                    self._check_address()
                    ray.init(address=self.address, **quiet)
                except (OSError, RuntimeError, ValueError) as error:
                    raise UnavailableError(
                        f"no Ray cluster answers at {self.address!r} ({_first_line(error)}); start one with `ray start "
                        "--head`, or leave the address out to start one on this machine"
                    ) from error
        self._undo_messages = messages_to_log()
        self._ours = True  # the connection ends with the dispatch; a cluster given by its address continues

    def _port(self, otherwise: str) -> str:
        """The port of the address, or of `otherwise` if the address has none."""
        named = otherwise if self.address in (None, "auto") else self.address
        return str(named).rpartition(":")[2]

    def _check_address(self) -> None:
        """Fail at once if no Ray cluster listens at the address; Ray itself would wait for minutes."""
        if self.address in (None, "auto"):
            return
        host, _, port = str(self.address).rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            connection.sendall(_HTTP2_GREETING)  # Ray's ports use gRPC, which is HTTP/2; its dashboard does not
            head = b""
            while len(head) < 9 and (more := connection.recv(9 - len(head))):
                head += more
            if len(head) < 9 or head[3] != _HTTP2_SETTINGS:
                raise OSError("another program listens there")


def _remote_call(ray: Any, threads: int, retries: int) -> Any:
    """The Ray task. Ray sends a nested function by value, so that a node without this package can report that."""

    def call(version: str | None, payload: bytes, flag: Any, piece: str, threads: int, *arrays: Any) -> bytes:
        import importlib.metadata
        import socket

        try:
            here = importlib.metadata.version("hybrid-icbs")
        except importlib.metadata.PackageNotFoundError:
            here = None
        if here != version:
            theirs = f"node {socket.gethostname()} of the Ray cluster has hybrid-icbs {here or 'not installed'}"
            return b"m" + f"{theirs}, this process {version}; install the same version on all nodes".encode()
        from solvers.dispatch.ray_node import perform

        return perform(payload, flag, piece, threads, arrays)

    return ray.remote(num_cpus=threads, max_retries=retries, retry_exceptions=False)(call)


class _PutHandle(SentHandle[T]):
    """Handle of an object in the object store."""

    def __reduce__(self) -> Any:
        self.get()
        parts = _travelling.get()
        if parts is None:
            raise TypeError("a handle can only be sent inside a task of its own dispatch")
        return Arrived, (self._packed.data, [parts.setdefault(ref, len(parts)) for ref in self._packed.parts])


_travelling: contextvars.ContextVar[dict[Any, int] | None] = contextvars.ContextVar("travelling", default=None)


def _version() -> str | None:
    try:
        return importlib.metadata.version("hybrid-icbs")
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
