"""The demo: a classifier of handwritten digits, trained and pruned in seconds."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_icbs.blockwise.pruner import Pruner
from hybrid_icbs.cli.commands import configure
from hybrid_icbs.cli.console import wrong_use
from hybrid_icbs.cli.sources import Sources
from hybrid_icbs.cli.tables import score_table
from hybrid_icbs.data.evaluation import evaluate
from hybrid_icbs.digits import digits_classifier, load_digits
from hybrid_icbs.progress import phase
from hybrid_icbs.pruning import complete
from hybrid_icbs.runs.folder import FILE

if TYPE_CHECKING:
    from rich.table import Table

EPOCHS = 40
BLOCK_SIZE = 512
"""Weights in a block: 0.6 per cent of the classifier's 84,480."""


def run_demo(out: Path, *, density: float, seed: int, backend: str) -> dict[str, Any]:
    """Train, prune, and score the dense model, magnitude pruning and iCBS on test digits.

    Args:
        out: the run folder; if it holds a run already, a number is appended to its name.
        density: share of weights to keep.
        seed: seed of the pruning; the classifier is always the same.
        backend: solver of the blocks.

    Returns:
        The scores as plain values, and the paths of the run folder and its report.
    """
    with wrong_use():
        config = configure(None, {"density": density, "seed": seed, "backend": backend, "block_size": BLOCK_SIZE})
    folder, test = unused(out), load_digits("test")
    begun = time.perf_counter()
    with phase("training", EPOCHS, "epochs") as advance:
        epochs = itertools.count(1)
        model = digits_classifier(EPOCHS, after_epoch=lambda: advance(next(epochs)))
    trained = time.perf_counter()
    sources = Sources.named("hybrid_icbs.digits:digits_classifier", "hybrid_icbs.digits:load_digits")
    pruner = Pruner(model, load_digits("train"), config, out=folder, notes={"sources": asdict(sources)})
    magnitude, started = evaluate(pruner.model, test), time.perf_counter()
    result = complete(pruner)
    ended = time.perf_counter()
    return {
        "out": str(folder),
        "report": str(folder / "report.html"),
        "backend": result.backend,
        "interrupted": result.interrupted,
        "test_samples": len(test[1]),
        "dense": _row(evaluate(model, test), 1.0, trained - begun),
        "magnitude": _row(magnitude, result.density, started - trained),
        "icbs": _row(evaluate(result.model, test), result.density, ended - trained),
    }


def demo_table(record: dict[str, Any]) -> Table:
    """The scores as a table."""
    rows = [(name, record[key], record[key]["density"]) for key, name in _NAMES.items()]
    seconds = [record[key]["seconds"] for key in _NAMES]
    return score_table(f"on {record['test_samples']} test digits", rows, seconds)


_NAMES = {"dense": "dense", "magnitude": "magnitude", "icbs": "iCBS"}


def _row(score: Any, density: float, seconds: float) -> dict[str, float | None]:
    return {**asdict(score), "density": density, "seconds": seconds}


def unused(folder: Path) -> Path:
    """The first of folder, folder-2, folder-3, ... that holds no run."""
    candidate, number = folder, 1
    while (candidate / FILE).exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
