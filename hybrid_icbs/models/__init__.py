"""Models: which weights are pruned, masks and patterns, loading."""
