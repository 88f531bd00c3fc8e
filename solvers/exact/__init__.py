"""Proven optima: enumeration, and branch and bound."""
