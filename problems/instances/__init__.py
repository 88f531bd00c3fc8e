"""Block problems to try things on: random, with a planted optimum, from MDPLIB, and real ones that ship.

The real ones are the benchmark set (`names`, `curated`, `facts`, `load`; docs/instances.md is its datasheet) and seven
small blocks for tests (`pruning`).
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
