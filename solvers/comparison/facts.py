"""Properties of a problem, independent of the compared solvers: size, form, coefficients, random states, descents."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from problems import BestKnown, BlockProblem, LowRankForm, ScaledForm, instances
from solvers.precision import EXACT_ROUNDING, size_of_terms
from solvers.remote.ledger import fingerprint

DESCENTS = 100
"""Plain descents from random states, for up to `_WHOLE` variables; a fifth of it for larger problems."""

_WHOLE, _MOST = 1024, 4096  # variables; above, a descent takes minutes
_PRINTED = 0.0051  # MDPLIB prints best values with two decimals
_ROWS = 64  # sampled rows for the density of Q = V V^T, where it is too large to compute

SAME = 1e-9
"""Energies that differ by less than this gap count as equal."""


@dataclass(frozen=True)
class Facts:
    """Properties of a problem.

    Attributes:
        name: its name in tables.
        origin: its file or instance set.
        n: number of variables.
        ones: required ones, over all groups.
        groups: number of cardinality constraints.
        form: "dense", "low-rank" or "scaled".
        rank: columns of the factor; None for other forms.
        density: share of nonzero off-diagonal entries of Q; of sampled rows if the factor is large.
        fingerprint: hash of coefficients and cardinality.
        random_mean: mean energy of random feasible states, in closed form; the gap there is 1.
        rounding: bound on the rounding error of an energy, also of a recorded one.
        coefficients: nonzero coefficients of objective and constraints; of the factor in low-rank form.
        least, most: smallest and largest coefficient; for a pair of variables 2 Q_ij.
        whole: whether all coefficients are integers.
        best_known: the best known energy in the problem's file, or None.
        tries: plain swap descents from random states; 0 if none were run.
        descents: final energies of the descents; empty if only `found` is on record.
        found: recorded number of descents that found the best known energy, or None.
    """

    name: str
    origin: str
    n: int
    ones: int
    groups: int
    form: str
    rank: int | None
    density: float
    fingerprint: str
    random_mean: float
    rounding: float
    coefficients: int
    least: float
    most: float
    whole: bool
    best_known: BestKnown | None
    tries: int = 0
    descents: tuple[float, ...] = ()
    found: int | None = None

    @classmethod
    def of(cls, name: str, origin: str, problem: BlockProblem, descent: tuple[int, int] | None = None) -> Facts:
        """Compute the properties of a problem.

        Args:
            name: its name.
            origin: its file or instance set.
            problem: the problem.
            descent: recorded numbers of descents: run, and ended in the best known energy. Looked up for exported
                benchmark instances; otherwise the descents are run.
        """
        descent = descent or _on_record(problem)
        form = "low-rank" if problem.is_low_rank else "scaled" if isinstance(problem.form, ScaledForm) else "dense"
        energies = () if descent is not None else _descended(problem)
        return cls(
            name, origin, problem.n, problem.constraint.total, len(problem.constraint.counts), form,
            problem.form.rank if isinstance(problem.form, LowRankForm) else None, _density(problem),
            fingerprint(problem), problem.random_mean_energy(), _rounding(problem), *_coefficients(problem),
            problem.best_known, len(energies) if descent is None else descent[0], energies,
            None if descent is None else descent[1],
        )  # fmt: skip

    def record(self) -> dict[str, Any]:
        """The properties as JSON values, without the name."""
        values = asdict(self)
        del values["name"]
        return values

    @classmethod
    def of_record(cls, name: str, record: Mapping[str, Any]) -> Facts:
        """Restore from the output of :meth:`record`.

        Raises:
            ValueError, TypeError, KeyError: a field is missing, unknown or has the wrong type.
        """
        best = record["best_known"]
        values = {**record, "best_known": best and BestKnown(**best), "descents": tuple(record["descents"])}
        facts = cls(name, **values)
        for field, kind in typing.get_type_hints(cls).items():
            if not _fits(getattr(facts, field), kind):
                raise ValueError(f"problem {name!r}: {field} is {getattr(facts, field)!r:.100}")
        return facts

    def renewed(self, best: BestKnown | None) -> Facts:
        """These properties with a newer best known energy, if that is lower or proven."""
        held = self.best_known
        if best is None:
            return self
        if held is None:
            return replace(self, best_known=best)
        tolerance = self.tolerance(held.energy)
        lower = best.energy < held.energy - tolerance
        proven = best.proven and not held.proven and best.energy <= held.energy + tolerance
        if not lower and not proven:
            return self
        # The recorded descents reached the old energy only.
        return replace(self, best_known=best, found=0 if lower and self.found is not None else self.found)

    def tolerance(self, best: float) -> float:
        """Difference up to which an energy counts as equal to the best one."""
        return max(SAME * (self.random_mean - best), self.rounding)

    def gap(self, energy: float, best: float) -> float:
        """Normalised gap: 0 at the best energy, 1 at the mean of random feasible states."""
        above, scale = energy - best, self.random_mean - best
        if above <= self.tolerance(best):
            return 0.0
        return above / scale if scale > 0.0 else float("inf")

    def descent_rate(self, best: float) -> float | None:
        """Share of plain descents that end in the best energy; None if none were run."""
        if not self.tries:
            return None
        if self.found is not None and self.best_known is not None:
            # A solver went below the record, so the recorded descents did not find the best energy.
            beaten = best < self.best_known.energy - self.tolerance(best)
            return 0.0 if beaten else self.found / self.tries
        return sum(energy <= best + self.tolerance(best) for energy in self.descents) / self.tries

    def easy(self, best: float) -> bool:
        """Whether more than half of the plain descents find the best energy; headlines leave such problems out."""
        rate = self.descent_rate(best)
        return rate is not None and rate > 0.5


def _on_record(problem: BlockProblem) -> tuple[int, int] | None:
    """Recorded descents of a benchmark instance, if the problem names one and its best known state has that energy."""
    name = problem.provenance.get("instance")
    if not isinstance(name, str) or name not in instances.names():
        return None
    known = instances.facts(name)
    if (problem.n, problem.constraint.total, problem.groups) != (known.n, known.cardinality, None):
        return None
    best = known.best_known.energy
    same = abs(problem.energy(known.best()) - best) <= SAME * abs(problem.random_mean_energy() - best)
    return (known.descent.tries, known.descent.found) if same else None


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON has the type of its field."""
    if isinstance(kind, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return all(_fits(each, float) for each in value)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return type(value) is kind and all(_fits(getattr(value, name), hints[name]) for name in hints)
    return type(value) in ((int, float) if kind is float else (kind,))


def _rounding(problem: BlockProblem) -> float:
    summed = 10.0 * EXACT_ROUNDING * (size_of_terms(problem) + abs(problem.offset))
    return max(summed, _PRINTED) if problem.provenance.get("method") == "MDPLIB" else summed


def _density(problem: BlockProblem) -> float:
    n, form = problem.n, problem.form
    if n < 2:
        return 0.0
    if not isinstance(form, LowRankForm) or n <= _MOST:
        matrix = form.dense()
        return float((np.count_nonzero(matrix) - np.count_nonzero(np.diagonal(matrix))) / (n * (n - 1)))
    rows = np.linspace(0, n - 1, _ROWS).astype(int)
    return float(np.mean([np.count_nonzero(np.delete(form.row(int(i)), i)) for i in rows]) / (n - 1))


def _coefficients(problem: BlockProblem) -> tuple[int, float, float, bool]:
    """Number of nonzero coefficients, the smallest, the largest, and whether all are integers."""
    form, linear = problem.form, problem.linear[problem.linear != 0]
    if isinstance(form, LowRankForm):
        quadratic = form.factor[form.factor != 0]
        count = len(quadratic)
    else:
        matrix = form.dense()
        quadratic = 2.0 * matrix[matrix != 0]  # Q is symmetric: each pair occurs twice
        count = len(quadratic) // 2
    parts = [part for part in (quadratic, linear, np.ones(1)) if len(part)]  # the last: coefficients of the constraints
    return (
        count + len(linear) + problem.n,
        min(float(part.min()) for part in parts),
        max(float(part.max()) for part in parts),
        all(bool(np.all(part == np.trunc(part))) for part in parts),
    )


def _descended(problem: BlockProblem) -> tuple[float, ...]:
    if problem.n > _MOST:
        return ()
    from solvers.local.repair import polish

    count = DESCENTS if problem.n <= _WHOLE else DESCENTS // 5
    states = polish(problem, problem.random_states(count, 0))
    return tuple(float(energy) for energy in problem.energy(states))
