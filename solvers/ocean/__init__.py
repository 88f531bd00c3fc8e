"""Samplers of D-Wave's Ocean and any other dimod sampler, with penalty, repair and polish."""
