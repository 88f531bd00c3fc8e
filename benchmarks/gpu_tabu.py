"""How fast `tabu` searches on a GPU, beside its kernel on one core and what the card's memory delivers.

    python benchmarks/gpu_tabu.py [--device cuda|cpu] [--quick] [--warps] [--only same,speed,quality,blocks]

- same: the fused kernel and the torch form take the same steps on the card, to the bit.
- speed: moves a second of the compiled kernel on one core, of the torch form and of the fused kernel, at n = 256, 1,024
  and 4,096 with 1 to 4,096 searches of one problem side by side. A move reads two rows, 8 n bytes; the bar is half of
  what limits it, from 1,024 searches on: the L2 cache where the matrix fits there, or else what the card delivers where
  as many bytes as the matrix has are read over and over, some of which the cache gives; both measured in the same run.
  With --warps, the fused kernel also with other numbers of warps a program.
- quality: the best energy after the same number of offspring, by engine: gaps to the best that any found.
- blocks: blocks a second of `solve_many` on a thousand blocks (--quick: 64) of 256 variables.

With --device cpu (or where no CUDA device is), the torch form on the CPU and the compiled kernel are measured alone.
`gpu_resources.py` says what the compiler made of the kernel, without a card.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from problems import BlockProblem, instances
from solvers.local.arrays import dense_arrays
from solvers.local.populations import UNENDING, Plan, Population
from solvers.local.tabu import TabuSearch
from solvers.local.tabu_torch import Batch, Task
from solvers.local.target import TargetWatch
from solvers.run import Run

SIZES = (256, 1024, 4096)
SEARCHES = (1, 4, 16, 64, 256, 1024, 4096)
MOST_ON_CPU = 1 << 20  # searches x variables that the torch form is given on the CPU
BAR, FROM = 0.5, 1024  # share of the limiting bandwidth, searches


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure tabu on a GPU; see the top of this file.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and seeds")
    parser.add_argument("--warps", action="store_true", help="try other numbers of warps too")
    parser.add_argument("--only", default="same,speed,quality,blocks", help="parts to run, with commas")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        print("No CUDA device is here: the torch form and the compiled kernel are measured on the CPU, nothing else.")
        device = "cpu"
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise SystemExit("triton is not installed: pip install triton, in the version that this torch names")
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        print(f"{card.name}, {card.multi_processor_count} multiprocessors, L2 cache {card.L2_cache_size >> 20} MB, "
              f"torch {torch.__version__}, triton {importlib.metadata.version('triton')}")  # fmt: skip
    else:
        print(f"CPU, {torch.get_num_threads()} of its threads for torch {torch.__version__}")
    parts: dict[str, Callable[[str, argparse.Namespace], None]] = {
        "same": same, "speed": speed, "quality": quality, "blocks": blocks,
    }  # fmt: skip
    for part in arguments.only.split(","):
        parts[part](device, arguments)


def batch_of(problem: BlockProblem, searches: int, device: str, fused: bool) -> Batch:
    """Searches of one problem from random states, none of which ever runs out of patience."""
    arrays, run = dense_arrays(problem), Run(seed=0)
    task = Task(arrays, run, TargetWatch(problem, run, arrays))
    batch = Batch([task], Plan(1, 1, 1 << 30, UNENDING), searches, device, fused=fused)
    batch.begin_generation(first=True)
    return batch


# The same steps


def same(device: str, arguments: argparse.Namespace) -> None:
    """Whether both forms are in the same states after 300 steps."""
    if device == "cpu":
        print("\nsame: needs a CUDA device (the tests compare both forms under Triton's interpreter)")
        return
    for n in (16, 60, 1000, *SIZES):
        told = "the same states and energies" if agree(n, 64, device) else "STATES OR ENERGIES DIFFER"
        print(f"same: n = {n}, 64 searches, 300 steps: {told}")


def agree(n: int, searches: int, device: str) -> bool:
    """Whether both forms come to the same states and best energies from one start, to the bit."""
    problem = instances.random(n, n // 3, seed=1)
    fused, plain = (batch_of(problem, searches, device, form) for form in (True, False))
    # The product that gives the fields may be rounded otherwise where rows are filled up.
    plain._fields.copy_(fused._fields[..., :n])
    for name in ("_energy", "_offspring", "_least"):
        getattr(plain, name).copy_(getattr(fused, name))
    for batch in (fused, plain):
        batch.take_steps(0, 70)
        batch.take_steps(70, 300)
    return bool((fused.states == plain.states).all() and (fused._offspring == plain._offspring).all())


# Moves a second


def speed(device: str, arguments: argparse.Namespace) -> None:
    """Moves a second by n and searches."""
    limits = {}
    if device == "cuda":
        from gpu_bandwidth import cache_bandwidth, memory_bandwidth, read_bandwidth

        limits["L2"] = cache_bandwidth()
        print(f"\nmemory (copy) {memory_bandwidth() / 1e12:.2f} TB/s, L2 (read) {limits['L2'] / 1e12:.2f} TB/s")
        for n in SIZES:
            if not _fits_cache(n):
                limits[f"{4 * n * n / 1e6:.0f} MB"] = limit = read_bandwidth(4 * n * n)
                print(f"a matrix of n = {n}, read over and over: {limit / 1e12:.2f} TB/s")
    print("\nmillions of moves a second; bytes are 8 n a move")
    print(f"{'n':>5} {'searches':>8} {'one core':>9} {'torch':>9} {'fused':>9} {'x core':>7} {'GB/s':>7} "
          f"{'limit':>6} {'share':>6} bar")  # fmt: skip
    for n in SIZES[:2] if arguments.quick else SIZES:
        problem = instances.random(n, n // 2, seed=0)
        core = moves_on_one_core(problem)
        for searches in SEARCHES[::3] if arguments.quick else SEARCHES:
            plain = fused = None
            if device == "cuda" or searches * n <= MOST_ON_CPU:
                plain = searches * steps_a_second(batch_of(problem, searches, device, False), device)
            if device == "cuda":
                fused = searches * steps_a_second(batch_of(problem, searches, device, True), device)
            print(_line(n, searches, core, plain, fused, limits), flush=True)
            if device == "cuda" and arguments.warps:
                _other_warps(problem, searches, device)


def _line(
    n: int, searches: int, core: float, plain: float | None, fused: float | None, limits: dict[str, float]
) -> str:  # fmt: skip
    cells = f"{n:>5} {searches:>8} {core / 1e6:>9.3f} {_millions(plain):>9} {_millions(fused):>9}"
    if fused is None:
        return cells
    moved = 8.0 * n * fused
    limit = "L2" if _fits_cache(n) else f"{4 * n * n / 1e6:.0f} MB"
    share = moved / limits[limit]
    verdict = ("met" if share >= BAR else "MISSED") if searches >= FROM else ""
    return f"{cells} {fused / core:>7.0f} {moved / 1e9:>7.0f} {limit:>6} {share:>6.2f} {verdict}"


def _fits_cache(n: int) -> bool:
    return bool(4 * n * n <= torch.cuda.get_device_properties(0).L2_cache_size)


def _millions(moves: float | None) -> str:
    return "-" if moves is None else f"{moves / 1e6:.3f}"


def _other_warps(problem: BlockProblem, searches: int, device: str) -> None:
    from solvers.local.batched import tabu_triton

    chosen = tabu_triton.warps
    fewest = max(1, tabu_triton.block(problem.n) // 1024)  # 32 variables a thread
    try:
        for warps in (fewest << t for t in range(4) if fewest << t <= 32):
            tabu_triton.warps = lambda n, warps=warps: warps
            rate = searches * steps_a_second(batch_of(problem, searches, device, True), device)
            print(f"{'':14} with {warps:>2} warps a program {rate / 1e6:.3f}", flush=True)
    finally:
        tabu_triton.warps = chosen


def moves_on_one_core(problem: BlockProblem) -> float:
    """Moves a second of the compiled kernel."""
    searched = Population(dense_arrays(problem), Plan(2, UNENDING, 1 << 30, UNENDING), seed=0)
    searched.advance(-np.inf, 1 + problem.n)  # compiled, and beyond the start, which counts as steps too
    steps, rates = 2000, []
    for _ in range(5):
        begun = time.perf_counter()
        done = searched.advance(-np.inf, steps)
        taken = time.perf_counter() - begun
        rates.append(done / taken)
        steps = max(200, int(0.05 * done / taken))
    return statistics.median(rates[1:])


def steps_a_second(batch: Batch, device: str) -> float:
    """Steps a second of all searches together: the median of five runs of about 50 ms after a first one."""
    batch.take_steps(0, 1)  # a first launch compiles, and is no measurement
    step, count, rates = 1, 4, []
    while len(rates) < 5:
        taken = _seconds(lambda: batch.take_steps(step, step + count), device)  # noqa: B023
        step += count
        if taken > 0.02 or count >= 1 << 20:
            rates.append(count / taken)
        count = max(1, min(int(0.05 * count / max(taken, 1e-6)), 8 * count, 1 << 20))
        if taken > 0.5:
            break
    return statistics.median(rates[1:] or rates)


def _seconds(work: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


# What the moves are worth


def quality(device: str, arguments: argparse.Namespace) -> None:
    """Gaps to the best energy found, after equal work."""
    engines = ["numba", "torch", *(["triton"] if device == "cuda" else [])]
    offspring, seeds = 24, range(3 if arguments.quick else 10)
    print(
        f"\nmean gap of {len(seeds)} seeds to the best energy found, {offspring} offspring each, and how many found it"
    )
    for n, k in ((256, 128), (1024, 100)) if arguments.quick else ((256, 128), (1024, 100), (1024, 512)):
        problem = instances.random(n, k, seed=2)
        reference = problem.random_mean_energy()
        found = {}
        for engine in engines:
            solver = TabuSearch(
                offspring=offspring, engine=engine, device="cpu" if engine == "numba" else device, threads=1
            )
            found[engine] = np.array([solver.solve(problem, seed=seed).first.energy for seed in seeds])
        best = min(energies.min() for energies in found.values())
        shares = [
            f"{engine} {(e.mean() - best) / (reference - best):.2e} ({int((e <= best + 1e-9 * abs(best)).sum())})"
            for engine, e in found.items()
        ]
        print(f"random, n = {n}, k = {k}: " + ", ".join(shares), flush=True)


# Many blocks at once


def blocks(device: str, arguments: argparse.Namespace) -> None:
    """Blocks a second of `solve_many`."""
    count = 64 if arguments.quick or device == "cpu" else 1000
    listed = [instances.random(256, 128, seed=seed) for seed in range(count)]
    engines = [("numba", "cpu"), ("torch", device), *([("triton", device)] if device == "cuda" else [])]
    print(f"\nblocks a second of {count} blocks of 256 variables, 24 offspring each, and their mean energy")
    for engine, where in engines:
        solver = TabuSearch(offspring=24, engine=engine, device=where, threads=1)
        solver.solve_many(listed[:1], seed=0)
        begun = time.perf_counter()
        answers = solver.solve_many(listed, seed=0)
        taken = time.perf_counter() - begun
        mean = statistics.fmean(answer.first.energy for answer in answers)
        print(f"{engine:>6} on {where}: {count / taken:.1f} blocks a second, mean energy {mean:.6f}", flush=True)


if __name__ == "__main__":
    main()
