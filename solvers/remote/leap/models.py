"""Block problems as the models that Leap's hybrid solvers take, and their answers as states.

The nonlinear solver holds the cardinality natively: a set variable of k of the n indices, one for each group. Over the
chosen rows it sums the factor (low-rank form) or the matrix, so the model has about ten nodes whatever n is.
"""

from __future__ import annotations

import base64
import io
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from problems import BlockProblem, LowRankForm
from problems.forms import StateArray
from solvers.errors import ServiceError


def nl_file(problem: BlockProblem) -> BinaryIO:
    """The problem as a serialised nonlinear model of dwave-optimization."""
    model = nl_model(problem)
    file: BinaryIO = model.to_file()
    return file


def nl_model(problem: BlockProblem) -> Any:
    """The problem as a locked `dwave.optimization.Model`; its objective is the energy."""
    model, sets, order = _decisions(problem)
    chosen = _indices(model, sets)
    factored = low_rank(problem)
    if factored:
        assert isinstance(problem.form, LowRankForm)
        rows = model.constant(problem.form.factor[order])[chosen, :].sum(axis=0)
        quadratic, linear = (rows * rows).sum(), problem.linear
    else:
        # Q[s, :][:, s] does not build; the rows summed first, and of the sum the chosen columns, do.
        matrix = model.constant(problem.form.dense()[np.ix_(order, order)])
        quadratic, linear = matrix[chosen, :].sum(axis=0)[chosen].sum(), problem.single_energies
    model.minimize(quadratic + model.constant(linear[order])[chosen].sum() + model.constant(problem.offset))
    model.lock()
    return model


def low_rank(problem: BlockProblem) -> bool:
    """Whether the factor is the smaller model: fewer columns than variables."""
    return isinstance(problem.form, LowRankForm) and problem.form.rank < problem.n


def nl_states(problem: BlockProblem, file: BinaryIO) -> StateArray:
    """States [s, n] of a nonlinear solver's answer, a file of the model's states.

    The decisions alone are read: they come first in the model, so a model of nothing else reads them.

    Raises:
        ServiceError: the file does not hold states of this problem.
    """
    model, sets, order = _decisions(problem)
    model.minimize(_indices(model, sets).sum())
    model.lock()
    try:
        model.states.from_file(file, check_header=False)
        states = np.zeros((len(model.states), problem.n), np.int8)
        for row, x in enumerate(states):
            for _, first, variable in sets:
                x[order[first + np.asarray(variable.state(row), np.intp)]] = 1
    except Exception as error:  # whatever a damaged file makes the toolkit raise
        raise ServiceError(f"the answer does not hold states of this problem: {error}") from error
    return states


def _decisions(problem: BlockProblem) -> tuple[Any, list[tuple[int, int, Any]], npt.NDArray[np.intp]]:
    """A model with one set variable for each group that demands ones, and the variables in order of group [n].

    Each set comes as (group, place of the group's first variable in that order, variable).
    """
    from dwave.optimization import Model

    model = Model()
    order = np.argsort(problem.constraint.groups, kind="stable")
    counts, sizes = problem.constraint.counts.tolist(), problem.constraint.sizes.tolist()
    firsts = (np.cumsum(sizes) - sizes).tolist()
    sets = [
        (g, firsts[g], model.set(sizes[g], min_size=counts[g], max_size=counts[g]))
        for g in range(len(counts))
        if counts[g]
    ]
    return model, sets, order


def _indices(model: Any, sets: list[tuple[int, int, Any]]) -> Any:
    """The chosen places as one array symbol."""
    from dwave.optimization.mathematical import concatenate

    parts = [variable + model.constant(first) if first else variable for _, first, variable in sets]
    return parts[0] if len(parts) == 1 else concatenate(tuple(parts))


def cqm_file(problem: BlockProblem) -> BinaryIO:
    """The problem as a serialised CQM, its cardinalities as equalities."""
    file: BinaryIO = problem.to_cqm().to_file()
    return file


def bqm_file(problem: BlockProblem, penalty: float) -> BinaryIO:
    """The problem as a serialised BQM with a penalty in place of the cardinality."""
    file: BinaryIO = problem.to_bqm(penalty).to_file(version=2)
    return file


def sampleset_states(problem: BlockProblem, answer: Any) -> tuple[StateArray, npt.NDArray[np.int64]]:
    """States [s, n] of a SampleSet over the variables 0..n-1, and how often each was seen [s].

    Raises:
        ServiceError: the answer is over other variables.
    """
    if set(answer.variables) != set(range(problem.n)):
        raise ServiceError(f"the answer has {len(answer.variables)} variables, not 0..{problem.n - 1}")
    order = [answer.variables.index(v) for v in range(problem.n)]
    states = np.ascontiguousarray(answer.record.sample[:, order])
    return (states > 0).astype(np.int8), np.asarray(answer.record.num_occurrences, np.int64)


# Answers on a ticket


def packed(states: npt.NDArray[Any], occurrences: npt.NDArray[Any] | None = None) -> dict[str, Any]:
    """States [s, n] of zeros and ones as JSON values: eight to a byte, base64."""
    rows, columns = states.shape
    bits = np.packbits(states.astype(bool), axis=1).tobytes()
    kept: dict[str, Any] = {"rows": rows, "columns": columns, "states": base64.b64encode(bits).decode("ascii")}
    if occurrences is not None:
        kept["occurrences"] = np.asarray(occurrences).tolist()
    return kept


def unpacked(kept: dict[str, Any]) -> tuple[StateArray, npt.NDArray[np.int64]]:
    """What :func:`packed` took: states [s, n] and how often each was seen [s].

    Raises:
        ServiceError: the values do not fit each other.
    """
    try:
        rows, columns = int(kept["rows"]), int(kept["columns"])
        if rows < 0 or columns < 1:
            raise ValueError(f"{rows} rows of {columns}")
        bits = np.frombuffer(base64.b64decode(kept["states"], validate=True), np.uint8)
        states = np.unpackbits(bits.reshape(rows, -(-columns // 8)), axis=1, count=columns).astype(np.int8)
        occurrences = np.asarray(kept.get("occurrences", [1] * rows), np.int64)
        if occurrences.shape != (rows,):
            raise ValueError(f"{len(occurrences)} numbers for {rows} rows")
    except (KeyError, TypeError, ValueError) as error:
        raise ServiceError(f"the stored answer is damaged: {error}") from error
    return states, occurrences


def size(file: BinaryIO) -> int:
    """Bytes of a file."""
    at = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(at)
    return end
