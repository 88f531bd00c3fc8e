"""What holds for every test."""

import os

# The suite runs in several processes; where each brings torch threads for all processors they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
