"""How fast `sa` and `tabu` are on block problems, beside dwave-samplers, in one process on one core.

    python benchmarks/block_solvers.py [--quick] [--only real,mdplib,million]

Three parts, each with the bar that it is held to:

- real: a dense pruning block of n = 1024 out of MLPNet on MNIST. The target is the best energy that dwave-samplers'
  TabuSampler finds in 2 s (penalty 10 mean|Q| sqrt(n)); then all solvers are timed to that target, cold and from the
  current mask. `tabu` in at most 1/100 and `sa` in at most 1/20 of TabuSampler's median time.
- mdplib: the instances of n = 500 of the maximum-diversity library. `tabu` reaches the best value known with 20 of 20
  seeds within 1 s each, in a median time of less than 0.15 s.
- million: a low-rank block of n = 1,000,000, rank 200, in a process of its own. `sa` anneals it for 10 sweeps in less
  than 15 s with a peak memory of less than 2 GB, and a proposal takes at most twice as long as at n = 100,000.

The data are found through HYBRID_ICBS_DATA (default: ../shared/data beside the repository). Compilation is not timed.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from problems import BlockProblem

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("HYBRID_ICBS_DATA", REPOSITORY.parent / "shared" / "data"))

LIMIT = 30.0  # seconds after which a solver has missed the target
NEAR = 1e-6  # share of the target by which energies may differ and count as equal: all solvers round


def main() -> None:
    parser = argparse.ArgumentParser(description="Time sa and tabu on block problems; see the top of this file.")
    parser.add_argument("--quick", action="store_true", help="fewer seeds")
    parser.add_argument("--only", default="real,mdplib,million", help="parts to run, with commas")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    _one_core()
    if arguments.child:
        print(json.dumps(_anneal_low_rank(arguments.child)))
        return
    for part in arguments.only.split(","):
        {"real": real, "mdplib": mdplib, "million": million}[part](arguments.quick)


def _one_core() -> None:
    """Keep this process to one processor; BLAS and numba read their variables when they are first imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


# A real dense block


def real(quick: bool) -> None:
    """Time to the target on real blocks of n = 1024, cold and from the current mask."""
    seeds = range(3 if quick else 15)
    peer_seeds = range(3 if quick else 7)
    for samples in (200, 1000):
        problem, mask = mlpnet_block(samples)
        peer = Peer(problem)
        target = peer.best_in(2.0, seed=1000)
        threshold = target + NEAR * abs(target)
        print(f"\nreal block of MLPNet, n = {problem.n}, k = {problem.cardinality}, N = {samples} samples")
        print(f"target {target:.9f} (TabuSampler, 2 s); current mask {problem.energy(mask):.9f}")
        rows = []
        for start, state in (("cold", None), ("from the mask", mask)):
            theirs = [peer.seconds_to(threshold, seed, state) for seed in peer_seeds]
            rows.append([start, "TabuSampler", *_times(theirs), "1", ""])
            for name, share in (("tabu", 100), ("sa", 20)):
                ours = [seconds_to(name, problem, threshold, seed, state) for seed in seeds]
                ratio = statistics.median(theirs) / statistics.median(ours)
                rows.append([start, name, *_times(ours), f"1/{ratio:.0f}", _verdict(ratio >= share, f"1/{share}")])
        _table(["start", "solver", "median s", "worst s", "reached", "of the peer's time", "bar"], rows)
    print("\nwork budgets without a time limit (what a pruning step costs), seconds of one solve:")
    rows = []
    for name in ("tabu", "sa"):
        solver = _solver(name)
        took = [_timed(functools.partial(solver.solve, problem, seed=seed))[0] for seed in seeds]
        rows.append([name, f"{statistics.median(took):.4f}"])
    _table(["solver", "median s"], rows)


