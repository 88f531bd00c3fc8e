"""Heuristics by swaps on this machine: simulated annealing and memetic tabu search."""
