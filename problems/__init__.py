"""Block problems, which a pruning step gives to a solver: as numpy arrays, as dimod types and as files.

- `block`: :class:`BlockProblem`: energies, local fields, changes by flips and swaps, restriction to some variables
- `data`: the parts of a problem (:class:`ProblemData`, :class:`Labels`, :class:`BestKnown`), which readers return
- `forms`: the quadratic part: dense, low-rank or scaled
- `cardinality`: the demanded number of ones, in one group or in several
- `energies`, `compiling`: the compiled kernel of energies, and how all kernels are compiled and cached
- `penalty`: penalties that replace the cardinality, proven or measured
- `convert`: dimod's BQM, CQM and Ising models
- `formats`: file formats behind one registry; third parties add theirs
- `storage`: atomic writing, and JSON that is not trusted
- `sets`: folders of problems with a manifest
- `inputs`: :func:`resolve`: from files, folders and `instances:PATTERN` to named problems
- `names`: suggestions in messages about an unknown name
- `instances`: random and planted problems, and the benchmark set of real blocks

The package imports numpy only; numba is imported with the first energy, dimod with the first conversion.
"""

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
