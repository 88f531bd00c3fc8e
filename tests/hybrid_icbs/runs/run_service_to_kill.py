"""A small pruning at a service that is killed at a stage of a call: a script of test_services.py, not a test itself.

    echo FOLDER (before|after) STAGE CALL | python run_service_to_kill.py

For each line, a forked child begins the run in FOLDER and kills itself before or after the journal has the STAGE of
call number CALL. Another resumes it and comes to the end. A line tells how each ended: minus the signal, or its exit
code.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hybrid_icbs import Config, Pruner, prune
from hybrid_icbs.digits import digits_classifier, load_digits
from hybrid_icbs.pruning import complete
from hybrid_icbs.runs.folder import FILE
from hybrid_icbs.runs.journal import Journal
from solvers.remote.leap import service

SETTINGS = {"density": 0.05, "steps": 4, "round_size": 2, "block_size": 32, "batch_size": 32, "guard_size": 100}


def main() -> None:
    torch.set_num_threads(1)  # forked children may not inherit OpenMP's threads
    service.OPTIONS = {"poll_backoff_min": 0.01, "poll_backoff_max": 0.05}
    model = digits_classifier(epochs=1)
    with TemporaryDirectory() as folder:  # loads and compiles most of what the children need
        prune(model, load_digits(), **SETTINGS, backend="tabu?threads=1", out=folder, progress=False)  # type: ignore[arg-type]
    for line in sys.stdin:
        folder, when, stage, number = line.split()
        ends = []
        for fate in (when, "never"):
            child = os.fork()
            if child == 0:
                try:
                    work(Path(folder), model, fate, stage, int(number))
                    os._exit(0)
                finally:
                    os._exit(1)
            ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(*ends, flush=True)


def work(folder: Path, model: torch.nn.Module, when: str, stage: str, number: int) -> None:
    """Begin the run, or resume it; it ends where its fate wants it."""
    plain, seen = Journal.put, [0]

    def deadly(self: Journal, ticket: dict) -> None:  # type: ignore[type-arg]
        due = ticket["stage"] == stage
        seen[0] += due
        if due and seen[0] == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        plain(self, ticket)  # type: ignore[arg-type]
        if due and seen[0] == number and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    if when != "never":
        Journal.put = deadly  # type: ignore[method-assign, assignment]
    data, config = load_digits(), Config.of(**SETTINGS, backend="leap")
    pruner = Pruner.resume(folder, model, data) if (folder / FILE).exists() else Pruner(model, data, config, out=folder)
    complete(pruner, progress=False)
    assert Pruner.resume(folder, model, data).masks.checksum() == pruner.masks.checksum()


if __name__ == "__main__":
    main()
