"""The demonstration: a classifier for handwritten digits, trained and pruned in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from hybrid_icbs.pruning import complete
from hybrid_icbs.report import plots
from hybrid_icbs.report.record import RunRecord
from hybrid_icbs.runs.folder import FILE

if TYPE_CHECKING:
    from rich.table import Table

EPOCHS = 40
BLOCK_SIZE = 512
"""Weights in a block: 0.6 per cent of the classifier's 84,480."""


def run_demo(out: Path, *, density: float, seed: int, backend: str, progress: bool) -> dict[str, Any]:
    """Train, prune, and score the dense model, magnitude pruning and iCBS on test digits.

    Args:
        out: the run folder, or where a run is there already, what its name begins with.
        density: share of weights to keep.
        seed: of the pruning; the classifier is always the same.
        backend: solver of the blocks.
        progress: show progress bars.

    Returns:
        The scores as plain values, and where the run folder and its report are.
    """
    with wrong_use():
        config = configure(None, None, density=density, seed=seed, backend=backend, block_size=BLOCK_SIZE)
    folder, test = _unused(out), load_digits("test")
    begun = time.perf_counter()
    with _training_bar(progress) as after_epoch:
        model = digits_classifier(EPOCHS, after_epoch=after_epoch)
    trained = time.perf_counter()
    sources = Sources.named("hybrid_icbs.digits:digits_classifier", "hybrid_icbs.digits:load_digits")
    pruner = Pruner(model, load_digits("train"), config, out=folder, notes={"sources": asdict(sources)})
    magnitude, started = evaluate(pruner.model, test), time.perf_counter()
    result = complete(pruner, progress=progress)
    ended = time.perf_counter()
    plots.save(RunRecord.of(result), folder / "plots")
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
    """The scores for people."""
    rows = [(name, record[key], record[key]["density"]) for key, name in _NAMES.items()]
    seconds = [record[key]["seconds"] for key in _NAMES]
    return score_table(f"on {record['test_samples']} test digits", rows, seconds)


_NAMES = {"dense": "dense", "magnitude": "magnitude", "icbs": "iCBS"}


def _row(score: Any, density: float, seconds: float) -> dict[str, float | None]:
    return {**asdict(score), "density": density, "seconds": seconds}


def _unused(folder: Path) -> Path:
    """The folder, or folder-2, folder-3, ...: the first that holds no run."""
    candidate, number = folder, 1
    while (candidate / FILE).exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


@contextmanager
def _training_bar(shown: bool) -> Iterator[Callable[[], object] | None]:
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=EPOCHS)
        yield lambda: bar.advance(task)
