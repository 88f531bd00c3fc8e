"""Block problems: what a pruning step asks a solver, as numpy arrays, dimod types and files."""

from problems import instances
from problems.block import BestKnown, BlockProblem, Labels
from problems.cardinality import Cardinality
from problems.errors import FileFormatError, ProblemError
from problems.formats.files import load, save
from problems.forms import DenseForm, LowRankForm, QuadraticForm, ScaledForm, SharedMatrix
from problems.sets import BlockSet, load_set, save_set

__all__ = [
    "BestKnown",
    "BlockProblem",
    "BlockSet",
    "Cardinality",
    "DenseForm",
    "FileFormatError",
    "Labels",
    "LowRankForm",
    "ProblemError",
    "QuadraticForm",
    "ScaledForm",
    "SharedMatrix",
    "instances",
    "load",
    "load_set",
    "save",
    "save_set",
]
