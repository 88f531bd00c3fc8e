"""What a block problem consists of: coefficients, cardinality, labels, provenance, best known energy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from problems.cardinality import Cardinality
from problems.errors import ProblemError
from problems.forms import DenseForm, Float64Array, LowRankForm, QuadraticForm, finite_floats


@dataclass(frozen=True, eq=False)
class Labels:
    """Which weight each variable is.

    Attributes:
        parameter: number of the parameter (layer) in the model's own order, int32 [n].
        index: flat index of the weight within that parameter, int64 [n].
    """

    parameter: npt.NDArray[np.int32]
    index: npt.NDArray[np.int64]


@dataclass(frozen=True)
class BestKnown:
    """The lowest energy found so far for a problem.

    Attributes:
        energy: that energy.
        proven: whether it is proven optimal.
        found_by: the solver or the publication it comes from, as text for people.
    """

    energy: float
    proven: bool = False
    found_by: str = ""


@dataclass(frozen=True, eq=False)
class ProblemData:
    """The parts of a block problem, without its methods: what file readers and conversions return.

    The class methods check their arguments; the constructor does not. :meth:`problems.BlockProblem.of` makes a problem
    of it, and each :class:`problems.BlockProblem` is one.

    Attributes:
        form: the quadratic part.
        linear: linear coefficients c, float64 [n]; with the diagonal of Q in the dense and the scaled form.
        offset: a constant added to every energy.
        constraint: the demanded number of ones.
        labels: which weight each variable is, or None.
        provenance: where the block comes from, as JSON values.
        best_known: the lowest energy known, or None.
    """

    form: QuadraticForm
    linear: Float64Array
    offset: float
    constraint: Cardinality
    labels: Labels | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    best_known: BestKnown | None = None

    @staticmethod
    def of_form(
        form: QuadraticForm,
        linear: npt.ArrayLike | None,
        cardinality: Any,
        *,
        offset: float = 0.0,
        groups: npt.ArrayLike | None = None,
        labels: Labels | None = None,
        provenance: Mapping[str, Any] | None = None,
        best_known: BestKnown | None = None,
        diagonal: Float64Array | None = None,
    ) -> ProblemData:
        """Check everything but the form, which was checked when it was made.

        Args:
            form: the quadratic part.
            linear: linear coefficients [n]; None for zeros.
            cardinality: demanded number of ones, or one number for each group [g].
            offset: a constant added to every energy.
            groups: group of each variable, integers 0..g-1 [n]; None for a single group.
            labels: which weight each variable is.
            provenance: where the block comes from, as JSON values.
            best_known: the lowest energy known.
            diagonal: a diagonal of Q to add to `linear` [n].

        Raises:
            ProblemError: shapes that do not fit, coefficients that are not finite, an impossible cardinality.
        """
        n = form.n
        c = np.zeros(n) if linear is None else np.asarray(linear)
        if c.shape != (n,):
            raise ProblemError(f"linear has shape {c.shape}; Q has {n} variables, so [{n}] is needed")
        c = finite_floats(c, "linear").astype(np.float64)
        if diagonal is not None:
            with np.errstate(over="ignore"):
                c += diagonal
            if not np.isfinite(c).all():
                raise ProblemError("linear and the diagonal of Q have a sum that is not finite; scale the problem")
        c.flags.writeable = False
        if not np.isfinite(offset):
            raise ProblemError(f"offset is {offset}; it must be finite")
        if cardinality is None:
            raise ProblemError(f"a block problem needs cardinality=, the number of ones among its {n} variables")
        return ProblemData(
            form, c, float(offset), Cardinality.of(cardinality, groups, n),
            None if labels is None else _checked_labels(labels, n), dict(provenance or {}), best_known,
        )  # fmt: skip

    @staticmethod
    def dense(
        Q: npt.ArrayLike, linear: npt.ArrayLike | None = None, cardinality: Any = None, **others: Any
    ) -> ProblemData:
        """Parts in dense form from a symmetric or triangular Q [n, n]; see :class:`problems.BlockProblem`.

        Args:
            Q: quadratic coefficients [n, n]; a diagonal is moved into the linear term.
            linear: linear coefficients [n]; None for zeros.
            cardinality: demanded number of ones, or one number for each group [g].
            others: keywords of :meth:`of_form`.
        """
        form, diagonal = DenseForm.split(Q)
        return ProblemData.of_form(form, linear, cardinality, diagonal=diagonal, **others)

    @property
    def n(self) -> int:
        """Number of variables."""
        return self.form.n

    @property
    def cardinality(self) -> int | npt.NDArray[np.int64]:
        """The demanded number of ones, or with groups one number for each [g]."""
        return self.constraint.counts if self.groups is not None else self.constraint.total

    @property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """Group of each variable [n], or None for a single group."""
        return self.constraint.groups if len(self.constraint.counts) > 1 else None

    @property
    def is_low_rank(self) -> bool:
        """Whether the quadratic part is stored as a factor."""
        return isinstance(self.form, LowRankForm)

    def replaced(self, **changes: Any) -> Self:
        """The same object with some attributes changed; they are not checked."""
        twin = object.__new__(type(self))
        for each in fields(self):
            object.__setattr__(twin, each.name, changes.get(each.name, getattr(self, each.name)))
        return twin


def _checked_labels(labels: Labels, n: int) -> Labels:
    def checked(name: str, dtype: type[np.int32 | np.int64]) -> npt.NDArray[Any]:
        given = np.asarray(getattr(labels, name))
        if given.shape != (n,):
            raise ProblemError(f"labels.{name} has shape {given.shape}; the block's {n} variables need [{n}]")
        array = given.astype(dtype)
        if n and (given.dtype.kind not in "iu" or not np.array_equal(array, given) or array.min() < 0):
            raise ProblemError(f"labels.{name} must hold integers >= 0 that fit {np.dtype(dtype)}")
        array.flags.writeable = False
        return array

    return Labels(checked("parameter", np.int32), checked("index", np.int64))
