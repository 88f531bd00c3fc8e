"""Speed of `sa` and `tabu` on block problems, compared with third-party solvers, in one process on one core.

    python benchmarks/block_solvers.py [--quick] [--only real,mdplib,large,million,limits] [--blocks PATTERN]
                                       [--peers-again]

Five parts, each with its bar:

- real: dense pruning blocks of n = 1024 and 2048 (real_blocks.py). Each peer (block_peers.py: dwave-samplers'
  TabuSampler and SimulatedAnnealingSampler, OpenJij's SASampler, simulated bifurcation) gets 10 s with each of three
  penalties, and with the best of them 10 s with each of two more seeds; the target is the best energy of all; the time
  of a peer is the least of 0.1, 0.3, 1, 3 and 10 s in which one of the three seeds finds its best of 10 s.
  `tabu` reaches the target in at most 1/100 of that, a whole `solve` from a random state, median of its seeds. The
  time for one state, which every solve needs, is printed too. The peers take an hour; their results are kept in
  runs/benchmarks.
- mdplib: the instances of n = 500 of the maximum-diversity library. `tabu` reaches the best value known with every one
  of 100 seeds within 1 s each, in a median time of less than 0.05 s.
- large: a random instance of that class, n = 2,000, m = 200 (distances uniform in 0 .. 10, two digits). The target is
  the best of a 10-minute run with another seed, kept in runs/benchmarks; `tabu` within 20 s in 15 of 20.
- million: a low-rank block of n = 1,000,000, rank 200, in a separate process. `sa` anneals it for 10 sweeps in less
  than 5 s with a peak memory of less than 2 GB, and a proposal takes at most twice as long as at n = 100,000.
- limits: moves per second, as a share of the machine's measured bandwidth or arithmetic
  (machine_limits.py); no bar.

Models and data are found through HYBRID_ICBS_DATA (default: ../shared/data beside the repository). Compilation is not
timed. The peers are development-only: `pip install -e .[bench]`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from problems import BlockProblem

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("HYBRID_ICBS_DATA", REPOSITORY.parent / "shared" / "data"))

LIMIT = 30.0  # seconds after which a solver has missed the target
LADDER = (0.1, 0.3, 1.0, 3.0, 10.0)  # seconds for a peer
PEER_SEEDS = (0, 1, 2)  # a peer that stops early with one seed does not on the next
LARGE_LIMIT = 20.0
NEAR = 1e-6  # share of the target by which energies may differ and count as equal: all solvers round


def main() -> None:
    parser = argparse.ArgumentParser(description="Time sa and tabu on block problems; see the top of this file.")
    parser.add_argument("--quick", action="store_true", help="fewer seeds")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, with commas")
    parser.add_argument("--blocks", default="", help="of the real blocks, those whose name contains this")
    parser.add_argument("--peers-again", action="store_true", help="measure peers that were measured here before")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    _one_core()
    if arguments.child:
        print(json.dumps(_anneal_low_rank(arguments.child)))
        return
    for part in arguments.only.split(","):
        PARTS[part](arguments)


def _one_core() -> None:
    """Keep this process to one processor; BLAS and numba read their variables when they are first imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


# Real dense blocks


def real(arguments: argparse.Namespace) -> None:
    """Seconds of peers to their best, of `tabu` to the best of all."""
    from real_blocks import real_blocks

    ladder = LADDER[:3] if arguments.quick else LADDER
    seeds = range(3 if arguments.quick else 10)
    head = [
        "block",
        "best peer",
        "its s",
        "tabu: median s",
        "worst s",
        "reached",
        "processor s",
        "first s",
        "a state s",
        "of the peer's",
        "bar",
    ]
    rows = []
    for block in real_blocks(arguments.blocks):
        problem = block.problem
        peers = _kept_peers(block.name, problem, ladder, again=arguments.peers_again)
        target = min(energy for energy, _ in peers.values())
        threshold = target + NEAR * abs(target)
        best, its = min(
            ((name, s) for name, (energy, s) in peers.items() if energy <= threshold), key=lambda pair: pair[1]
        )
        first, _ = seconds_to("tabu", problem, threshold, 1000, None)  # makes what a problem's later solves find made
        ours, own = zip(*(seconds_to("tabu", problem, threshold, seed, None) for seed in seeds), strict=True)
        ratio = its / statistics.median(ours)
        print(f"\n{block.name}: n = {problem.n}, k = {problem.cardinality}, mask {problem.energy(block.mask):.6g}")
        mean = problem.random_mean_energy()
        tabu_best = _solver("tabu").solve(problem, seed=0, time_limit=ladder[-1] / 10).first.energy
        for name, (energy, s) in sorted(peers.items(), key=lambda item: item[1]):
            lag = (energy - min(tabu_best, target)) / (mean - min(tabu_best, target))
            print(f"  {name:22} {energy:.9f}  gap {lag:.1e}  in {s:g} s")
        print(f"  {'tabu':22} {tabu_best:.9f}  in {ladder[-1] / 10:g} s", flush=True)
        rows.append(
            [block.name, best, f"{its:g}", *_times(ours), f"{statistics.median(own):.4f}", f"{first:.4f}",
             f"{seconds_of_a_state(problem):.4f}", f"1/{ratio:.0f}", _verdict(ratio >= 100, "1/100")]
        )  # fmt: skip
    print("\nseconds to the best energy of any peer, cold")
    _table(head, rows)


