"""The statistics of a race: time to solution with bootstrap intervals, sign tests, and many tests at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
LEVEL = 0.95
"""Of bootstrap intervals."""

CONFIDENCE = 0.99
"""With which time to solution is to have found it."""

NOISE = 0.05
"""A difference whose p-value is not below this is noise."""

_FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure, and the interval in which it lies for 95 of 100 resamples of the runs; infinity for never."""

    value: float
    low: float
    high: float


def time_to_solution(hits: Sequence[float], seed: int = 0) -> Interval:
    """TTS99: seconds after which a solver that is run again and again has found the target with probability 0.99.

    t ln(0.01) / ln(1 - s(t)), where s(t) is the share of runs that had found it after t seconds, for the t that makes
    it least; t itself where s(t) is 0.99 or more. (Ronnow et al. 2014, Science 345, 420.) With few runs the least
    is found on luck too, which the interval shows and the value does not.

    Args:
        hits: seconds after which each run found the target, infinity where it did not.
        seed: of the resampling.
    """
    times = np.array(hits, np.float64)
    if not len(times):
        return Interval(math.inf, math.inf, math.inf)
    drawn = np.random.default_rng(seed).integers(0, len(times), (RESAMPLES, len(times)))
    again = _least(times[drawn])
    tail = (1.0 - LEVEL) / 2.0
    # Order statistics, not means of two: between a number and infinity there is nothing.
    low, high = (float(np.quantile(again, q, method="nearest")) for q in (tail, 1.0 - tail))
    return Interval(float(_least(times[None])[0]), low, high)


def _least(times: _FloatArray) -> _FloatArray:
    """The least TTS99 of each row of hit times [b, runs]."""
    runs = times.shape[1]
    share = np.arange(1, runs + 1) / runs
    with np.errstate(divide="ignore"):
        repeats = np.maximum(1.0, math.log(1.0 - CONFIDENCE) / np.log1p(-share))
    return np.asarray((np.sort(times, axis=1) * repeats).min(axis=1))


@dataclass(frozen=True)
class SignTest:
    """One against another, pair by pair.

    Attributes:
        wins: pairs in which the first was better.
        losses: pairs in which the second was.
        ties: pairs that were equal, which tell nothing.
        p: probability of so uneven a count, or a more uneven one, if neither were better.
    """

    wins: int
    losses: int
    ties: int
    p: float

    @property
    def noise(self) -> bool:
        """Whether the difference may well be chance."""
        return self.p >= NOISE


def sign_test(first: Sequence[float], second: Sequence[float], tolerances: Sequence[float] | float = 0.0) -> SignTest:
    """Whether the smaller values are the first's or the second's more often than a coin would have it, two-sided.

    Args:
        first: figures of one, smaller is better; infinity for never.
        second: those of the other, on the same pairs.
        tolerances: differences up to this are ties.
    """
    from scipy.stats import binomtest

    a, b = np.array(first, np.float64), np.array(second, np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, a - b)  # infinity from infinity is no difference
    wins = int((difference < -np.asarray(tolerances)).sum())
    losses = int((difference > np.asarray(tolerances)).sum())
    p = float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0
    return SignTest(wins, losses, len(a) - wins - losses, p)


def holm(values: Sequence[float]) -> list[float]:
    """P-values for all of several tests together, in their order (Holm 1979)."""
    order = np.argsort(values, kind="stable")
    adjusted, highest = [1.0] * len(values), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[at]))
        adjusted[at] = highest
    return adjusted
