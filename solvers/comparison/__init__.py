"""Solvers raced on block problems by one protocol: :func:`solvers.compare`, and what is made of its rows."""

from solvers.comparison.comparison import Comparison
from solvers.comparison.racing.race import compare

__all__ = ["Comparison", "compare"]
