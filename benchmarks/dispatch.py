"""The cost of sending blocks to other threads, processes or a Ray cluster, and from which solve time it is worth it.

    python benchmarks/dispatch.py [--workers 1,2] [--ways threads,processes,ray] [--sizes 256,1024,4096] [--blocks 8]

Blocks of 256 and 1,024 variables are dense (float64), those of 4,096 low-rank (rank 200, float32). Two tables:

- the cost: bytes of a block and of its answer, milliseconds to serialise a block to where workers find it (send), and
  milliseconds of a task that reads the whole block and returns an answer (round trip). From
  these, the solve time from which w workers are faster than one thread: with cost c and nothing overlapped, they need
  c + s / w per block, so s = c w / (w - 1).
- blocks a second, solved by `tabu` with its default work: medians of three runs after a warm-up, and the seconds to the
  first answer.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import dimod
import numpy as np

from problems import BlockProblem
from solvers import get_solver
from solvers.dispatch import Dispatch, Handle, get_dispatch

RANK = 200
PLACES = (2, 8, 64)  # numbers of workers for which the smallest worthwhile solve time is printed


def main() -> None:
    parser = argparse.ArgumentParser(description="Time blocks on their way; see the top of this file.")
    parser.add_argument("--workers", default="1,2", help="numbers of workers, with commas")
    parser.add_argument("--ways", default="threads,processes,ray", help="ways, with commas")
    parser.add_argument("--sizes", default="256,1024,4096", help="variables of a block, with commas")
    parser.add_argument("--blocks", type=int, default=8, help="blocks of each size")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sizes = [int(size) for size in arguments.sizes.split(",")]
    numbers = [int(number) for number in arguments.workers.split(",")]
    blocks = {n: [block(n, seed) for seed in range(arguments.blocks)] for n in sizes}
    the_way([way for way in arguments.ways.split(",") if way != "threads"], blocks)
    blocks_a_second(arguments.ways.split(","), numbers, blocks)


def block(n: int, seed: int) -> BlockProblem:
    """A random block like those of pruning: a factor of few columns, dense up to 1,024 variables."""
    rng = np.random.default_rng([n, seed])
    A = rng.standard_normal((n, RANK)).astype(np.float32) / np.float32(np.sqrt(RANK))
    c = rng.standard_normal(n)
    if n > 1024:
        return BlockProblem.low_rank(A, c, cardinality=n // 2)
    whole = A.astype(np.float64)
    return BlockProblem(whole @ whole.T, c, cardinality=n // 2)


# The way


def the_way(ways: list[str], blocks: dict[int, list[BlockProblem]]) -> None:
    print("the way of a block, one worker")
    print(f"{'n':>6} {'way':>10} {'block':>10} {'answer':>9} {'send':>9} {'round trip':>11}   pays from, with workers")
    for way in ways:
        with get_dispatch(way, workers=1) as dispatch:
            list(dispatch.map(abs, [1]))
            for n, some in blocks.items():
                answer = get_solver("sa?restarts=1&sweeps=1").solve(some[0], seed=0)
                list(sent(dispatch, some, answer))  # the first time each page of memory is new
                size, send, trip = (
                    statistics.median(column) for column in zip(*sent(dispatch, some, answer), strict=True)
                )
                cost = send + trip
                pays = "  ".join(f"{w}: {1e3 * cost * w / (w - 1):.2f} ms" for w in PLACES)
                print(
                    f"{n:6d} {way:>10} {size / 1e6:7.2f} MB {len(pickle.dumps(answer)) / 1e3:6.1f} KB "
                    f"{1e3 * send:6.2f} ms {1e3 * trip:8.2f} ms   {pays}"
                )


def sent(
    dispatch: Dispatch, problems: list[BlockProblem], answer: dimod.SampleSet
) -> Iterator[tuple[int, float, float]]:
    """Bytes, seconds to send, and seconds of a round trip for each problem."""
    for problem in problems:
        handle, send = timed(lambda problem=problem: dispatch.share(problem))
        _, trip = timed(lambda handle=handle: list(dispatch.map(read, [(handle, answer)])))
        yield handle.nbytes, send, trip
        handle.release()


def read(task: tuple[Handle[BlockProblem], dimod.SampleSet]) -> dimod.SampleSet:
    """Read every coefficient, as a solver does, and return an answer."""
    handle, answer = task
    form: Any = handle.get().form
    (form.factor if handle.get().is_low_rank else form.matrix).sum()
    return answer


# Blocks a second


def blocks_a_second(ways: list[str], numbers: list[int], blocks: dict[int, list[BlockProblem]]) -> None:
    print("\nblocks a second by tabu, and seconds to the first answer")
    print(f"{'way':>10} {'workers':>7} {'first':>8} " + " ".join(f"{f'n = {n}':>10}" for n in blocks))
    smallest = blocks[min(blocks)][:1]
    for way, workers in [("serial", 0), *((way, number) for way in ways for number in numbers)]:
        options = {"workers": workers} if workers else {}
        with get_dispatch(way, **options) as dispatch:
            first = solved(dispatch, smallest)
            rates = []
            for some in blocks.values():
                solved(dispatch, some)
                rates.append(len(some) / statistics.median(solved(dispatch, some) for _ in range(3)))
        print(f"{way:>10} {workers:7d} {first:6.2f} s " + " ".join(f"{rate:10.1f}" for rate in rates))


def solved(dispatch: Dispatch, problems: list[BlockProblem]) -> float:
    """Seconds to solve them."""
    return timed(lambda: dispatch.solve(get_solver("tabu"), problems, seed=0))[1]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    value = work()
    return value, time.perf_counter() - begun


if __name__ == "__main__":
    main()
