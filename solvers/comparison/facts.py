"""What is known of a problem before anybody races on it: its size and form, random states, and how easy it is."""

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
"""Random states that are descended from, on problems of up to `_WHOLE` variables; larger ones get a fifth."""

_WHOLE, _MOST = 1024, 4096  # variables; beyond, a descent takes minutes
_PRINTED = 0.0051  # MDPLIB's best values are printed with two digits
_ROWS = 64  # of a factor too large to multiply out, whose couplings tell the density of Q

SAME = 1e-9
"""Share of the way from the best known energy to a random state's by which energies differ and count as equal."""


@dataclass(frozen=True)
class Facts:
    """What is known of a problem.

    Attributes:
        name: as tables call it.
        origin: the file or set it came from.
        n: variables.
        ones: demanded ones, over all groups.
        groups: groups with a cardinality each; 1 for a single one.
        form: "dense", "low-rank" or "scaled".
        rank: columns of the factor; None for other forms.
        density: share of pairs of variables that are coupled; of a sample of rows where the factor is large.
        fingerprint: of coefficients and cardinality.
        random_mean: mean energy of a uniformly random feasible state, in closed form: where a gap is 1.
        rounding: by how much one state's energies may differ, summed in another order, or printed in a record.
        coefficients: numbers in objective and constraint that are not zero: those of the factor, where there is one.
        least, most: the smallest and the largest of them; of a pair of variables, what multiplies x_i x_j: 2 Q_ij.
        whole: whether all are whole numbers.
        best_known: on record with the problem, or None.
        tries: random states that plain descent by swaps began from; 0 where nobody tried.
        descents: energies in which they ended; empty where only the record tells how many found the best known one.
        found: how many found the best known energy by the record, where it says so.
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
        """Look at a problem.

        Args:
            name: its name.
            origin: where it is from.
            problem: the problem.
            descent: how many descents were tried and found the best known energy, where that is on record; what was
                exported from the benchmark set is looked up there.
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
        """As JSON values, without the name."""
        values = asdict(self)
        del values["name"]
        return values

    @classmethod
    def of_record(cls, name: str, record: Mapping[str, Any]) -> Facts:
        """From what :meth:`record` gave.

        Raises:
            ValueError, TypeError, KeyError: a field is missing, unknown or of another kind.
        """
        best = record["best_known"]
        values = {**record, "best_known": best and BestKnown(**best), "descents": tuple(record["descents"])}
        facts = cls(name, **values)
        for field, kind in typing.get_type_hints(cls).items():
            if not _fits(getattr(facts, field), kind):
                raise ValueError(f"problem {name!r}: {field} is {getattr(facts, field)!r:.100}")
        return facts

    def renewed(self, best: BestKnown | None) -> Facts:
        """With the record of somebody who has found a lower energy since, or proven this one."""
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
        # Descents that found the old record did not find a lower one.
        return replace(self, best_known=best, found=0 if lower and self.found is not None else self.found)

    def tolerance(self, best: float) -> float:
        """By how much an energy may lie above the best one and be it nevertheless."""
        return max(SAME * (self.random_mean - best), self.rounding)

    def gap(self, energy: float, best: float) -> float:
        """0 at the best energy, 1 at the mean of random feasible states: offsets and units cancel."""
        above, scale = energy - best, self.random_mean - best
        if above <= self.tolerance(best):
            return 0.0
        return above / scale if scale > 0.0 else float("inf")

    def descent_rate(self, best: float) -> float | None:
        """Share of plain descents from random states that end in the best energy; None where nobody tried."""
        if not self.tries:
            return None
        if self.found is not None and self.best_known is not None:
            # A race that went below the record has shown that those descents did not find the best.
            beaten = best < self.best_known.energy - self.tolerance(best)
            return 0.0 if beaten else self.found / self.tries
        return sum(energy <= best + self.tolerance(best) for energy in self.descents) / self.tries

    def easy(self, best: float) -> bool:
        """Whether more than half of the plain descents find the best energy: no matter for a headline."""
        rate = self.descent_rate(best)
        return rate is not None and rate > 0.5


def _on_record(problem: BlockProblem) -> tuple[int, int] | None:
    """Descents of the instance of the benchmark set that a problem says to be, and is."""
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
    """Whether a value that JSON gave is of the kind that a field has."""
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
    """How many coefficients are not zero, the smallest, the largest, and whether all are whole."""
    form, linear = problem.form, problem.linear[problem.linear != 0]
    if isinstance(form, LowRankForm):
        quadratic = form.factor[form.factor != 0]
        count = len(quadratic)
    else:
        matrix = form.dense()
        quadratic = 2.0 * matrix[matrix != 0]  # both halves of Q, of which each pair is one coefficient
        count = len(quadratic) // 2
    parts = [part for part in (quadratic, linear, np.ones(1)) if len(part)]  # the last: what the constraint has
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
