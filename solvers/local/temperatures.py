"""The range of temperatures that suits a problem, read off its own changes of energy."""

from __future__ import annotations

import numpy as np

from solvers.local.arrays import Float32Array

HOT, COLD = 0.2, 0.1
"""The first temperature is a fifth of the median change of energy by a random move at a local optimum, the last a
tenth of its 1 % quantile: measured on real blocks and on MDPLIB instances, whose two quantiles lie a factor of 400
and of 4 apart."""


def temperature_range(changes: Float32Array) -> tuple[float, float]:
    """The first and the last temperature.

    Args:
        changes: changes of energy by random moves of a local optimum [t]. Moves that change nothing, as many do on
            integer instances, are left out, so both temperatures are positive.
    """
    sizes = np.abs(changes[changes != 0.0])
    if not len(sizes):
        return 1.0, 1.0  # nothing changes anything: any temperature is as good
    middle, low = np.quantile(sizes, [0.5, 0.01])
    return HOT * float(middle), min(COLD * float(low), HOT * float(middle))
