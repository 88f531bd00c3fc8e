"""Statistics: time to solution with bootstrap intervals, sign tests, Holm correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
LEVEL = 0.95
"""Coverage of bootstrap intervals."""

CONFIDENCE = 0.99
"""Success probability of the time to solution."""

NOISE = 0.05
"""Significance level: differences with p at or above it are noise."""

_ENOUGH = 0.5  # success probability from which restart times are considered

_FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % bootstrap interval; infinity for never."""

    value: float
    low: float
    high: float


def time_to_solution(hits: Sequence[float], seed: int = 0) -> Interval:
    """TTS99: run time, with restarts, after which a solver has found the target with probability 0.99.

    t ln(0.01) / ln(1 - s(t)), minimised over t, where s(t) is the probability that a run has found the target after t
    seconds; t itself once s(t) reaches 0.99. (Ronnow et al. 2014, Science 345, 420.)

    s(t) is estimated as k / (n + 1), so that n of n successes do not give 1. Only times with s(t) of at least one half
    are considered, or the last success if there are none: the first successes of a few runs are lucky. The interval is
    from a Bayesian bootstrap (Rubin 1981) with one additional run that never finds the target; it is conservative for
    few runs.

    Args:
        hits: seconds after which each run found the target; infinity if it did not.
        seed: seed of the resampling.
    """
    times = np.sort(np.array(hits, np.float64))
    drawn = np.random.default_rng(seed).dirichlet(np.ones(len(times) + 1), RESAMPLES)
    again = _least(times, np.cumsum(drawn[:, :-1], axis=1))
    tail = (1.0 - LEVEL) / 2.0
    low, high = (float(np.quantile(again, q, method="nearest")) for q in (tail, 1.0 - tail))
    return Interval(least_time(hits), low, high)


def least_time(hits: Sequence[float]) -> float:
    """The value of :func:`time_to_solution` without its interval."""
    times = np.sort(np.array(hits, np.float64))
    return float(_least(times, np.arange(1, len(times) + 1)[None] / (len(times) + 1))[0])


def _least(times: _FloatArray, shares: _FloatArray) -> _FloatArray:
    """The minimal TTS99 [b] for sorted hit times [runs] and success probabilities [b, runs] at these times."""
    found = int(np.isfinite(times).sum())
    if not found:
        return np.full(len(shares), math.inf)
    times, shares = times[:found], np.minimum(shares[:, :found], 1.0)
    with np.errstate(divide="ignore"):
        repeats = np.maximum(1.0, math.log(1.0 - CONFIDENCE) / np.log1p(-shares))
    return np.asarray(np.where(shares >= np.minimum(_ENOUGH, shares[:, -1:]), times * repeats, math.inf).min(axis=1))


@dataclass(frozen=True)
class SignTest:
    """A sign test over paired figures.

    Attributes:
        wins: pairs in which the first is better.
        losses: pairs in which the second is better.
        ties: equal pairs; the test ignores them.
        p: two-sided p-value.
    """

    wins: int
    losses: int
    ties: int
    p: float

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return self.wins + self.losses + self.ties

    @property
    def reversed(self) -> SignTest:
        """The test of the second against the first."""
        return SignTest(self.losses, self.wins, self.ties, self.p)

    @property
    def noise(self) -> bool:
        """Whether the difference is not significant."""
        return self.p >= NOISE


def sign_test(first: Sequence[float], second: Sequence[float], tolerances: Sequence[float] | float = 0.0) -> SignTest:
    """Two-sided sign test of whether the first or the second has the smaller values.

    Args:
        first: figures of the first; smaller is better, infinity for never.
        second: figures of the second, in the same order.
        tolerances: differences up to these are ties.
    """
    from scipy.stats import binomtest

    a, b = np.array(first, np.float64), np.array(second, np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, a - b)  # inf - inf is nan; it counts as a tie
    wins = int((difference < -np.asarray(tolerances)).sum())
    losses = int((difference > np.asarray(tolerances)).sum())
    p = float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0
    return SignTest(wins, losses, len(a) - wins - losses, p)


def corrected(tests: Sequence[SignTest]) -> list[SignTest]:
    """The tests with p-values corrected for multiple testing (Holm); tests without pairs are not counted."""
    adjusted = iter(holm([test.p for test in tests if test.pairs]))
    return [replace(test, p=next(adjusted)) if test.pairs else test for test in tests]


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for multiple testing, in the given order (Holm 1979)."""
    order = np.argsort(values, kind="stable")
    adjusted, highest = [1.0] * len(values), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[at]))
        adjusted[at] = highest
    return adjusted
