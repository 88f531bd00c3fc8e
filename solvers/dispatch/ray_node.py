"""What runs on the nodes of a Ray cluster: calls, and the actor that tells them to end."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Callable, Sequence
from typing import Any

from solvers.dispatch import worker
from solvers.dispatch.base import Handle
from solvers.dispatch.parcels import unpack
from solvers.dispatch.ray_setup import imported
from solvers.run import allow_threads

MISSING = b"m"
"""First byte of an outcome where the node has not what it needs."""

ASK_SECONDS = 0.25
"""How often a call asks whether it has been told to end."""


def remote_call(ray: Any, threads: int, retries: int) -> Any:
    """The task: a function inside a function travels whole, so that a node without this package can say so."""

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


def remote_flag(ray: Any) -> Any:
    """An actor beside this process that knows which pieces of work were told to end."""

    class Flag:
        def __init__(self) -> None:
            self.pieces: set[str] = set()

        def stop(self, piece: str) -> None:
            self.pieces.add(piece)

        def stopped(self, piece: str) -> bool:
            return piece in self.pieces

    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=True
    )
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Flag).remote()


def perform(payload: bytes, flag: Any, piece: str, threads: int, arrays: Sequence[Any]) -> bytes:
    """Make a call on a node.

    Args:
        payload: the pickled function and its task.
        flag: the actor that knows whether the piece of work was told to end.
        piece: of work.
        threads: how many the call may use.
        arrays: large arrays that came with it, as bytes (uint8).

    Returns:
        The outcome, as of :func:`solvers.dispatch.worker.outcome`.
    """
    context = contextvars.copy_context()
    context.run(allow_threads, threads)
    context.run(_arrived.set, arrays)
    return context.run(worker.outcome, payload, _asking(flag, piece))


def _asking(flag: Any, piece: str) -> Callable[[], bool]:
    """Whether the piece of work was told to end, asked now and then without ever waiting for the answer."""
    ray = imported()
    asked = time.monotonic()
    question: Any = None
    answer = False

    def told() -> bool:
        nonlocal asked, question, answer
        if answer:
            return True
        if question is None:
            if time.monotonic() - asked > ASK_SECONDS:
                question, asked = flag.stopped.remote(piece), time.monotonic()
        elif ray.wait([question], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):  # without its flag a task goes on to its own end
                answer = bool(ray.get(question))
            question = None
        return answer

    return told


class Arrived(Handle[Any]):
    """The handle on a node."""

    def __init__(self, data: bytes, places: Sequence[int]) -> None:
        arrays = _arrived.get()
        self._data, self._parts = data, [arrays[place] for place in places]

    def get(self) -> Any:
        """A copy whose large arrays are those of the node."""
        return unpack(self._data, self._parts)


_arrived: contextvars.ContextVar[Sequence[Any]] = contextvars.ContextVar("arrived", default=())
