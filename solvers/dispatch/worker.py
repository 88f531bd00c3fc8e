"""The program of a worker process: it runs calls one by one and ends with the process that started it."""

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

from solvers.dispatch.base import set_stop_request
from solvers.dispatch.parcels import Attached, unpack
from solvers.errors import SolverError
from solvers.run import allow_threads

READY, VALUE, ERROR = b"r", b"v", b"e"
"""First byte of each message of a worker."""

attached = Attached()
"""Shared memory mapped by this worker."""


def received(data: bytes, names: list[str]) -> Any:
    """Rebuild a shared object in the worker."""
    return unpack(data, [attached.view(name) for name in names])


def main(connection: Connection, threads: int) -> None:
    """Serve calls until the connection is closed.

    Args:
        connection: receives ("call", payload, stopped), ("stop",) and ("forget", names of shared memory); sends READY,
            then an outcome for each call.
        threads: threads that a call may use.
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


def outcome(payload: bytes, stop: Callable[[], bool]) -> bytes:
    """Run a call.

    Args:
        payload: the pickled function and its task.
        stop: whether the task was asked to end early.

    Returns:
        VALUE and the pickled result, or ERROR and the pickled exception, its traceback as a note.
    """
    try:
        function, task = pickle.loads(payload)  # from the program that started this process, by its pipe
        context = contextvars.copy_context()
        context.run(set_stop_request, stop)
        value = context.run(function, task)
        return VALUE + pickle.dumps(value, protocol=5)
    except BaseException as error:
        return ERROR + _pickled(error)


def opened(message: bytes) -> Any:
    """The result in an outcome; an exception is raised."""
    content = pickle.loads(message[1:])
    if message[:1] == ERROR:
        raise content
    return content


def _pickled(error: BaseException) -> bytes:
    """Pickle an exception with its text and traceback; if it cannot be pickled, a SolverError with the same text."""
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
    except OSError:  # the pool has closed the connection
        os._exit(0)


def _listen(connection: Connection, stopped: threading.Event, calls: queue.SimpleQueue[Any]) -> None:
    while True:
        try:
            kind, *content = connection.recv()
        except (EOFError, OSError):  # the pool has closed the connection
            os._exit(0)
        if kind == "stop":
            stopped.set()
        elif kind == "forget":
            calls.put((kind, content[0]))
        else:
            payload, stop = content
            (stopped.set if stop else stopped.clear)()
            calls.put((kind, payload))


def _apart_from_the_terminal() -> None:
    """Ignore Ctrl-C: the process that started this one handles it and asks the workers to stop."""
    if hasattr(os, "setpgid"):
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # blocked while this process was started
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
