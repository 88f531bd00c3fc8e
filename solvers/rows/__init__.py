"""Thousands of small problems that share one matrix, solved in one call."""
