"""Search for the angles of a QAOA circuit.

Angles are [gamma_1 .. gamma_p, beta_1 .. beta_p] in the units of :mod:`solvers.qaoa.ansatz`, so that those of one block
suit another: the landscapes of typical problems are nearly the same (Brandao et al. 2018, arXiv 1812.04170; Shaydulin
et al. 2023, arXiv 2201.11785).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from problems import BlockProblem
from problems.forms import Float64Array
from solvers.qaoa.ansatz import Ansatz
from solvers.qaoa.subspace import Simulation

SUB_BLOCK = 10
"""Variables of the sub-blocks whose angles are transferred: a gradient takes a tenth of a millisecond."""

SUB_BLOCKS = 4
"""Number of sub-blocks on which angles are optimised together before they are transferred."""

_TOLERANCE = 1e-7  # of the objective, in standard deviations of the cost: a search that gains less ends

_TRIALS = 5  # pairs of evaluations from which SPSA estimates the slope of the objective
_FIRST_STEP = 0.3  # radians of its first step
_SHIFT = 0.2  # radians between its evaluations, wide enough for shot noise of a few per cent


@dataclass
class Found:
    """Angles, and the work to find them.

    Attributes:
        angles: [2p].
        value: the objective there, in units of the ansatz's scale.
        evaluations: number of evaluations of the objective (with its gradient, where there is one).
    """

    angles: Float64Array
    value: float
    evaluations: int


Objective = Callable[[Float64Array], tuple[float, Float64Array]]


def ramp(reps: int) -> Float64Array:
    """The linear ramp: gamma rises and beta falls, as in annealing (Sack and Serbyn 2021, arXiv 2101.05742)."""
    middle = (np.arange(reps) + 0.5) / reps
    return np.concatenate([2.0 * middle, 1.0 - middle])


def interpolated(angles: Float64Array) -> Float64Array:
    """Angles for one more layer: INTERP of Zhou et al. 2020 (Phys. Rev. X 10, 021067, arXiv 1812.01041)."""
    longer = []
    for half in np.split(angles, 2):
        p = len(half)
        share = np.arange(p + 1) / p
        longer.append(share * np.append(0.0, half) + (1.0 - share) * np.append(half, 0.0))
    return np.concatenate(longer)


def by_gradients(
    objective_at: Callable[[int], Objective],
    reps: int,
    starts: int,
    iterations: int,
    rng: np.random.Generator,
    should_end: Callable[[], bool],
) -> Found:
    """The best of several descents (L-BFGS-B) on an exact objective.

    The first start is the linear ramp, the second grows layer by layer from one (INTERP), the others are random.

    Args:
        objective_at: the objective, value and gradient by angles, of a number of layers.
        reps: layers.
        starts: number of descents.
        iterations: most steps of each.
        rng: random numbers for the starts.
        should_end: called before each evaluation; True ends the search with the best so far.
    """
    best = Found(ramp(reps), math.inf, 0)
    for start in range(starts):
        if start == 1:
            angles = ramp(1)
            for p in range(1, reps):
                angles = interpolated(_descent(objective_at(p), angles, iterations, should_end, best, keep=False))
        else:
            angles = (
                ramp(reps)
                if start == 0
                else np.asarray(rng.uniform(0.0, 2.0, 2 * reps) * ([1.0] * reps + [0.5] * reps))
            )
        _descent(objective_at(reps), angles, iterations, should_end, best)
        if should_end():
            break
    return best


class _Ended(Exception):
    """Leaves scipy's loop; not an error."""


def _descent(
    objective: Objective,
    angles: Float64Array,
    iterations: int,
    should_end: Callable[[], bool],
    best: Found,
    keep: bool = True,
) -> Float64Array:
    """Descend from given angles and return the best of this descent; `keep` also updates `best`."""
    from scipy.optimize import minimize

    lowest, at = math.inf, angles

    def evaluate(x: Float64Array) -> tuple[float, Float64Array]:
        nonlocal lowest, at
        if should_end():
            raise _Ended
        value, gradient = objective(x)
        best.evaluations += 1
        if value < lowest:
            lowest, at = value, x.copy()
        return value, gradient

    with contextlib.suppress(_Ended):
        minimize(evaluate, angles, jac=True, method="L-BFGS-B", options={"maxiter": iterations, "ftol": _TOLERANCE})
    if keep and lowest < best.value - _TOLERANCE:
        best.value, best.angles = lowest, at
    return at


