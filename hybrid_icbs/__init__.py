"""Prune neural networks by combinatorial optimisation."""
