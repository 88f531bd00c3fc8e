"""The target of a run, as kernels that count in float32 can look out for it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from problems import BlockProblem
from solvers.local.arrays import Arrays
from solvers.run import Run

ROUNDING = 2e-6
"""Kernel energies are right to about this share of their terms: a kernel that comes so near the target returns, and the
problem's own energy decides."""

_SUMMED_ROUNDING = 1.5e-7
"""The same where the kernel counts what it keeps in float64 on the problem's own coefficients: a state under way may be
further off, and is counted when its search ends."""

_FARTHEST = 1e300  # a target may be infinite, or become so in half units; no kernel's energy comes so far

_HALTS = np.array([-1.0, -0.1, 0.0, 1.0])  # at each of these shares of the slack a kernel returns once

_HALTS_OF_SUMS = np.array([-1.0, -0.1, 0.0, 0.1])
"""The same where a state that is passed over is counted in float64 when its search ends: rounding seldom takes a tenth
of the slack, and a halt for what is nearly there costs as much as a tenth of a short search."""


class TargetWatch:
    """When a kernel should return because the target seems reached, and whether it was; one for each thread.

    Args:
        summed: whether the kernel counts the states that it keeps in float64 on the problem's own coefficients: then
            far fewer states under way need a confirmation.

    Attributes:
        threshold: kernel energy at which to return; minus infinity without a target.
    """

    def __init__(self, problem: BlockProblem, run: Run, arrays: Arrays, *, summed: bool = False) -> None:
        self._problem, self._run, self._arrays = problem, run, arrays
        self._levels: list[float] = []
        self._near = -math.inf
        if run.target is not None:
            half = min(max(arrays.half(run.target), -_FARTHEST), _FARTHEST)
            # Not of the target alone: terms that cancel leave a small energy with their own rounding.
            slack = (_SUMMED_ROUNDING if summed else ROUNDING) * (abs(half) + run.size * arrays.scale / 2.0)
            self._levels = (half + slack * (_HALTS_OF_SUMS if summed else _HALTS)).tolist()
            self._near = half + slack
        self.threshold = self._levels[-1] if self._levels else -math.inf

    def note(self, half: float, state: npt.ArrayLike) -> float:
        """Put a state [n] on the record, and end the run if it reaches the target.

        Args:
            half: the state's kernel energy.
            state: the state.

        Returns:
            The state's energy in half units, counted exactly where it is near the target.
        """
        energy = self._arrays.energy(half)
        if half <= self._near:
            energy = float(self._problem.energy(state))
            self._run.counted = np.asarray(state, np.int8).tobytes(), energy
        self._run.record(energy)
        # Near, but not there: from now on only what looks better than this is worth a halt.
        while self._levels and half <= self._levels[-1]:
            self._levels.pop()
        self.threshold = self._levels[-1] if self._levels else -math.inf
        return self._arrays.half(energy)