def seconds_of_a_state(problem: BlockProblem) -> float:
    """Seconds for one state of a dense problem: the sum of the rows of its ones, and its exact energy."""
    import numpy as np

    from solvers.local.kernels.states import matrix_fields

    single, fields = problem.single_energies, np.empty(problem.n, np.float32)
    (state,) = problem.random_states(1, 0)

    def work() -> None:
        matrix_fields(problem.form.matrix, single, state, fields)
        problem.energy(state)

    work()  # compiles
    return statistics.median(_timed(work)[0] for _ in range(20))


def _kept_peers(
    name: str, problem: BlockProblem, ladder: tuple[float, ...], *, again: bool
) -> dict[str, tuple[float, float]]:
    """The peers' results on a block, from a file if they are known."""
    from solvers.remote.ledger import fingerprint

    file = REPOSITORY / "runs" / "benchmarks" / f"peers_{name}_{ladder[-1]:g}s.json"
    kept = json.loads(file.read_text()) if file.exists() and not again else {}
    if kept.get("problem") != fingerprint(problem):
        kept = {"problem": fingerprint(problem), "peers": peers_on(problem, ladder)}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(kept))
    return {peer: (energy, s) for peer, (energy, s) in kept["peers"].items()}


def peers_on(problem: BlockProblem, ladder: tuple[float, ...]) -> dict[str, tuple[float, float]]:
    """The best energy of each peer within the longest time, and the shortest time in which it is found."""
    from block_peers import PEERS, PENALTIES, Peer

    found = {}
    for name in PEERS:
        tried = [
            (peer.best_in(ladder[-1], seed=0), p, peer)
            for p, peer in enumerate(Peer(name, problem, m) for m in PENALTIES)
        ]
        energy, _, peer = min(tried, key=lambda row: row[:2])
        energy = min(energy, *(peer.best_in(ladder[-1], seed) for seed in PEER_SEEDS[1:]))
        enough = energy + NEAR * abs(energy)
        need = next((s for s in ladder[:-1] if any(peer.best_in(s, seed) <= enough for seed in PEER_SEEDS)), ladder[-1])
        found[name] = energy, need
    return found


# MDPLIB


def mdplib(arguments: argparse.Namespace) -> None:
    """Time of `tabu` to the best known value of each instance of n = 500."""
    seeds = range(10 if arguments.quick else 100)
    rows = []
    for file_name, problem, threshold in mdplib_problems():
        best = problem.best_known.energy
        took, own = zip(*(seconds_to("tabu", problem, threshold, seed, None, 1.0) for seed in seeds), strict=True)
        good = max(took) <= 1.0 and statistics.median(took) < 0.05
        rows.append([file_name, f"{-best:.2f}", *_times(took), *_times(own)[:2], _verdict(good, "all, median 0.05")])
    print("\nmaximum diversity, n = 500, `tabu`, limit 1 s")
    _table(
        ["instance", "best known", "median s", "worst s", "reached", "processor: median", "worst", "bar"], rows
    )  # fmt: skip


def mdplib_problems() -> Iterator[tuple[str, BlockProblem, float]]:
    """MDPLIB's instances of n = 500: files' names, problems, and the energies that count as the best known."""
    from problems import instances

    with open(DATA / "mdplib" / "best.csv", newline="") as file:
        files = [row["file"] for row in csv.DictReader(file) if row["n"] == "500"]
    for file_name in files:
        problem = instances.read_mdplib(DATA / "mdplib" / file_name)
        best = problem.best_known.energy
        yield file_name, problem, best + 0.005 + 1e-7 * abs(best)  # the best values are printed with two digits


def large(arguments: argparse.Namespace) -> None:
    """Time of `tabu` to the best of a long run on a random instance of n = 2,000, m = 200."""
    problem = diversity_instance(2000, 200)
    target = _best_of_long_run(problem, 60.0 if arguments.quick else 600.0)
    seeds = range(4 if arguments.quick else 20)
    threshold = target + 0.005
    runs = [seconds_to("tabu", problem, threshold, seed, None, LARGE_LIMIT) for seed in seeds]
    took, own = zip(*runs, strict=True)
    enough = sum(t <= LARGE_LIMIT for t in took) >= 0.75 * len(took)
    print("\nrandom maximum diversity, n = 2,000, m = 200, `tabu`, limit 20 s")
    row = [f"{-target:.2f}", *_times(took), *_times(own)[:2], _verdict(enough, "15 of 20")]
    _table(
        ["best of a long run", "median s", "worst s", "reached", "processor: median", "worst", "bar"], [row]
    )  # fmt: skip


