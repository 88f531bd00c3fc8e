"""Runs of a small pruning in processes that are killed: a script of test_journal.py, not a test itself.

    python run_to_kill.py FOLDER KILLS SEED WAY

One run, in FOLDER/whole, is never killed. Of another, in FOLDER/killed, each attempt is a forked child that begins or
resumes it. It is killed by SIGKILL, at a random moment or just before or after a random write of the journal, KILLS
times; the last attempt may finish. Prints a checksum of the masks and the model's weights for each of the two, and
how many attempts were killed.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from transformer_models import make, samples

from hybrid_icbs import RunFolderError, load_masks, prune, resume
from hybrid_icbs.digits import digits_classifier, load_digits
from hybrid_icbs.runs.fingerprint import fingerprint
from hybrid_icbs.runs.folder import FILE
from hybrid_icbs.runs.journal import Journal

SMALL = {"density": 0.05, "steps": 16, "round_size": 2, "block_size": 64, "batch_size": 64, "hold_back": 0.3}
WAYS: dict[str, dict[str, Any]] = {
    "layer": SMALL | {"guard_size": 200, "fixed_kept": 0.1, "scope": "layer", "backend": "tabu?offspring=3&threads=1"},
    "cut": {"density": 0.02, "steps": 9, "cut_steps": 6, "block_size": 256, "backend": "tabu?offspring=3&threads=1"},
    "global": {"density": 0.2, "steps": 10, "block_size": 512, "backend": "sa?restarts=2&sweeps=5&threads=1"},
    "refit": SMALL | {"update": "backsolve", "guard_size": 200, "backend": "tabu?offspring=3&threads=1"},
    "by layer": {"density": 0.4, "objective": "joint", "scope": "global", "update": "backsolve"},
}


def main(folder: Path, kills: int, seed: int, way: str) -> None:
    torch.set_num_threads(1)  # forked children may not inherit OpenMP's threads
    by_layer = way == "by layer"
    model = make("llama") if by_layer else digits_classifier(epochs=1)
    data = samples("llama", 24) if by_layer else load_digits()
    whole, folder = folder / "whole", folder / "killed"
    prune(model, data, **WAYS[way], out=whole, progress=False)  # loads and compiles everything before the forks
    rng, killed = random.Random(seed), 0
    for attempt in range(kills + 1):
        child = os.fork()
        if child == 0:
            try:
                fate = rng.choice(["early", "late", "time"]) if attempt < kills else "never"
                work(folder, model, data, WAYS[way], fate, rng)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        rng.random()  # another fate for the next child
        killed += os.WIFSIGNALED(status)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
            raise SystemExit(f"attempt {attempt} failed")
    print(_checksum(whole), _checksum(folder), killed)


def work(
    folder: Path, model: torch.nn.Module, data: object, settings: dict[str, Any], fate: str, rng: random.Random
) -> None:
    if fate == "time":
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.001, 0.2))
    elif fate != "never":
        # Few writes further each time, so that no attempt gets through; a run by layer has a handful altogether.
        _kill_at_write(rng.randrange(1, 3 if "objective" in settings else 9), fate)
    # A folder that was made but holds no run yet, as the process died while it began, is begun anew.
    if (folder / FILE).exists() and _holds_a_run(folder):
        try:
            resume(folder, model, data, progress=False)
        except RunFolderError as error:
            if "is finished" not in str(error):
                raise
    else:
        (folder / FILE).unlink(missing_ok=True)
        (folder / (FILE + "-journal")).unlink(missing_ok=True)
        prune(model, data, **settings, out=folder, progress=False)
    os._exit(0)


def _checksum(folder: Path) -> str:
    return fingerprint([load_masks(folder / "masks.safetensors"), load_file(folder / "model" / "model.safetensors")])


def _holds_a_run(folder: Path) -> bool:
    connection = sqlite3.connect(folder / FILE)
    try:
        return connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'run'").fetchone()[0] == 1
    finally:
        connection.close()


def _kill_at_write(count: int, fate: str) -> None:
    """Die at the journal's write number `count`: before its transaction commits ("early") or right after ("late")."""
    plain = Journal.writing
    left = [count]

    def counted(self: Journal) -> object:
        left[0] -= 1
        manager = plain(self)

        class Dying:
            def __enter__(self) -> object:
                return manager.__enter__()

            def __exit__(self, *error: object) -> object:
                if left[0] == 0 and fate == "early":
                    os.kill(os.getpid(), signal.SIGKILL)
                done = manager.__exit__(*error)  # type: ignore[arg-type]
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return done

        return Dying()

    Journal.writing = counted  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
