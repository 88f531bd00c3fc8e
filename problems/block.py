"""The block problem: a quadratic function of n binary variables with a fixed number of ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from problems import formats
from problems.data import BestKnown, Labels, ProblemData
from problems.errors import ProblemError
from problems.forms import DenseForm, Float64Array, LowRankForm, ScaledForm, SharedMatrix, StateArray

if TYPE_CHECKING:
    import dimod


@dataclass(frozen=True, eq=False, init=False, repr=False)
class BlockProblem(ProblemData):
    """Minimise E(x) = x^T Q x + c.x + offset over x in {0, 1}^n with a fixed number of ones.

    The problem of one step of iterative Combinatorial Brain Surgeon: x_i = 1 prunes weight i of the block, and E is
    the change of the loss that the quadratic model predicts (Rosenberg et al. 2024, arXiv 2411.17796). The variables
    are 0..n-1.

    Args:
        Q: quadratic coefficients [n, n], symmetric or triangular; a diagonal is moved into the linear term.
        linear: linear coefficients c [n]; None for zeros.
        cardinality: demanded number of ones, or one number for each group [g].
        offset: a constant added to every energy.
        groups: group of each variable, integers 0..g-1 [n], for N:M patterns; None for a single group.
        labels: which weight each variable is.
        provenance: where the block comes from (JSON values): layer names, step, seed, model fingerprint, method.
        best_known: the lowest energy known, or None.

    Raises:
        ProblemError: shapes that do not fit, coefficients that are not finite, an impossible cardinality.

    Example:
        >>> problem = BlockProblem([[0, 2], [0, 0]], [1.0, 3.0], cardinality=1)
        >>> problem.energy([0, 1]), problem.energy([1, 1])
        (3.0, 6.0)
    """

    def __init__(
        self,
        Q: npt.ArrayLike,
        linear: npt.ArrayLike | None = None,
        cardinality: int | npt.ArrayLike | None = None,
        *,
        offset: float = 0.0,
        groups: npt.ArrayLike | None = None,
        labels: Labels | None = None,
        provenance: Mapping[str, Any] | None = None,
        best_known: BestKnown | None = None,
    ) -> None:
        data = ProblemData.dense(
            Q, linear, cardinality, offset=offset, groups=groups, labels=labels, provenance=provenance,
            best_known=best_known,
        )  # fmt: skip
        self.__dict__.update(data.__dict__)

    @classmethod
    def low_rank(
        cls,
        A: npt.ArrayLike,
        linear: npt.ArrayLike | None = None,
        cardinality: int | npt.ArrayLike | None = None,
        *,
        offset: float = 0.0,
        groups: npt.ArrayLike | None = None,
        labels: Labels | None = None,
        provenance: Mapping[str, Any] | None = None,
        best_known: BestKnown | None = None,
    ) -> BlockProblem:
        """Build E(x) = |A^T x|^2 + c.x + offset from a factor A [n, r], float32 or float64, which is not copied.

        Unlike in the dense form, c does not include the diagonal of A A^T. Other arguments and errors are those of
        :class:`BlockProblem`.
        """
        data = ProblemData.of_form(
            LowRankForm.of(A), linear, cardinality, offset=offset, groups=groups, labels=labels, provenance=provenance,
            best_known=best_known,
        )  # fmt: skip
        return cls.of(data)

    @classmethod
    def scaled(
        cls,
        B: npt.ArrayLike | SharedMatrix,
        s: npt.ArrayLike,
        linear: npt.ArrayLike | None = None,
        cardinality: int | npt.ArrayLike | None = None,
        *,
        offset: float = 0.0,
        groups: npt.ArrayLike | None = None,
        labels: Labels | None = None,
        provenance: Mapping[str, Any] | None = None,
        best_known: BestKnown | None = None,
    ) -> BlockProblem:
        """Build E(x) = r^T B r + c.x + offset, r = s * x, from a symmetric matrix B [n, n] and scales s [n].

        Problems made from one B hold it by reference, so that thousands take little more memory than one. A
        :class:`SharedMatrix` of it is checked once instead of once a problem. As in the dense form, the diagonal of Q
        is moved into the linear term. Other arguments and errors are those of :class:`BlockProblem`.

        Example:
            >>> rows = [BlockProblem.scaled([[2, 1], [1, 3]], w, cardinality=1) for w in ([1, 1], [1, -2])]
            >>> [row.energy([0, 1]) for row in rows]
            [3.0, 12.0]
        """
        form, diagonal = ScaledForm.split(B, s)
        data = ProblemData.of_form(
            form, linear, cardinality, offset=offset, groups=groups, labels=labels, provenance=provenance,
            best_known=best_known, diagonal=diagonal,
        )  # fmt: skip
        return cls.of(data)

    @classmethod
    def of(cls, data: ProblemData) -> BlockProblem:
        """The problem of checked parts; a problem is returned as it is."""
        if isinstance(data, BlockProblem):
            return data
        problem = object.__new__(cls)
        problem.__dict__.update(data.__dict__)
        return problem

    @property
    def single_energies(self) -> Float64Array:
        """Energy of each variable alone, without the offset: c plus the diagonal of Q in every form [n]."""
        return self.linear + self.form.diagonal

    def __repr__(self) -> str:
        form = f"rank {self.form.rank}" if isinstance(self.form, LowRankForm) else "dense"
        form = "scaled" if isinstance(self.form, ScaledForm) else form
        ones = self.constraint.total
        grouped = f" in {len(self.constraint.counts)} groups" if self.groups is not None else ""
        return f"<BlockProblem n={self.n} cardinality={ones}{grouped} {form} {self.form.dtype}>"

    # Energies

    def energy(self, X: npt.ArrayLike) -> Any:
        """Energy of one state [n] (a float) or of a batch [b, n] (float64 [b]), accumulated in float64.

        Solvers report energies that are recomputed here. Infeasible states have energies too.

        Raises:
            ProblemError: the shape does not fit, or an entry is neither 0 nor 1.
        """
        states, single = self.checked_states(X)
        energies = np.asarray(self.form.energies(states) + states @ self.linear + self.offset)
        return float(energies[0]) if single else energies

    def local_fields(self, X: npt.ArrayLike) -> Float64Array:
        """Energy that each variable adds if it is one and the others are unchanged: [n], or [b, n] for a batch.

        h_i = c_i + Q_ii + 2 sum_{j != i} Q_ij x_j. Flipping i changes the energy by (1 - 2 x_i) h_i.
        """
        states, single = self.checked_states(X)
        fields = self.single_energies + 2.0 * self.form.products(states)
        return fields[0] if single else fields

    def flip_changes(self, X: npt.ArrayLike) -> Float64Array:
        """Change of energy by each single flip, shaped like X."""
        states, single = self.checked_states(X)
        changes = (1.0 - 2.0 * states) * self.local_fields(states)
        return changes[0] if single else changes

    def swap_change(self, x: npt.ArrayLike, remove: npt.ArrayLike, add: npt.ArrayLike) -> Any:
        """Change of energy if `remove` changes from one to zero and `add` from zero to one.

        Args:
            x: one state [n].
            remove: a variable that is one, or an array of them [t]; each pair is one swap.
            add: a variable that is zero, or an array of them [t].

        Returns:
            A float, or float64 [t]: h_add - h_remove - 2 Q[remove, add].

        Raises:
            ProblemError: `remove` is not one, or `add` is not zero, in x.
        """
        states, single = self.checked_states(x)
        if not single:
            raise ProblemError(f"swap_change takes one state [n], not a batch of shape {states.shape}")
        out, into = np.broadcast_arrays(np.asarray(remove), np.asarray(add))
        i, j = np.atleast_1d(out), np.atleast_1d(into)
        for variables in (i, j):
            if variables.dtype.kind not in "iu" or np.any((variables < 0) | (variables >= self.n)):
                raise ProblemError(f"a swap names the variables {variables.tolist()}; they must be in 0..{self.n - 1}")
        if np.any(states[0, i] != 1) or np.any(states[0, j] != 0):
            raise ProblemError("a swap removes a variable that is one and adds a variable that is zero")
        h = self.local_fields(states[0])
        changes = h[j] - h[i] - 2.0 * self.form.couplings(i, j)
        return float(changes[0]) if out.ndim == 0 else changes

    def random_mean_energy(self) -> float:
        """Exact mean energy of a uniformly random feasible state, to which gaps are scaled."""
        sizes, counts = np.maximum(self.constraint.sizes, 1), self.constraint.counts
        group = self.constraint.groups
        p = (counts / sizes)[group]
        mean = float(self.single_energies @ p) + self.offset + self.form.total(p)
        # Two variables of one group are not independent: P(both) = k (k-1) / (m (m-1)), not (k/m)^2.
        pairs = np.maximum(sizes * (sizes - 1.0), 1.0)
        excess = counts * (counts - 1.0) / pairs - (counts / sizes) ** 2
        if len(counts) == 1:
            return mean + float(excess[0]) * self.form.total(np.ones(self.n))
        for g, variables in enumerate(self.constraint.members()):
            if excess[g] != 0.0 and len(variables):
                mean += float(excess[g]) * self.form.restricted(variables).total(np.ones(len(variables)))
        return mean

    # States

    def is_feasible(self, X: npt.ArrayLike) -> Any:
        """Whether one state [n] (a bool), or each of a batch [b, n] (bool [b]), has the demanded number of ones."""
        states, single = self.checked_states(X)
        feasible = self.constraint.feasible(states)
        return bool(feasible[0]) if single else feasible

    def random_states(self, count: int, seed: int | np.random.Generator | None = None) -> StateArray:
        """Uniformly random feasible states [count, n], int8."""
        return self.constraint.random_states(count, np.random.default_rng(seed))

    def checked_states(self, X: npt.ArrayLike) -> tuple[StateArray, bool]:
        """States as int8 [b, n], and whether X is a single state [n].

        Raises:
            ProblemError: the shape does not fit, or an entry is neither 0 nor 1.
        """
        given = np.asarray(X)
        if given.ndim not in (1, 2) or given.shape[-1] != self.n:
            raise ProblemError(f"states have shape {given.shape}; [{self.n}] or [b, {self.n}] is needed")
        if given.dtype != np.bool_ and not _all_zeros_and_ones(given):
            raise ProblemError("states must hold zeros and ones (convert spins -1/+1 by (s + 1) // 2)")
        return np.atleast_2d(given.astype(np.int8, copy=False)), given.ndim == 1

    # Related problems

    def to_dense(self, dtype: npt.DTypeLike = np.float64) -> BlockProblem:
        """The same problem in dense form; a dense problem is returned as it is.

        A low-rank or scaled problem of n variables becomes n * n numbers: at n = 10,000 that is 800 MB in float64.

        Args:
            dtype: float64 or float32, of the coefficients.

        Raises:
            ProblemError: another dtype.
        """
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise ProblemError(f"a dense problem is stored as float32 or float64, not {np.dtype(dtype)}")
        if isinstance(self.form, DenseForm):
            return self
        form = DenseForm(self.form.dense().astype(dtype, copy=False))
        return self.replaced(form=form, linear=self.single_energies)

    def restrict(self, indices: npt.ArrayLike, x: npt.ArrayLike) -> BlockProblem:
        """The problem of some variables, with the others fixed to their values in a state.

        Args:
            indices: the free variables, distinct [m]; variable t of the result is indices[t].
            x: a state [n] that the free variables can make feasible.

        Returns:
            A problem of m variables with the energies of the whole problem.

        Raises:
            ProblemError: a repeated or unknown index, or a cardinality that the free variables cannot reach.
        """
        free = np.asarray(indices)
        if free.ndim != 1 or free.dtype.kind not in "iu" or np.any((free < 0) | (free >= self.n)):
            raise ProblemError(f"indices must be a list of variables in 0..{self.n - 1}")
        if len(np.unique(free)) != len(free):
            raise ProblemError("indices contains a variable twice")
        states, _ = self.checked_states(x)
        fixed = states[:1].copy()
        fixed[0, free] = 0
        linear = self.linear[free] + 2.0 * self.form.products(fixed)[0, free]
        counts = self.constraint.counts - self.constraint.counted(fixed)[0]
        grouped = self.groups is not None
        used, groups = np.unique(self.constraint.groups[free], return_inverse=True)
        if np.any(np.delete(counts, used) != 0):
            raise ProblemError("a group without free variables does not have its demanded number of ones")
        cardinality = counts[used] if grouped else counts[0]
        labels = self.labels and Labels(self.labels.parameter[free], self.labels.index[free])
        data = ProblemData.of_form(
            self.form.restricted(free), linear, cardinality, offset=self.energy(fixed[0]),
            groups=groups if grouped else None, labels=labels, provenance=self.provenance,
        )  # fmt: skip
        return BlockProblem.of(data)

    def with_best_known(self, energy: float, *, proven: bool, found_by: str) -> BlockProblem:
        """The same problem with another best known energy."""
        return self.replaced(best_known=BestKnown(float(energy), proven, found_by))

    # dimod types and files

    def to_bqm(self, penalty: float | str | None = None) -> dimod.BinaryQuadraticModel:
        """The problem as a dimod BQM over 0..n-1; see :func:`problems.convert.to_bqm`."""
        from problems import convert  # imports dimod

        return convert.to_bqm(self, penalty)

    def to_cqm(self) -> dimod.ConstrainedQuadraticModel:
        """The problem as a dimod CQM with its cardinality as equalities; see :func:`problems.convert.to_cqm`."""
        from problems import convert

        return convert.to_cqm(self)

    def to_ising(
        self, penalty: float | str | None = None
    ) -> tuple[dict[int, float], dict[tuple[int, int], float], float]:
        """Fields h, couplings J and offset over spins s = 2x - 1; see :func:`problems.convert.to_ising`."""
        from problems import convert

        return convert.to_ising(self, penalty)

    @classmethod
    def from_bqm(
        cls,
        bqm: dimod.BinaryQuadraticModel,
        cardinality: int | npt.ArrayLike,
        groups: npt.ArrayLike | None = None,
    ) -> BlockProblem:
        """A dense problem from a dimod BQM; see :func:`problems.convert.from_bqm`."""
        from problems import convert

        return cls.of(convert.from_bqm(bqm, cardinality, groups))

    @classmethod
    def from_cqm(cls, cqm: dimod.ConstrainedQuadraticModel) -> BlockProblem:
        """A dense problem from a dimod CQM of cardinalities; see :func:`problems.convert.from_cqm`."""
        from problems import convert

        return cls.of(convert.from_cqm(cqm))

    def save(self, path: str | os.PathLike[str], format: str | None = None) -> Path:
        """Write the problem to a file, or to files that share a name; either all are written or none.

        Args:
            path: its ending chooses the format. Without an ending of another format the project's own files are
                written: NAME.bqm (dense and scaled form) or NAME.npz (low-rank form), with NAME.json. The folder must
                exist.
            format: a format's name, if the ending does not decide it.

        Returns:
            The file that :meth:`load` takes.

        Raises:
            ProblemError: the format cannot be written, or cannot hold the problem.
            OSError: the files cannot be written.
        """
        return formats.write(self, path, format)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        cardinality: int | npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        format: str | None = None,
    ) -> BlockProblem:
        """Read a problem file of any known format, recognised by its ending or by its content.

        Args:
            path: the file, or its name without the ending.
            cardinality: demanded number of ones, for files that do not contain it, such as a .bqm of another program;
                otherwise it must agree with the file.
            groups: group of each variable, likewise.
            format: a format's name, if several recognise the file.

        Raises:
            FileFormatError: no format recognises the file, or it is damaged, truncated or oversized, or it disagrees
                with the cardinality given; the message names the file and the field or line.
            FileNotFoundError: there is no such file.
        """
        return cls.of(formats.read_strictly(path, cardinality, groups, format))


def _all_zeros_and_ones(given: npt.NDArray[Any]) -> bool:
    if given.dtype.kind in "iu":  # without temporary arrays
        return not given.size or bool(given.min() >= 0 and given.max() <= 1)
    return bool(((given == 0) | (given == 1)).all())
