"""One solve in progress: its seed, its clock, and the reasons for which it ends."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib.metadata
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from problems.forms import StateArray
from solvers.errors import OptionError

T = TypeVar("T")

CHUNK_SECONDS = 0.004
"""How long a compiled kernel works before it looks at the clock: a fifth of the 20 ms that a limit may be missed by."""

clock = time.perf_counter
"""Seconds by which a run measures its time limit and record; replaceable, so that tests need not wait."""

MAX_SEED = 2**63 - 1

LONGEST = 1e9
"""Seconds of the longest time limit, thirty years: larger numbers are taken for it."""


@dataclass
class Run:
    """The clock and the record of one solve.

    A search calls :meth:`should_end` between pieces of work of about `CHUNK_SECONDS`, and :meth:`record` when it
    finds a better state. Both may be called from the threads of one solve.

    Attributes:
        seed: where this solve's randomness starts.
        time_limit: seconds from :meth:`start`, or None for a fixed amount of work.
        target: an energy at which to stop, or None.
        initial_states: feasible states to start from [s, n], or None.
        stop: the caller's wish to end early, or None.
        ended_by: why the search ended early, or None.
        incumbents: (seconds, energy) at each improvement.
        size: how large the terms of an energy are; known where there is a target.
        rounding: by how much an energy may lie above the target and still reach it.
        counted: the state last counted by the problem itself, as bytes of int8, and its energy.
        queue: seconds of waiting in queues of services, if reported.
    """

    seed: int
    time_limit: float | None = None
    target: float | None = None
    initial_states: StateArray | None = None
    stop: Callable[[], bool] | None = None
    ended_by: str | None = None
    incumbents: list[tuple[float, float]] = field(default_factory=list)
    size: float = 0.0
    rounding: float = 0.0
    counted: tuple[bytes, float] | None = None
    queue: float = 0.0
    _begun: float = field(default_factory=lambda: clock())
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def checked(
        cls,
        *,
        seed: int | None,
        time_limit: float | None,
        target: float | None,
        initial_states: StateArray | None,
        stop: Callable[[], bool] | None,
    ) -> Run:
        """Make a run of what a caller gave.

        Raises:
            OptionError: a seed, limit, target or stop that cannot be used.
        """
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        check_seed(seed)
        time_limit, target = _number("time_limit", time_limit), _number("target", target)
        if time_limit is not None and time_limit <= 0:
            raise OptionError(
                f"time_limit {time_limit:g} must be more than 0 seconds; None does a fixed amount of work"
            )
        if time_limit is not None:
            time_limit = None if time_limit == math.inf else float(min(time_limit, LONGEST))
        if stop is not None and not callable(stop):
            raise OptionError(f"stop {stop!r} must be a function without arguments that returns True to end the solve")
        return cls(int(seed), time_limit, target, initial_states, stop)

    def start(self) -> None:
        """Start the clock: the warm-up is over."""
        self._begun = clock()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return clock() - self._begun

    def remaining(self) -> float:
        """Seconds left of the time limit; infinite without one."""
        return math.inf if self.time_limit is None else self.time_limit - self.elapsed()

    def end(self, reason: str) -> None:
        """End the search at the next look, for this reason unless there is one already."""
        if self.ended_by is None:
            self.ended_by = reason

    def should_end(self) -> bool:
        """Whether the time is up, the target reached, or someone asked to stop."""
        if self.ended_by is None and self.time_limit is not None and self.elapsed() >= self.time_limit:
            self.end("time_limit")
        return self.told_to_end() is not None

    def told_to_end(self) -> str | None:
        """Why the search is to end, if it is; the clock is not looked at, which is another's where a service works."""
        # A caller's function is called in the caller's thread only.
        if self.ended_by is None and self.stop is not None and threading.current_thread() is self._home and self.stop():
            self.end("stop")
        return self.ended_by

    def record(self, energy: float) -> None:
        """Note the energy of a state just found, and end the search if it reaches the target."""
        with self._lock:
            if not self.incumbents or energy < self.incumbents[-1][1]:
                self.incumbents.append((self.elapsed(), energy))
        if self.target is not None and energy <= self.target + self.rounding:
            self.end("target")

    def incumbents_down_to(self, energy: float) -> list[list[float]]:
        """The record as [seconds, energy] pairs, closed by the recomputed energy of the answer.

        Kernels count in float32 or with accumulated rounding: their last entries may differ from the truth in
        the last digits, so what lies below the true energy is cut off and the last pair states it.
        """
        kept = [[t, e] for t, e in self.incumbents if e > energy]
        after = [t for t, e in self.incumbents if e <= energy]
        return [*kept, [after[0] if after else self.elapsed(), energy]]

    def generator(self) -> np.random.Generator:
        """A generator of random numbers that starts at the seed."""
        return np.random.default_rng(self.seed)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take a first Ctrl-C as the wish to end with the best so far; a second one interrupts as usual."""
        self._home = threading.current_thread()

        def note() -> None:
            if self.ended_by == "interrupt":
                raise KeyboardInterrupt
            self.ended_by = "interrupt"

        with on_interrupt(note):
            yield

    def in_threads(self, work: Callable[[int], T], count: int, threads: int) -> list[T]:
        """Call work(0) .. work(count - 1), side by side where there is more than one thread.

        The caller's thread only watches the clock, so `stop` and Ctrl-C are heard. Results come in order.
        """
        if threads <= 1 or count <= 1:
            return [work(i) for i in range(count)]
        with ThreadPoolExecutor(min(threads, count)) as pool:
            futures = [pool.submit(work, i) for i in range(count)]
            pending = set(futures)
            while pending:
                _, pending = wait(pending, timeout=CHUNK_SECONDS / 2, return_when=FIRST_COMPLETED)
                self.should_end()
            return [future.result() for future in futures]

    _home: threading.Thread = field(default_factory=threading.current_thread)


def check_seed(seed: object) -> None:
    """Refuse what is no seed.

    Raises:
        OptionError: it is not a whole number within reach.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= MAX_SEED:
        raise OptionError(f"seed {seed!r} must be an integer between 0 and {MAX_SEED}")


