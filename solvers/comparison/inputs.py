"""The problems of a comparison: :func:`problems.resolve` with names checked for results.csv."""

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
    """The problems of a comparison, without duplicates and in order; see :func:`problems.resolve`.

    Raises:
        OptionError: no problem was given, or a value that is not a problem.
        ProblemError: a name with control characters or invalid UTF-8.
    """
    try:
        found = resolve(given, cardinality)
    except TypeError as error:
        raise OptionError(str(error)) from error
    if not found:
        raise OptionError("no block problem was given; at least one is needed")
    for each in found:
        if not can_be_named(each.name):
            raise ProblemError(
                f"{each.name!a:.200} cannot be a problem's name: it contains control characters or invalid UTF-8; "
                "rename the problem or its file"
            )
    return found


def current_mask(given: Given, problem: BlockProblem) -> StateArray:
    """The state [n] of the network's current masks: ones for the weights that are pruned now.

    Raises:
        OptionError: the problem holds no current mask: not a pruning block, or from an older version.
    """
    if given.mask is not None:
        return given.mask()
    pruned = problem.provenance.get("pruned_now")
    if type(pruned) is not int or not 0 <= pruned <= problem.n:
        raise OptionError(
            f"{given.name} has no current mask on record: it is not a pruning block, or an older version exported it; "
            "use start 'cold'"
        )
    mask = np.zeros(problem.n, np.int8)
    mask[:pruned] = 1  # pruned weights come first in a block
    return mask
