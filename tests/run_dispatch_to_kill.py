"""A program that works in a pool of processes until it is killed: `python run_dispatch_to_kill.py MARK`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from solvers.dispatch import Handle, get_dispatch


def work(task: tuple[str, Handle[Any]]) -> float:
    mark, handle = task
    array = handle.get()
    Path(f"{mark}-{os.getpid()}").touch()
    time.sleep(600)
    return float(array.sum())


if __name__ == "__main__":
    with get_dispatch("processes?workers=2") as dispatch:
        shared = dispatch.share(np.zeros(1_000_000))
        list(dispatch.map(work, [(sys.argv[1], shared)] * 2))
