"""Which weights enter the next blocks: scores, candidates, schedule."""
