"""The problems of a race: what :func:`problems.resolve` finds, with names that a results file can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from problems import BlockProblem, ProblemError, resolve
from problems.forms import StateArray
from problems.inputs import MEMORY, Source
from problems.inputs import NamedProblem as Given
from problems.inputs import source_of as source
from solvers.comparison.results import can_be_named
from solvers.errors import OptionError

__all__ = ["MEMORY", "Given", "Source", "current_mask", "gathered", "source"]


def gathered(
    given: Source | Mapping[str, BlockProblem] | Iterable[Source], cardinality: int | None = None
) -> list[Given]:
    """The problems of a race, each once and in order; arguments and further errors are those of `problems.resolve`.

    Raises:
        OptionError: no problem was given, or something else than a problem.
        ProblemError: a name with control characters or invalid UTF-8.
    """
    try:
        found = resolve(given, cardinality)
    except TypeError as error:
        raise OptionError(str(error)) from error
    if not found:
        raise OptionError("there is nothing to race on: no block problem was given")
    for each in found:
        if not can_be_named(each.name):
            raise ProblemError(
                f"{each.name!a:.200} cannot be a problem's name: it holds control characters, or bytes that are no "
                "UTF-8; rename it, or its file"
            )
    return found


def current_mask(given: Given, problem: BlockProblem) -> StateArray:
    """The state [n] that leaves the network's masks as they are, ones for the weights that are pruned now.

    Raises:
        OptionError: the problem does not tell: it is no pruning block, or was exported by an older version.
    """
    if given.mask is not None:
        return given.mask()
    pruned = problem.provenance.get("pruned_now")
    if type(pruned) is not int or not 0 <= pruned <= problem.n:
        raise OptionError(
            f"{given.name} has no current mask on record, from which to start: it is no pruning block of this version; "
            "start cold"
        )
    mask = np.zeros(problem.n, np.int8)
    mask[:pruned] = 1  # a block's weights are in this order
    return mask