def diversity_instance(n: int, m: int, seed: int = 0) -> BlockProblem:
    """A maximum diversity problem: m of n elements, distances uniform in 0 .. 10 with two digits."""
    import numpy as np

    from problems import BlockProblem

    distances = np.triu(np.random.default_rng(seed).integers(0, 1001, (n, n)) / 100.0, 1)
    return BlockProblem((-0.5 * (distances + distances.T)).astype(np.float32), None, m)


def _best_of_long_run(problem: BlockProblem, seconds: float) -> float:
    """The best energy of a long run, from a file if it is known."""
    file = REPOSITORY / "runs" / "benchmarks" / f"diversity_{problem.n}_{problem.cardinality}_{seconds:.0f}s.json"
    if not file.exists():
        energy = _solver("tabu").solve(problem, seed=12345, time_limit=seconds).first.energy
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"energy": energy}))
    return float(json.loads(file.read_text())["energy"])


# A million weights


def million(arguments: argparse.Namespace) -> None:
    """`sa` on low-rank blocks of 10^5 and 10^6 weights, each in a separate process."""
    rows, results = [], {}
    for n in (100_000, 1_000_000):
        command = [sys.executable, __file__, "--child", str(n)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        r = results[n] = json.loads(done.stdout)
        rows.append(
            [
                f"{n:,}",
                f"{r['seconds']:.1f}",
                f"{r['processor']:.1f}",
                f"{1e9 * r['proposal']:.0f}",
                f"{r['peak'] / 1e9:.2f}",
                f"{r['gap']:.4f}",
            ]
        )
    print("\nlow-rank block, rank 200, float32: `sa`, 1 restart of 10 sweeps (n proposals each)")
    _table(["n", "seconds", "of the processor", "ns a proposal", "peak GB of the process", "energy / start"], rows)
    large = results[1_000_000]
    ratio = large["proposal"] / results[100_000]["proposal"]
    print(f"seconds {large['seconds']:.1f}: {_verdict(large['seconds'] < 5, 'less than 5')}")
    print(f"peak {large['peak'] / 1e9:.2f} GB: {_verdict(large['peak'] < 2e9, 'less than 2 GB')}")
    print(f"time of a proposal x {ratio:.2f} from 10^5 to 10^6: {_verdict(ratio <= 2, 'at most 2')}")


def _anneal_low_rank(n: int, rank: int = 200) -> dict[str, float]:
    import numpy as np

    from problems import BlockProblem

    rng = np.random.default_rng(0)
    A = np.empty((n, rank), np.float32)
    for start in range(0, n, 1 << 16):  # heavy-tailed rows, as w0 times gradients are
        rows = A[start : start + (1 << 16)]
        rng.standard_normal(out=rows, dtype=np.float32)
        rows *= (1e-3 * rng.standard_normal((len(rows), 1)) ** 3).astype(np.float32)
    problem = BlockProblem.low_rank(A, 1e-4 * rng.standard_normal(n), n // 2)
    solver = _solver("sa", restarts=1, sweeps=10)
    solver._set_up(problem)
    begun = time.process_time()
    took, answer = _timed(lambda: solver.solve(problem, seed=0))
    processor = time.process_time() - begun
    proposal = answer.info["annealing_seconds"] / answer.info["proposals"]
    start_energy = problem.energy(problem.random_states(1, 0)[0])
    unit = 1024 if sys.platform != "darwin" else 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "seconds": took,
        "processor": processor,
        "proposal": proposal,
        "peak": peak,
        "gap": answer.first.energy / start_energy,
    }


# Limits


def limits(arguments: argparse.Namespace) -> None:
    """Moves per second, and their share of the machine's limit."""
    from machine_limits import limits_table

    print("\nmoves on dense random problems, one core, seconds of processor time; first row: what the machine can do")
    _table(["n", "tabu steps/s", "GB/s", "GFlop/s", "sa proposals/s", "tabu's share"], limits_table())


PARTS = {"real": real, "mdplib": mdplib, "large": large, "million": million, "limits": limits}


# Timing and tables


def _solver(name: str, **settings: Any) -> Any:
    import solvers

    return solvers.get_solver(name, threads=1, **settings)


def seconds_to(
    name: str,
    problem: BlockProblem,
    threshold: float,
    seed: int,
    start: np.ndarray | None,
    limit: float = LIMIT,
) -> tuple[float, float]:
    """Seconds of a whole `solve` to a target, preparation included: wall clock and processor time.

    The first is infinite where the target is missed.
    """
    solver = _solver(name)
    solver._set_up(problem)
    begun = time.thread_time()
    took, answer = _timed(
        lambda: solver.solve(problem, seed=seed, target=threshold, time_limit=limit, initial_states=start)
    )
    own = time.thread_time() - begun
    return took if answer.first.energy <= threshold else float("inf"), own


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def _times(seconds: Sequence[float]) -> list[str]:
    reached = sum(t != float("inf") for t in seconds)
    return [f"{statistics.median(seconds):.4f}", f"{max(seconds):.4f}", f"{reached} of {len(seconds)}"]


def _verdict(good: bool, bar: str) -> str:
    return f"{bar}: {'met' if good else 'MISSED'}"


def _table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[c]) for row in [head, *rows]) for c in range(len(head))]
    for row in [head, ["-" * w for w in widths], *rows]:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