def on_sampler(
    objective: Callable[[Float64Array], float],
    start: Float64Array,
    iterations: int,
    rng: np.random.Generator,
    should_end: Callable[[], bool],
) -> Found:
    """Descend on a noisy objective by simultaneous perturbation (SPSA; Spall 1992, IEEE Trans. Autom. Control 37, 332).

    Gains fall as Spall 1998 recommends; the first step is scaled to about `_FIRST_STEP` by trial evaluations.

    Args:
        objective: the objective as a sampler estimates it.
        start: initial angles [2p].
        iterations: steps, of two evaluations each.
        rng: random numbers for the directions.
        should_end: called before each step; True ends the search.
    """
    found = Found(start.copy(), math.inf, 0)

    def slope(at: Float64Array, width: float) -> tuple[float, Float64Array]:
        direction = rng.choice([-1.0, 1.0], len(at))
        high, low = objective(at + width * direction), objective(at - width * direction)
        found.evaluations += 2
        return (high - low) / (2.0 * width), direction

    if should_end():
        return found
    steepness = [abs(slope(found.angles, _SHIFT)[0]) for _ in range(_TRIALS)]
    stability = 0.1 * iterations
    gain = _FIRST_STEP / max(float(np.mean(steepness)), 1e-9) * (stability + 1.0) ** 0.602
    for step in range(iterations):
        if should_end():
            break
        derivative, direction = slope(found.angles, _SHIFT / (step + 1.0) ** 0.101)
        change = gain / (stability + step + 1.0) ** 0.602 * derivative
        found.angles = found.angles - np.clip(change, -_FIRST_STEP, _FIRST_STEP) * direction
    before, after = objective(start), objective(found.angles)
    found.evaluations += 2
    if before < after:  # noise made the search worse than its start
        found.angles = start.copy()
    found.value = min(before, after)
    return found


def transferred(
    problem: BlockProblem,
    reps: int,
    mixer: str,
    penalty: float,
    warm: npt.NDArray[np.int8] | None,
    cvar: float,
    starts: int,
    iterations: int,
    rng: np.random.Generator,
    should_end: Callable[[], bool],
) -> Found:
    """Transfer angles: those that are best on average over a few small sub-blocks, for use on the whole problem."""
    parts = [_sub_block(problem, warm, rng) for _ in range(SUB_BLOCKS if problem.n > SUB_BLOCK else 1)]

    def objective_at(p: int) -> Objective:
        simulations = [Simulation.of(sub, Ansatz.of(sub, p, mixer, penalty, start)) for sub, start in parts]

        def objective(angles: Float64Array) -> tuple[float, Float64Array]:
            each = [simulation.value_and_gradient(angles, cvar) for simulation in simulations]
            gradient: Float64Array = np.mean([gradient for _, gradient in each], axis=0)
            return float(np.mean([value for value, _ in each])), gradient

        return objective

    return by_gradients(objective_at, reps, starts, iterations, rng, should_end)


def _sub_block(
    problem: BlockProblem, warm: npt.NDArray[np.int8] | None, rng: np.random.Generator
) -> tuple[BlockProblem, npt.NDArray[np.int8] | None]:
    """A sub-problem of up to `SUB_BLOCK` variables, each group with about its share of ones; the others are fixed.

    Returned with the sub-block's part of the warm start, at which the other variables are then fixed.
    """
    x = problem.random_states(1, rng)[0] if warm is None else warm
    if problem.n <= SUB_BLOCK:
        return problem, warm
    chosen: list[int] = []
    members = problem.constraint.members()
    for g in rng.permutation(len(members)):
        ones, zeros = (rng.permutation(members[g][x[members[g]] == one]) for one in (1, 0))
        room = min(SUB_BLOCK - len(chosen), len(members[g]))
        if room < 2 or not len(ones) or not len(zeros):
            continue
        share = min(max(round(room * len(ones) / len(members[g])), 1, room - len(zeros)), room - 1, len(ones))
        chosen += [*ones[:share].tolist(), *zeros[: room - share].tolist()]
    indices = np.sort(chosen)
    return problem.restrict(indices, x), None if warm is None else x[indices]


def parsed(angles: Sequence[float] | str) -> tuple[float, ...]:
    """Angles given as numbers, or as text with commas or semicolons between them.

    Raises:
        ValueError: a value that is not a finite number, or an odd number of values.
    """
    parts = angles.replace(";", ",").split(",") if isinstance(angles, str) else list(angles)
    numbers = tuple(float(part) for part in parts)
    if not numbers or len(numbers) % 2 or not all(map(math.isfinite, numbers)):
        raise ValueError("an even number of finite angles is needed")
    return numbers
