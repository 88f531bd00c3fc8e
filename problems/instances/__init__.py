"""Instances: random problems, problems with a planted optimum, MDPLIB files, and real pruning blocks in the package.

- `benchmark`: the benchmark set of real blocks (`names`, `curated`, `facts`, `load`; docs/instances.md is its
  datasheet), and seven small blocks for tests (`pruning`)
- `compact`: how the set stores a block, so that every machine reads the same numbers
- `generated`: random and planted problems, known optima, MDPLIB
"""

from problems.instances.benchmark import Descent, Instance, curated, facts, load, names, pruning, pruning_names
from problems.instances.generated import known_optimum, planted, random, read_mdplib

__all__ = [
    "Descent",
    "Instance",
    "curated",
    "facts",
    "known_optimum",
    "load",
    "names",
    "planted",
    "pruning",
    "pruning_names",
    "random",
    "read_mdplib",
]
