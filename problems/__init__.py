"""Block problems: what a pruning step asks a solver, as numpy arrays, dimod types and files."""

from problems import formats, instances
from problems.block import BlockProblem
from problems.cardinality import Cardinality
from problems.data import BestKnown, Labels, ProblemData
from problems.errors import FileFormatError, ProblemError
from problems.forms import DenseForm, LowRankForm, QuadraticForm, ScaledForm, SharedMatrix
from problems.inputs import NamedProblem, resolve
from problems.sets import BlockSet, load_set, save_set

load = BlockProblem.load
save = BlockProblem.save

__all__ = [
    "BestKnown",
    "BlockProblem",
    "BlockSet",
    "Cardinality",
    "DenseForm",
    "FileFormatError",
    "Labels",
    "LowRankForm",
    "NamedProblem",
    "ProblemData",
    "ProblemError",
    "QuadraticForm",
    "ScaledForm",
    "SharedMatrix",
    "formats",
    "instances",
    "load",
    "load_set",
    "resolve",
    "save",
    "save_set",
]
