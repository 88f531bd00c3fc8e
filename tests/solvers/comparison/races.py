"""Small comparisons with real worker processes, and helpers to check them."""

from __future__ import annotations

import time
from pathlib import Path

import solvers
from problems import instances

SMALL = {"a": instances.random(16, 8, 1), "b": instances.random(20, 5, 2, rank=6)}


def race(given=SMALL, backends=("sa", "exact"), **settings):
    return solvers.compare(given, backends, **{"time_limits": None, "seeds": 2, **settings})


def what_counts(rows):
    """Rows without times, which differ between runs."""
    kept = ("problem", "backend", "time_limit", "seed", "status", "energy", "lower_bound", "solver", "states")
    return sorted(tuple(getattr(row, name) for name in kept) for row in rows)


def no_worker_process_is_left():
    """Wait until all orphaned worker processes have ended."""
    if not Path("/proc").exists():
        return
    end = time.monotonic() + 30
    while time.monotonic() < end:
        mine = [
            entry for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and _orphan(entry)
        ]  # fmt: skip
        if not mine:
            return
        time.sleep(0.05)
    raise AssertionError(f"{mine} still run after their parent has ended")


def _orphan(entry):
    try:
        worker = b"solvers.comparison.racing.worker" in (entry / "cmdline").read_bytes()
        return worker and (entry / "stat").read_text().rsplit(")", 1)[1].split()[1] == "1"
    except OSError:
        return False
