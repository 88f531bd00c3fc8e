"""Runs of a small pruning in processes that are killed: a script of test_journal.py, not a test itself.

    python run_to_kill.py FOLDER KILLS SEED SCOPE

Each attempt is a forked child that begins the run in FOLDER or resumes it. It is killed by SIGKILL, at a random moment
or just before or after a random write of the journal, KILLS times; the last attempt may finish. Prints the masks'
checksum, and how many attempts were killed.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
from pathlib import Path

import torch

from hybrid_icbs import Config, Pruner
from hybrid_icbs.digits import digits_classifier, load_digits
from hybrid_icbs.journal import FILE, Journal
from hybrid_icbs.pruning import complete

SMALL = {"density": 0.05, "steps": 16, "round_size": 2, "block_size": 64, "batch_size": 64, "hold_back": 0.3}
CONFIGS = {
    "layer": Config.of(**SMALL, guard_size=200, fixed_kept=0.1, scope="layer", backend="tabu?children=3&threads=1"),
    "cut": Config.of(density=0.02, steps=9, cut_steps=6, block_size=256, backend="tabu?children=3&threads=1"),
    "global": Config.of(density=0.2, steps=10, block_size=512, backend="sa?restarts=2&sweeps=5&threads=1"),
}


def main(folder: Path, kills: int, seed: int, scope: str) -> None:
    config = CONFIGS[scope]
    torch.set_num_threads(1)  # forked children may not inherit OpenMP's threads
    model, data = digits_classifier(epochs=1), load_digits()
    complete(Pruner(model, data, config), progress=False)  # compile and load everything before the forks
    rng, killed = random.Random(seed), 0
    for attempt in range(kills + 1):
        child = os.fork()
        if child == 0:
            try:
                fate = rng.choice(["early", "late", "time"]) if attempt < kills else "never"
                work(folder, model, data, config, fate, rng)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        rng.random()  # another fate for the next child
        killed += os.WIFSIGNALED(status)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
            raise SystemExit(f"attempt {attempt} failed")
    print(Pruner.resume(folder, model, data).masks.checksum(), killed)


def work(folder: Path, model: torch.nn.Module, data: object, config: Config, fate: str, rng: random.Random) -> None:
    if fate == "time":
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.001, 0.2))
    elif fate != "never":
        _kill_at_write(rng.randrange(1, 9), fate)  # few writes further each time, so that no attempt gets through
    # A folder that was made but holds no run yet, as the process died while it began, is begun anew.
    begun = (folder / FILE).exists() and _holds_a_run(folder)
    if not begun:
        (folder / FILE).unlink(missing_ok=True)
        (folder / (FILE + "-journal")).unlink(missing_ok=True)
    pruner = Pruner.resume(folder, model, data) if begun else Pruner(model, data, config, out=folder)
    complete(pruner, progress=False)
    os._exit(0)


def _holds_a_run(folder: Path) -> bool:
    connection = sqlite3.connect(folder / FILE)
    try:
        return connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'run'").fetchone()[0] == 1
    finally:
        connection.close()


def _kill_at_write(count: int, fate: str) -> None:
    """Die at the journal's write number `count`: before its transaction commits ("early") or right after ("late")."""
    plain = Journal._writing
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

    Journal._writing = counted  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
