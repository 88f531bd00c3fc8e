"""Code that runs on the nodes of a Ray cluster: calls, and the actor that asks them to end."""

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
"""First byte of an outcome if the node lacks the right version of this package."""

ASK_SECONDS = 0.25
"""Seconds between a call's checks whether it was asked to end."""


def remote_flag(ray: Any) -> Any:
    """An actor on this node that knows which pieces of work were asked to end."""

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
    """Run a call on a node.

    Args:
        payload: the pickled function and its task.
        flag: the actor that knows whether the piece of work was asked to end.
        piece: name of the piece of work.
        threads: threads that the call may use.
        arrays: large arrays sent with it, as bytes (uint8).

    Returns:
        The outcome, as from :func:`solvers.dispatch.worker.outcome`.
    """
    context = contextvars.copy_context()
    context.run(allow_threads, threads)
    context.run(_arrived.set, arrays)
    return context.run(worker.outcome, payload, _asking(flag, piece))


def _asking(flag: Any, piece: str) -> Callable[[], bool]:
    """A function that says whether the piece of work was asked to end; it never waits for the actor."""
    ray = imported()
    asked = time.monotonic()
    question: Any = None
    answer = False

    def asked_to_end() -> bool:
        nonlocal asked, question, answer
        if answer:
            return True
        if question is None:
            if time.monotonic() - asked > ASK_SECONDS:
                question, asked = flag.stopped.remote(piece), time.monotonic()
        elif ray.wait([question], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):  # without the actor a task runs to its end
                answer = bool(ray.get(question))
            question = None
        return answer

    return asked_to_end


class Arrived(Handle[Any]):
    """The handle on a node."""

    def __init__(self, data: bytes, places: Sequence[int]) -> None:
        arrays = _arrived.get()
        self._data, self._parts = data, [arrays[place] for place in places]

    def get(self) -> Any:
        """A copy whose large arrays are in the node's object store."""
        return unpack(self._data, self._parts)


_arrived: contextvars.ContextVar[Sequence[Any]] = contextvars.ContextVar("arrived", default=())
