"""Block problems: what a pruning step asks a solver, as numpy arrays, dimod types and files."""

from problems.block import BestKnown, BlockProblem, Labels
from problems.cardinality import Cardinality
from problems.errors import FileFormatError, ProblemError
from problems.forms import DenseForm, LowRankForm, QuadraticForm

__all__ = [
    "BestKnown",
    "BlockProblem",
    "Cardinality",
    "DenseForm",
    "FileFormatError",
    "Labels",
    "LowRankForm",
    "ProblemError",
    "QuadraticForm",
]