def mlpnet_block(samples: int, n: int = 1024, density: float = 0.1) -> tuple[BlockProblem, np.ndarray]:
    """The block of MLPNet's first layer at a density by magnitude, and its current mask (1 = pruned now).

    Candidates: of the pruned weights those of largest |g w0|, of the kept ones those of least; gamma 0.75, rho 0.001.
    """
    import numpy as np
    import torch
    from safetensors.torch import load_file
    from torch.func import functional_call, grad, vmap

    from problems import BlockProblem

    dense = {name: w.double() for name, w in load_file(DATA / "checkpoints" / "mlpnet_mnist.safetensors").items()}
    pruned = {name: w * (w.abs() > w.abs().flatten().quantile(1 - density)) for name, w in dense.items()}
    with np.load(DATA / "mnist" / "train.npz") as archive:
        chosen = np.random.default_rng(0).choice(len(archive["y"]), samples, replace=False)
        x = torch.tensor((archive["x"][chosen].reshape(samples, -1) / 255 - 0.1307) / 0.3081)
        y = torch.tensor(archive["y"][chosen].astype(np.int64))
    sizes = [dense[f"fc{layer}.weight"].shape for layer in (1, 2, 3)]
    model = torch.nn.ModuleDict(
        {f"fc{t}": torch.nn.Linear(s[1], s[0], bias=False, dtype=torch.double) for t, s in enumerate(sizes, 1)}
    )

    def loss(first: torch.Tensor, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        def forward(weights: dict[str, torch.Tensor]) -> torch.Tensor:
            hidden = functional_call(model["fc1"], {"weight": weights["fc1.weight"]}, (image,)).relu()
            hidden = functional_call(model["fc2"], {"weight": weights["fc2.weight"]}, (hidden,)).relu()
            return functional_call(model["fc3"], {"weight": weights["fc3.weight"]}, (hidden,))

        return torch.nn.functional.cross_entropy(forward({**pruned, "fc1.weight": first}), label)

    G = vmap(grad(loss), (None, 0, 0))(pruned["fc1.weight"], x, y).reshape(samples, -1)
    w0, w = dense["fc1.weight"].flatten(), pruned["fc1.weight"].flatten()
    score = (G.mean(0) * w0).abs()
    cut, kept = (w == 0).nonzero().flatten(), (w != 0).nonzero().flatten()
    worth_restoring = cut[score[cut].topk(n // 2).indices]
    worth_pruning = kept[score[kept].topk(n // 2, largest=False).indices]
    block = torch.cat([worth_restoring, worth_pruning]).sort().values
    G, w0, dw = G[:, block], w0[block], (w - w0)[block]
    A = (w0[:, None] * G.T) / (2 * samples) ** 0.5
    Hdw = G.T @ (G @ dw) / samples
    linear = w0 * Hdw - 0.75 * w0 * G.mean(0) + 0.001 * w0 * (2 * dw + w0)
    Q = (A @ A.T).numpy()
    mask = (w[block] == 0).numpy().astype(np.int8)
    linear_and_diagonal = linear.numpy() + np.diagonal(Q)
    np.fill_diagonal(Q, 0)
    return BlockProblem(((Q + Q.T) / 2).astype(np.float32), linear_and_diagonal, int(mask.sum())), mask


class Peer:
    """dwave-samplers' TabuSampler on a block, with the penalty that suits it best."""

    def __init__(self, problem: BlockProblem) -> None:
        import numpy as np

        penalty = 10 * float(np.abs(problem.form.dense()).mean()) * problem.n**0.5
        self._problem, self._bqm = problem, problem.to_bqm(penalty=penalty)
        # The sampler compares its threshold with energies that leave the model's offset out.
        self._offset = float(self._bqm.offset)
        self._bqm.offset = 0.0

    def best_in(self, seconds: float, seed: int) -> float:
        """The energy of the best state it finds in so many seconds."""
        return float(self._problem.energy(self._state(seconds, seed)))

    def seconds_to(self, threshold: float, seed: int, start: np.ndarray | None) -> float:
        """Seconds until it finds a state of that energy; infinite where it does not."""
        settings: dict[str, Any] = {"energy_threshold": threshold - self._offset}
        if start is not None:
            settings["initial_states"] = (start[None], range(self._problem.n))
        took, state = _timed(lambda: self._state(LIMIT, seed, **settings))
        slack = NEAR * abs(threshold)
        reached = self._problem.is_feasible(state) and self._problem.energy(state) <= threshold + slack
        return took if reached else float("inf")

    def _state(self, seconds: float, seed: int, **settings: Any) -> np.ndarray:
        from dwave.samplers import TabuSampler

        found = TabuSampler().sample(self._bqm, timeout=int(1000 * seconds), seed=seed, **settings)
        order = [found.variables.index(v) for v in range(self._problem.n)]
        return found.record.sample[0, order]


# MDPLIB


def mdplib(quick: bool) -> None:
    """Time of `tabu` to the best known value of each instance of n = 500."""
    from problems import instances

    with open(DATA / "mdplib" / "best.csv", newline="") as file:
        files = [row["file"] for row in csv.DictReader(file) if row["n"] == "500"]
    seeds = range(5 if quick else 20)
    rows = []
    for file_name in files:
        problem = instances.read_mdplib(DATA / "mdplib" / file_name)
        best = problem.best_known.energy
        threshold = best + 0.005 + 1e-7 * abs(best)  # the best values are printed with two digits
        took = [seconds_to("tabu", problem, threshold, seed, None, limit=1.0) for seed in seeds]
        reached = sum(t <= 1.1 for t in took)
        good = reached == len(took) and statistics.median(took) < 0.15
        rows.append([file_name, f"{-best:.2f}", *_times(took), _verdict(good, "all, median 0.15")])
    print("\nmaximum diversity, n = 500, `tabu`, limit 1 s")
    _table(["instance", "best known", "median s", "worst s", "reached", "bar"], rows)


# A million weights


def million(quick: bool) -> None:
    """`sa` on low-rank blocks of 10^5 and 10^6 weights, each in a process of its own."""
    rows, results = [], {}
    for n in (100_000, 1_000_000):
        command = [sys.executable, __file__, "--child", str(n)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        r = results[n] = json.loads(done.stdout)
        rows.append(
            [f"{n:,}", f"{r['seconds']:.1f}", f"{1e9 * r['proposal']:.0f}", f"{r['peak'] / 1e9:.2f}", f"{r['gap']:.4f}"]
        )
    print("\nlow-rank block, rank 200, float32: `sa`, 1 restart of 10 sweeps (n proposals each)")
    _table(["n", "seconds", "ns a proposal", "peak GB of the process", "energy / start"], rows)
    large = results[1_000_000]
    ratio = large["proposal"] / results[100_000]["proposal"]
    print(f"seconds {large['seconds']:.1f}: {_verdict(large['seconds'] < 15, 'less than 15')}")
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
    solver._warm_up(problem)
    took, answer = _timed(lambda: solver.solve(problem, seed=0))
    proposal = answer.info["annealing_seconds"] / answer.info["proposals"]
    start_energy = problem.energy(problem.random_states(1, 0)[0])
    unit = 1024 if sys.platform != "darwin" else 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"seconds": took, "proposal": proposal, "peak": peak, "gap": answer.first.energy / start_energy}


# Timing and tables


def _solver(name: str, **settings: Any) -> Any:
    import solvers

    return solvers.get_solver(name, threads=1, **settings)


def seconds_to(
    name: str, problem: BlockProblem, threshold: float, seed: int, start: np.ndarray | None, limit: float = LIMIT
) -> float:
    """Seconds of a whole `solve` to a target, preparation and answer included; infinite where it is missed."""
    solver = _solver(name)
    solver._warm_up(problem)
    took, answer = _timed(
        lambda: solver.solve(problem, seed=seed, target=threshold, time_limit=limit, initial_states=start)
    )
    return took if answer.first.energy <= threshold else float("inf")


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def _times(seconds: list[float]) -> list[str]:
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
