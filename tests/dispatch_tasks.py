"""Tasks for the tests of dispatch: functions at module level, as `Dispatch.map` requires."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from problems import BlockProblem
from solvers import Estimate, Outcome, Solver
from solvers.dispatch import Handle, stop_requested
from solvers.run import Run, cpu_threads


class OddError(Exception):
    """Takes two arguments, so that it cannot be rebuilt from its text alone."""

    def __init__(self, number: int, colour: str) -> None:
        super().__init__(f"{number} is {colour}")


class WithoutText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("refuses to be pickled")


def square(x: int) -> int:
    return x * x


def slow_square(x: int) -> int:
    time.sleep(0.01 * (x % 3))
    return x * x


def whereabouts(_: int) -> tuple[int, int, str | None]:
    return os.getpid(), cpu_threads(), os.environ.get("NUMBA_NUM_THREADS")


def total(task: tuple[Handle[Any], int]) -> tuple[float, bool]:
    """The sum of a column of a shared array, and whether the array is writeable."""
    handle, column = task
    array = handle.get()["array"]
    return float(array[:, column].sum()), bool(array.flags.writeable)


def refuse(x: int) -> int:
    if x == 2:
        raise ValueError(f"task {x} is refused")
    return x


def refuse_oddly(x: int) -> int:
    raise OddError(x, "odd")


def refuse_without_text(_: int) -> None:
    raise WithoutText


def return_unpicklable(_: int) -> Any:
    return Unpicklable()


def die_once(task: tuple[str, int]) -> int:
    """Kill this process the first time that task 3 runs."""
    folder, x = task
    if x == 3:
        mark = Path(folder) / "begun"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return x * x


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_stop(_: int) -> bool:
    for _ in range(2000):
        if stop_requested():
            return True
        time.sleep(0.01)
    return False


def secret_names(_: int) -> list[str]:
    return [name for name in os.environ if name.startswith("TRIAL_")]


def big(x: int) -> np.ndarray[Any, Any]:
    return np.full(500_000, float(x))


@dataclass(frozen=True)
class IgnoresStop(Solver):
    """Sleeps for ten seconds and ignores requests to stop."""

    name: ClassVar[str] = "ignores-stop"

    def estimate(self, problem: BlockProblem) -> Estimate:
        return Estimate(10.0)

    def _search(self, problem: BlockProblem, run: Run) -> Outcome:
        time.sleep(10)
        return Outcome(problem.random_states(1, 0))