def _number(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise OptionError(f"{name} {value!r} must be a number")
    try:
        number = float(value)
    except OverflowError:  # of a whole number beyond float64
        number = math.inf if value > 0 else -math.inf
    if math.isnan(number):
        raise OptionError(f"{name} {value!r} must be a number")
    return number


@contextlib.contextmanager
def listening_together(runs: Sequence[Run]) -> Iterator[None]:
    """Take a first Ctrl-C as the wish to end all of these runs with the best so far; a second one interrupts as usual.

    A run that listens by itself meanwhile hears in their place.
    """
    heard = False

    def note() -> None:
        nonlocal heard
        if heard:
            raise KeyboardInterrupt
        heard = True
        end_all(runs, "interrupt")

    with on_interrupt(note):
        yield


def end_all(runs: Sequence[Run], reason: str) -> None:
    """End each of these runs at its next look, for this reason unless it has one already."""
    for run in runs:
        run.end(reason)


@contextlib.contextmanager
def on_interrupt(react: Callable[[], None]) -> Iterator[None]:
    """Call a function on Ctrl-C instead of raising KeyboardInterrupt; outside the main thread this changes nothing."""
    try:
        previous = signal.signal(signal.SIGINT, lambda signum, frame: react())
    except ValueError:  # not in the main thread, which hears signals alone
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous if previous is not None else signal.default_int_handler)


class Pace:
    """How many steps of a kernel take about `CHUNK_SECONDS`, learnt while it runs.

    Kernels can stop after any number of steps and go on unchanged, so the pace never changes an answer.
    """

    def __init__(self, steps: int = 1000) -> None:
        self.steps = steps
        self._since = time.perf_counter()

    def begin(self, most: int) -> int:
        """Steps to do next, `most` at most."""
        self._since = time.perf_counter()
        return min(self.steps, most)

    def done(self, steps: int) -> None:
        """Report the number of steps since :meth:`begin`."""
        spent = time.perf_counter() - self._since
        wanted = steps * CHUNK_SECONDS / max(spent, 1e-7)
        self.steps = max(1, min(int(wanted), 4 * self.steps))


def cpu_threads() -> int:
    """Processors that a solve may use: those of this process, or its share of them in a pool."""
    return min(processors(), _allowed.get() or processors())


def processors() -> int:
    """Processors of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allow_threads(most: int) -> None:
    """In this context, let :func:`cpu_threads` say `most` at the most: others use the other processors."""
    _allowed.set(most)


_allowed: contextvars.ContextVar[int | None] = contextvars.ContextVar("allowed_threads", default=None)


@functools.cache
def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Versions of installed distributions, for the record."""
    found = {}
    for name in ("hybrid-icbs", *distributions):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
