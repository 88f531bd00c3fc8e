"""Tasks of a comparison and their worker processes: one per backend, pinned, reused for all its tasks."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import problems
from problems import BlockProblem
from solvers.comparison.protocol import machine
from solvers.comparison.results import Row
from solvers.dispatch import Handle
from solvers.errors import SolverError

_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS",
)  # fmt: skip
"""Variables that toolkits read on import."""

_GRACE, _TIMES = 300.0, 20.0
"""A worker process that has not answered after `_GRACE` seconds plus `_TIMES` time limits is killed; imports and
compilation are included."""

_LAST = 1 << 16  # bytes of output kept for the error message


@dataclass(frozen=True)
class RaceTask:
    """One solve, as picklable values.

    Attributes:
        problem: the problem's name.
        backend: the backend's text.
        time_limit: seconds, or None.
        seed: seed of the solve.
        recipe: how to create the solver.
        file: path of the problem's file.
        threads: number of processors and threads.
        pinned: whether the process is pinned to processors; not for concurrent solves.
        start: indices of the ones in the initial state, or None.
        calls: for a remote solver, the file of recorded calls and the budget.
        sent: handle of the problem, if the file may be on another machine.
    """

    problem: str
    backend: str
    time_limit: float | None
    seed: int
    recipe: dict[str, Any]
    file: str
    threads: int
    pinned: bool
    start: tuple[int, ...] | None = None
    calls: dict[str, Any] | None = None
    sent: Handle[BlockProblem] | None = None


def race_task(task: RaceTask) -> Row | str:
    """Run a task in the worker process of its backend, which is started if needed.

    Returns:
        The row, "failed" if the solver raised, its process died or it far exceeded the time limit; or, for a temporary
        error (a service or a budget), its message.
    """
    head: dict[str, Any] = {
        "problem": task.problem, "backend": task.backend, "time_limit": task.time_limit, "seed": task.seed,
        "threads": task.threads, "machine": machine(),
    }  # fmt: skip
    message = {
        "do": "solve", "file": _file(task), "seed": task.seed, "time_limit": task.time_limit, "start": task.start,
        "calls": task.calls,
    }  # fmt: skip
    key = json.dumps([task.recipe, task.threads, task.pinned], sort_keys=True)
    tracks = _own_tracks()
    started = 0.0
    try:
        if key not in tracks:
            begun = time.perf_counter()
            tracks[key] = Track(task.recipe, task.threads, task.pinned)
            started = time.perf_counter() - begun
        answer = tracks[key].ask(message, None if task.calls else task.time_limit)
    except PutOff as error:
        answer = {"later": str(error)}
    except ProcessDied as error:
        tracks.pop(key, None)
        answer = {"row": {"status": "failed", "error": str(error)}}
    except BaseException:
        if key in tracks:
            tracks.pop(key).close()  # its current task is no longer needed
        raise
    if "later" in answer:
        return str(answer["later"])
    cells = dict(answer["row"])
    cells["setup"] = cells.get("setup", 0.0) + started
    cells["incumbents"] = tuple((float(t), float(e)) for t, e in cells.get("incumbents", ()))
    return Row(**head, **cells, at=datetime.now(UTC).isoformat(timespec="seconds"))


def close_tracks() -> None:
    """Kill all worker processes that this process has started."""
    with _lock:
        while _tracks:
            _tracks.pop().close()
    _local.__dict__.clear()


class ProcessDied(SolverError):
    """A worker process ended before it answered."""


class PutOff(SolverError):
    """A worker process could not create its solver; a later attempt may succeed."""


class Track:
    """A worker process and the pipe to it.

    Args:
        recipe: how to create its solver.
        threads: number of its processors and threads.
        pinned: whether to pin it to the last `threads` processors available to this process.

    Raises:
        ProcessDied: the process ended early or could not create the solver.
        PutOff: the solver is not available for now.
    """

    def __init__(self, recipe: dict[str, Any], threads: int, pinned: bool) -> None:
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - read after the process has died
        environment = os.environ | {name: str(threads) for name in _VARIABLES}
        environment["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        # -P: the current folder must not shadow packages. New session: only the parent process handles Ctrl-C.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-X", "faulthandler", "-m", "solvers.comparison.racing.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output, env=environment, start_new_session=True,
            text=True, encoding="utf-8",
        )  # fmt: skip
        if pinned and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(self._process.pid, sorted(os.sched_getaffinity(0))[-threads:])
        with _lock:
            _tracks.append(self)
        answer = self.ask({"do": "make", "recipe": recipe})
        if not answer.get("ready"):
            with _lock:
                _tracks.remove(self)
            self.close()
            if "later" in answer:
                raise PutOff(answer["later"])
            raise ProcessDied(f"the worker process could not create the solver: {answer['row']['error']}")

    def ask(self, message: dict[str, Any], time_limit: float | None = None) -> dict[str, Any]:
        """Send a message and wait for the answer; with a time limit, kill the process if it far exceeds the limit.

        Raises:
            ProcessDied: the process ended or was killed.
        """
        if time_limit is None:
            return self._asked(message)
        patience, over = min(_GRACE + _TIMES * time_limit, threading.TIMEOUT_MAX), threading.Event()

        def end() -> None:
            over.set()
            self._process.kill()

        watch = threading.Timer(patience, end)
        watch.daemon = True
        watch.start()
        try:
            return self._asked(message)
        except ProcessDied as error:
            if not over.is_set():
                raise
            raise ProcessDied(
                f"no answer after {patience:g} s with a time limit of {time_limit:g} s: the solver does not keep its "
                "time limit, and its process was killed"
            ) from error
        finally:
            watch.cancel()

    def _asked(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            raise ProcessDied(self._exit_message())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._output):
            with contextlib.suppress(OSError):  # the reader of unflushed data is gone
                pipe and pipe.close()

    def _exit_message(self) -> str:
        """How the process ended, with its last line of output."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        code = self._process.returncode
        self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, self._output.tell() - _LAST))
        lines = [line.strip() for line in self._output.read().decode("utf-8", "replace").splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith("Extension modules:")]  # a list of hundreds
        with _lock:
            if self in _tracks:
                _tracks.remove(self)
        self.close()
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        memory = " (possibly out of memory)" if code == -signal.SIGKILL else ""
        fatal = [line for line in lines if line.startswith("Fatal Python error")] or lines[-1:]
        return f"the worker process ended by {how}{memory}{': ' if fatal else ''}{''.join(fatal)}"


_tracks: list[Track] = []
_lock = threading.Lock()
_local = threading.local()


def _file(task: RaceTask) -> str:
    """The problem's file; written to the local disk if the problem was sent from another machine."""
    if task.sent is None or os.path.exists(task.file):
        return task.file
    with _lock:
        file = _received.get(task.file)
        if file is None:
            folder = Path(tempfile.mkdtemp(prefix="race-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            file = _received[task.file] = str(problems.save(task.sent.get(), folder / "problem"))
    return file


_received: dict[str, str] = {}


def _own_tracks() -> dict[str, Track]:
    """The worker processes of the calling thread, by recipe; per thread, because a pipe has one reader."""
    tracks: dict[str, Track] = _local.__dict__.setdefault("tracks", {})
    return tracks


@contextlib.contextmanager
def tracks_closed() -> Iterator[None]:
    """Kill the worker processes when the block ends."""
    try:
        yield
    finally:
        close_tracks()
