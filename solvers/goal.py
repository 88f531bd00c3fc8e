"""The target of a run, as kernels that count in float32 can look out for it."""

from __future__ import annotations

import math

import numpy.typing as npt

from problems import BlockProblem
from solvers.arrays import Arrays
from solvers.run import Run

ROUNDING = 2e-6
"""Kernel energies are right to about this share: a kernel that comes so near the target returns, and the problem's own
energy decides."""


class Goal:
    """When a kernel should return because the target seems reached, and whether it was; one for each thread.

    Attributes:
        threshold: kernel energy at which to return; minus infinity without a target.
    """

    def __init__(self, problem: BlockProblem, run: Run, arrays: Arrays) -> None:
        self._problem, self._run, self._arrays = problem, run, arrays
        self._levels: list[float] = []
        if run.target is not None:
            half = arrays.half(run.target)
            slack = ROUNDING * abs(half)
            self._levels = [half - slack, half, half + slack]
        self._near = self.threshold = self._levels[-1] if self._levels else -math.inf

    def note(self, half: float, state: npt.ArrayLike) -> None:
        """Put a state [n] on the record, and end the run if it reaches the target.

        Args:
            half: the state's kernel energy.
            state: the state.
        """
        self._run.record(self._problem.energy(state) if half <= self._near else self._arrays.energy(half))
        # Near, but not there: from now on only what looks better than this is worth a halt.
        while self._levels and half <= self._levels[-1]:
            self._levels.pop()
        self.threshold = self._levels[-1] if self._levels else -math.inf
