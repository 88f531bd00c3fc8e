"""Processor seconds until a command has done its work: `solve` with a warm and a fresh compile cache, and imports.

    python benchmarks/startup.py
    git worktree add ../before HEAD~1
    python benchmarks/startup.py --other ../before      the same of another checkout, in turns, and the ratio

Each figure is the median of --runs runs, user and system time of the command's process and its children. A fresh
cache is a new, empty NUMBA_CACHE_DIR for every run; a warm one was filled by the same command. The bars hold on two
quiet cores; other work on the machine raises processor time too, the ratio to another checkout hardly.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BACKENDS = {"sa": 6.0, "exact": 8.0, "tabu": 16.0}
"""Bars of `solve` with a fresh cache, in processor seconds."""
WARM = 1.5
VERSIONS = ("numpy", "numba", "dimod", "torch")


@dataclass(frozen=True)
class Command:
    """What is measured: a name, arguments of python, the bar, and whether each run gets an empty compile cache."""

    name: str
    arguments: tuple[str, ...]
    bar: float
    fresh: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="a checkout of another version")
    parser.add_argument("--runs", type=int, default=3, help="runs of each command (3)")
    parser.add_argument("--instance", default="mlpnet-typical-n32-k16", help="the block; `hybrid-icbs instances list`")
    parser.add_argument("--only", default="", metavar="TEXT", help="only commands whose name contains this")
    arguments = parser.parse_args()
    roots = [REPOSITORY]
    if arguments.other is not None:
        roots.append(arguments.other.resolve())
        if not (roots[1] / "solvers" / "__init__.py").is_file():
            parser.error(f"{arguments.other} is no checkout of this project: it has no solvers/__init__.py")
    print(f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS) + f"; {arguments.instance}")
    other = "   other  this / other" if len(roots) == 2 else ""
    print(f"{'processor seconds':34}{'this':>7}{'bar':>7}{'':>9}{'wall':>7}{other}")
    with tempfile.TemporaryDirectory() as folder:
        for command in _commands(_block(arguments.instance, Path(folder))):
            if arguments.only in command.name:
                _report(command, roots, arguments.runs, Path(folder))


def _commands(block: Path) -> list[Command]:
    solve = ("-m", "hybrid_icbs", "solve", str(block), "--seed", "0", "--quiet", "--backend")
    return [
        *(Command(f"solve --backend {backend}", (*solve, backend), WARM) for backend in BACKENDS),
        *(Command(f"solve --backend {name}, fresh cache", (*solve, name), bar, True) for name, bar in BACKENDS.items()),
        Command("backends", ("-m", "hybrid_icbs", "backends"), 1.0),
        Command("from hybrid_icbs import prune", ("-c", "from hybrid_icbs import prune"), 2.5),
    ]


def _block(instance: str, folder: Path) -> Path:
    sys.path.insert(0, str(REPOSITORY))
    import problems
    from problems import instances

    problem = instances.load(instance)
    return problems.save(problem, folder / f"block{'.npz' if problem.is_low_rank else '.bqm'}")


def _report(command: Command, roots: list[Path], runs: int, folder: Path) -> None:
    if not command.fresh:
        for root in roots:
            _measured(command, root, folder / "warm")
    took: list[list[tuple[float, float]]] = [[] for _ in roots]
    for _ in range(runs):
        for root, times in zip(roots, took, strict=True):  # in turns, so that other work disturbs both alike
            with tempfile.TemporaryDirectory(dir=folder) as empty:
                times.append(_measured(command, root, Path(empty) if command.fresh else folder / "warm"))
    processor, wall = (statistics.median(times) for times in zip(*took[0], strict=True))
    line = f"{command.name:34}{processor:7.2f}{command.bar:7.1f}{'met' if processor <= command.bar else 'MISSED':>9}"
    line += f"{wall:7.2f}"
    if len(roots) == 2:
        before = statistics.median(processor for processor, _ in took[1])
        line += f"{before:8.2f}{processor / before:14.2f}"
    print(line, flush=True)


def _measured(command: Command, root: Path, cache: Path) -> tuple[float, float]:
    """Processor and wall seconds of a run of a command by the checkout `root`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    # numba names caches by a function's file, so both checkouts can use one folder.
    environment |= {"PYTHONPATH": str(root), "NUMBA_CACHE_DIR": str(cache)}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command.arguments], env=environment, cwd=cache.parent, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command.name} of {root} failed with exit code {process.returncode}")
    return used.ru_utime + used.ru_stime, wall


def _processor() -> str:
    """The processor's name, from /proc/cpuinfo where there is one."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
