"""Per-sample gradients of chosen weights."""
