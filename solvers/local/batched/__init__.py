"""Tabu search for many problems at once, on tensors: torch operations, or one fused Triton kernel."""
