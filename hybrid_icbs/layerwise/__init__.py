"""Pruning layer by layer, each layer for its own output."""
