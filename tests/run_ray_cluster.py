"""A local Ray cluster of three nodes, two of which are killed at work: `python run_ray_cluster.py FOLDER`."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ray.cluster_utils import Cluster

from problems import BlockProblem
from solvers import get_solver
from solvers.dispatch import get_dispatch
from solvers.dispatch.base import stop_requested
from solvers.dispatch.ray_setup import undisturbed


def blocks() -> list[BlockProblem]:
    rng = np.random.default_rng(1)
    B = rng.standard_normal((300, 300))
    shared = B + B.T
    return [BlockProblem.scaled(shared, rng.standard_normal(300), cardinality=100) for _ in range(8)]


def same(answers: list[Any], others: list[Any]) -> bool:
    return all(
        np.array_equal(a.record.sample, b.record.sample) and np.array_equal(a.record.energy, b.record.energy)
        for a, b in zip(answers, others, strict=True)
    )


def where(task: tuple[str, int]) -> str:
    """Record the node of each attempt, then wait, so that the node can be killed meanwhile."""
    import ray

    folder, number = task
    node = str(ray.get_runtime_context().get_node_id())
    with (Path(folder) / f"task-{number}").open("a") as file:
        file.write(node + "\n")
    for _ in range(150):
        if stop_requested():
            break
        time.sleep(0.01)
    return node


def main(folder: Path) -> None:
    with undisturbed():
        # The head node runs no tasks; the three others do.
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    solver = get_solver("sa?restarts=3&sweeps=100")
    alone = solver.solve_many(blocks(), seed=5)
    with get_dispatch("ray", address=cluster.address) as dispatch:
        together = dispatch.solve(solver, blocks(), seed=5)
        print(f"{dispatch.workers} nodes of 1 processor: answers the same {same(together, alone)}")

        # Kill a node while it runs a task, which is then restarted on another node.
        lost = nodes[1]
        marks = [folder / f"task-{number}" for number in range(8)]
        killed: list[Path] = []

        def kill_the_node_at_work() -> bool:
            at_work = [mark for mark in marks if mark.exists() and lost.node_id in mark.read_text()]
            if at_work and not killed:
                killed.append(at_work[-1])
                cluster.remove_node(lost, allow_graceful=False)
            return False

        tasks = [(str(folder), number) for number in range(8)]
        results = dict(dispatch.map(where, tasks, stop=kill_the_node_at_work))
        attempts = killed[0].read_text().split()
        again = attempts[0] == lost.node_id and len(attempts) == 2 and attempts[1] != lost.node_id
        print(f"a node killed at a task: restarted elsewhere {again}, all results {sorted(results) == list(range(8))}")

        # Kill a node during a solve.
        longer = get_solver("sa?restarts=4&sweeps=20000")
        expected = longer.solve_many(blocks(), seed=9)
        polls, removed = 0, False

        def remove_a_node() -> bool:
            nonlocal polls, removed
            polls += 1
            if not removed and polls == 3:
                removed = True
                cluster.remove_node(nodes[2], allow_graceful=False)
            return False

        answers = dispatch.solve(longer, blocks(), seed=9, stop=remove_a_node)
        assert removed
        print(f"a node killed at a solve: answers the same {same(answers, expected)}")
    cluster.shutdown()


if __name__ == "__main__":
    logging.getLogger("ray").setLevel(logging.ERROR)
    main(Path(sys.argv[1]))
