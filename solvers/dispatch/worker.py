"""What a worker process is: it waits for calls, makes them one by one, and ends with the process that began it."""

from __future__ import annotations

import contextlib
import contextvars
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from solvers.dispatch.base import listening_to
from solvers.dispatch.parcels import Attached, unpack
from solvers.errors import SolverError
from solvers.run import allow_threads

READY, VALUE, ERROR = b"r", b"v", b"e"
"""The first byte of what a worker sends."""

attached = Attached()
"""The shared memory that this worker has mapped."""


def received(data: bytes, names: list[str]) -> Any:
    """A shared thing, in the worker."""
    return unpack(data, [attached.view(name) for name in names])


def main(connection: Connection, threads: int) -> None:
    """Serve calls until the other end closes.

    Args:
        connection: brings ("call", payload, stopped), ("stop",) and ("forget", names of shared memory); takes READY,
            then an outcome for each call.
        threads: how many a call may use.
    """
    _apart_from_the_terminal()
    allow_threads(threads)
    stopped = threading.Event()
    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, stopped, calls), daemon=True).start()
    _say(connection, READY)
    while True:
        kind, content = calls.get()
        if kind == "forget":
            attached.forget(content)
        else:
            _say(connection, outcome(content, stopped.is_set))


def outcome(payload: bytes, told: Callable[[], bool]) -> bytes:
    """Make a call.

    Args:
        payload: the pickled function and its task.
        told: whether the task is to end early.

    Returns:
        VALUE and the pickled result, or ERROR and the pickled exception, its traceback as a note.
    """
    try:
        function, task = pickle.loads(payload)  # of the program that started this process, over their own pipe
        context = contextvars.copy_context()
        context.run(listening_to, told)
        value = context.run(function, task)
        return VALUE + pickle.dumps(value, protocol=5)
    except BaseException as error:
        return ERROR + _pickled(error)


def opened(message: bytes) -> Any:
    """The result in an outcome; raises where it is an exception."""
    content = pickle.loads(message[1:])
    if message[:1] == ERROR:
        raise content
    return content


def _pickled(error: BaseException) -> bytes:
    """An exception with its type, text and traceback; where it cannot be pickled, one that says them."""
    trace = "".join(traceback.format_exception(error))
    try:
        said = str(error)
    except Exception as failure:
        said = f"its text could not be made: {failure!r}"
    error.__traceback__ = error.__cause__ = error.__context__ = None
    error.add_note(f"In the worker:\n{trace}")
    with contextlib.suppress(Exception):
        packed = pickle.dumps(error, protocol=5)
        again = pickle.loads(packed)
        if type(again) is type(error) and str(again) == said:
            return packed
    plain = SolverError(f"{type(error).__name__}: {said}")
    plain.add_note(f"In the worker:\n{trace}")
    return pickle.dumps(plain, protocol=5)


def _say(connection: Connection, message: bytes) -> None:
    try:
        connection.send_bytes(message)
    except OSError:  # nobody hears it any more
        os._exit(0)


def _listen(connection: Connection, stopped: threading.Event, calls: queue.SimpleQueue[Any]) -> None:
    while True:
        try:
            kind, *content = connection.recv()
        except (EOFError, OSError):  # nobody waits for an answer any more
            os._exit(0)
        if kind == "stop":
            stopped.set()
        elif kind == "forget":
            calls.put((kind, content[0]))
        else:
            payload, told = content
            (stopped.set if told else stopped.clear)()
            calls.put((kind, payload))


def _apart_from_the_terminal() -> None:
    """Leave Ctrl-C to the process that began this one: it tells the workers."""
    if hasattr(os, "setpgid"):
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # blocked while this process was started
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
