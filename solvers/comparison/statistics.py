"""The statistics of a race: time to solution with bootstrap intervals, sign tests, and many tests at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
LEVEL = 0.95
"""Of bootstrap intervals."""

CONFIDENCE = 0.99
"""With which time to solution is to have found it."""

NOISE = 0.05
"""A difference whose p-value is not below this is noise."""

_ENOUGH = 0.5  # share of the runs, before which no time counts as one to begin anew after

_FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure, and the interval in which it lies for 95 of 100 resamples of the runs; infinity for never."""

    value: float
    low: float
    high: float


def time_to_solution(hits: Sequence[float], seed: int = 0) -> Interval:
    """TTS99: seconds after which a solver that is run again and again has found the target with probability 0.99.

    t ln(0.01) / ln(1 - s(t)), where s(t) is the chance of a run to have found it after t seconds, for the t that makes
    it least; t itself where s(t) is 0.99 or more. (Ronnow et al. 2014, Science 345, 420.)

    What k of n runs had found after t is taken for a chance of k / (n + 1), the mean of such an order statistic: n of n
    are no certainty. And the least is looked for where s(t) is a half or more, or at the last success where it never
    is: among the first successes of a few runs one is always lucky. The interval is that of a Bayesian bootstrap (Rubin
    1981) in which one more run never finds the target. It errs towards the wide side with few runs.

    Args:
        hits: seconds after which each run found the target, infinity where it did not.
        seed: of the resampling.
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
    """The least TTS99 [b] of hit times in order [runs], by the shares of runs that were there by each [b, runs]."""
    found = int(np.isfinite(times).sum())
    if not found:
        return np.full(len(shares), math.inf)
    times, shares = times[:found], np.minimum(shares[:, :found], 1.0)
    with np.errstate(divide="ignore"):
        repeats = np.maximum(1.0, math.log(1.0 - CONFIDENCE) / np.log1p(-shares))
    return np.asarray(np.where(shares >= np.minimum(_ENOUGH, shares[:, -1:]), times * repeats, math.inf).min(axis=1))


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
    def pairs(self) -> int:
        """How many pairs there are; with none, nothing has been compared."""
        return self.wins + self.losses + self.ties

    @property
    def reversed(self) -> SignTest:
        """The same, of the second against the first."""
        return SignTest(self.losses, self.wins, self.ties, self.p)

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


def for_all_together(tests: Sequence[SignTest]) -> list[SignTest]:
    """The same tests with p-values for all of them together (Holm); those that compared nothing count for nothing."""
    adjusted = iter(holm([test.p for test in tests if test.pairs]))
    return [replace(test, p=next(adjusted)) if test.pairs else test for test in tests]


def holm(values: Sequence[float]) -> list[float]:
    """P-values for all of several tests together, in their order (Holm 1979)."""
    order = np.argsort(values, kind="stable")
    adjusted, highest = [1.0] * len(values), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[at]))
        adjusted[at] = highest
    return adjusted
