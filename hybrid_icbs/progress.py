"""Progress of long work: a bar on a terminal, and lines now and then where standard error is a file.

Work names its phases; who runs it decides whether they are shown::

    with reporting():
        with phase("pruning", total=60, unit="blocks") as advance:
            advance(12, "loss 0.31")
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

EVERY = 10.0
"""Seconds between two lines of a phase."""

_shown: ContextVar[_Report | None] = ContextVar("shown", default=None)


class Advance(Protocol):
    """Reports how far a phase is."""

    def __call__(self, done: int, note: str = "", total: int | None = None) -> None:
        """`done` of `total` units are done; `total` replaces the one that the phase began with."""


@contextmanager
def reporting(shown: bool = True, *, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Show the phases of the work inside, on standard error; an outer `reporting` decides for inner ones.

    Args:
        shown: whether to show them.
        clock: seconds; for tests.
    """
    if _shown.get() is not None:
        yield
        return
    token = _shown.set(_Silent() if not shown else _Bars() if sys.stderr.isatty() else _Lines(clock))
    try:
        yield
    finally:
        _shown.reset(token)


@contextmanager
def phase(name: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
    """A named phase of work, of which `total` units are to be done, if that is known.

    Args:
        name: such as "measuring costs".
        total: number of units.
        unit: what is counted, such as "layers".
    """
    with (_shown.get() or _Silent()).phase(name, total, unit) as advance:
        yield advance


class _Report(Protocol):
    def phase(self, name: str, total: int | None, unit: str) -> Any: ...


class _Silent:
    """Shows nothing."""

    @contextmanager
    def phase(self, name: str, total: int | None, unit: str) -> Iterator[Advance]:
        yield lambda done, note="", total=None: None


class _Lines:
    """A line when a phase begins and ends, and between them one every few seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    @contextmanager
    def phase(self, name: str, total: int | None, unit: str) -> Iterator[Advance]:
        begun = last = self._clock()
        most = total

        def line(text: str) -> None:
            print(text, file=sys.stderr, flush=True)

        def advance(done: int, note: str = "", total: int | None = None) -> None:
            nonlocal last, most
            most = most if total is None else total
            now = self._clock()
            if now - last >= EVERY:
                last = now
                of = f" of {most}" if most is not None else ""
                line(f"{name}: {done}{of} {unit}".rstrip() + f", {now - begun:.0f} s{f', {note}' if note else ''}")

        line(f"{name}{f': {total} {unit}'.rstrip() if total is not None else ''}")
        try:
            yield advance
        except BaseException:
            line(f"{name}: stopped after {self._clock() - begun:.1f} s")
            raise
        line(f"{name}: done in {self._clock() - begun:.1f} s")


class _Bars:
    """One bar on the terminal for the phase at hand; phases inside a phase are shown under it."""

    def __init__(self) -> None:
        self._bar: Any = None

    @contextmanager
    def phase(self, name: str, total: int | None, unit: str) -> Iterator[Advance]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        outer = self._bar
        if outer is None:
            columns = (
                TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[count]}"),
                TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
            )  # fmt: skip
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        bar = self._bar
        task = bar.add_task(name, total=total, count=_count(0, total, unit), note="")

        def advance(done: int, note: str = "", total: int | None = None) -> None:
            most = bar.tasks[bar.task_ids.index(task)].total if total is None else total
            bar.update(task, completed=done, total=most, count=_count(done, most, unit), note=note)

        try:
            yield advance
        finally:
            bar.remove_task(task)
            if outer is None:
                bar.stop()
                self._bar = None


def _count(done: int, total: float | None, unit: str) -> str:
    return "" if total is None else f"{done}/{total:.0f} {unit}".rstrip()
