"""Test accuracy after pruning, compared with magnitude pruning, and the cost of a round.

    python benchmarks/pruning_quality.py [mlpnet] [classifier] [resnet20] [round] [--seeds 3] [--first-seed 0]
                                          [--threads 1] [--update backsolve] [--scope global]

Models and data come from HYBRID_ICBS_DATA (see benchmarks/models.py). Kept weights keep their dense values, unless
`--update backsolve` refits them after every round, on batches of the calibration data. The bars are this
project's targets; with refits, the results of CHITA++'s published code in 15 stages on the same data.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import models
import numpy as np
import torch
from torch import nn

import solvers
from hybrid_icbs import Config, Pruner, evaluate
from hybrid_icbs.data.batch_norm import recalibrate_batch_norm
from hybrid_icbs.data.calibration import CalibrationData
from hybrid_icbs.pruning import complete

PARTS = ("gradients", "problems", "solve", "merge", "guard")

Tensors = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One line of a table: settings, and the accuracy it should reach (in per cent), by masks only and refitted."""

    density: float
    scope: str
    bar: float
    refitted_bar: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)


MLPNET = {"steps": 60, "block_size": 512, "batch_size": 1000}
CLASSIFIER = {"steps": 40, "block_size": 1024, "batch_size": 200}
RESNET = {"steps": 40, "block_size": 2048, "batch_size": 1000, "guard_size": 2000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["mlpnet", "classifier", "resnet20", "round"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--first-seed", type=int, default=0, help="the defaults were chosen on 0 to 5: others are fresh"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting, for trials")
    parser.add_argument("--scope", choices=["global", "layer"], help="only the lines of one scope")
    parser.add_argument("--update", choices=["none", "backsolve"], default="none", help="refit survivors")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    extra = Config.of(density=0.5, **dict(s.split("=") for s in arguments.set)).model_dump(
        include={s.split("=")[0] for s in arguments.set}
    ) | {"update": arguments.update}
    if "mlpnet" in arguments.what:
        cases = [Case(0.1, "layer", 75.0), Case(0.05, "layer", 54.0)]
        cases += [Case(0.1, "global", 92.0, 93.0), Case(0.05, "global", 89.3, 92.76), Case(0.02, "global", 81.0, 88.31)]
        table("MLPNet, MNIST", models.mlpnet(), models.mnist, cases, MLPNET | extra, arguments)
    if "classifier" in arguments.what:
        cases = [Case(0.05, "layer", 95.5)]
        cases += [Case(0.05, "global", 97.3), Case(0.02, "global", 95.5), Case(0.01, "global", 92.5)]
        table("784-512-512-10, MNIST", models.classifier(), models.mnist, cases, CLASSIFIER | extra, arguments)
    if "resnet20" in arguments.what:
        resnet20(RESNET | extra, arguments)
    if "round" in arguments.what:
        round_times(arguments)


def table(
    title: str, model: nn.Module, data: Any, cases: list[Case], settings: dict[str, Any], arguments: argparse.Namespace
) -> None:
    train, test = data("train"), data("test")
    dense = 100 * accuracy(model, test)
    print(f"\n{title}: dense {dense:.2f}; {settings}; seeds {_seeds(arguments)}, {arguments.threads} thread(s)")
    print(f"{'density':>8} {'scope':>7} {'magnitude':>10} {'iCBS':>10} {'bar':>6}  by seed; accepted; seconds a run")
    for case in [case for case in cases if arguments.scope in (None, case.scope)]:
        found, accepted, seconds = [], [], []
        for seed in _seeds(arguments):
            given = settings | {"density": case.density, "scope": case.scope, "seed": seed}
            config = Config.of(backend=backend(arguments), **given)
            magnitude = 100 * accuracy(Pruner(model, train, config.model_copy(update={"steps": 0})).model, test)
            start = time.perf_counter()
            pruner = Pruner(model, train, config)
            result = complete(pruner, progress=False)
            seconds.append(time.perf_counter() - start)
            accepted.append(sum(row["accepted"] for row in result.history))
            found.append(100 * accuracy(result.model, test))
        mean = statistics.mean(found)
        bar = case.bar if arguments.update == "none" else case.refitted_bar
        verdict = f"{'':6} {'':5}" if bar is None else f"{bar:6.2f} {'ok' if mean >= bar else 'BELOW':5}"
        print(
            f"{case.density:8.2f} {case.scope:>7} {magnitude:10.2f} {mean:10.2f} {verdict} "
            f"{' '.join(f'{f:.2f}' for f in found)}; {accepted}; {statistics.mean(seconds):.1f}",
            flush=True,
        )


def resnet20(settings: dict[str, Any], arguments: argparse.Namespace) -> None:
    """ResNet-20 with batch norm: every method with and without recomputed statistics."""
    train, test = models.cifar10("train"), models.cifar10("test")
    samples, everything = CalibrationData(train), np.arange(len(train[0]))
    model = models.resnet20()
    recalibrate_batch_norm(model, samples, everything)
    print(f"\nResNet-20, CIFAR-10: dense {100 * accuracy(model, test):.2f}; {settings}; seeds {_seeds(arguments)}")
    print(f"{'density':>8} {'method':>10} {'as pruned':>10} {'recalibrated':>13}  bar; by seed; seconds a run")
    for density, margin in ((0.3, 3.0), (0.2, 8.0)):
        base: float | None = None
        for method in ("magnitude", "iCBS"):
            plain, fresh, seconds = [], [], []
            for seed in _seeds(arguments) if method == "iCBS" else [0]:
                start_only: dict[str, Any] = {"steps": 0, "guard": "off", "guard_size": None, "update": "none"}
                given = settings | (start_only if method == "magnitude" else {})
                given |= {"density": density, "seed": seed, "recalibrate_bn": False}
                config = Config.of(backend=backend(arguments), **given)
                start = time.perf_counter()
                result = complete(Pruner(model, train, config), progress=False)
                seconds.append(time.perf_counter() - start)
                plain.append(100 * accuracy(result.model, test))
                recalibrate_batch_norm(result.model, samples, everything)
                fresh.append(100 * accuracy(result.model, test))
            mean = statistics.mean(fresh)
            if base is None:
                base, verdict = mean, ""
            else:
                verdict = f"{base + margin:.1f} {'ok' if mean >= base + margin else 'BELOW'}"
            print(
                f"{density:8.2f} {method:>10} {statistics.mean(plain):10.2f} {mean:13.2f}  {verdict}; "
                f"{' '.join(f'{f:.2f}' for f in fresh)}; {statistics.mean(seconds):.1f}",
                flush=True,
            )


def round_times(arguments: argparse.Namespace) -> None:
    """One ask over the three layers of the classifier, three blocks solved and merged."""
    model, train = models.classifier(), models.mnist("train")
    solver = solvers.get_solver(backend(arguments))
    print(f"\nA round of three blocks, n = 1024, N = 200, {arguments.threads} thread(s): seconds")
    print(f"{'guard':>8} {'median':>8} {'bar':>6}  gradients, problems, solve, merge, guard (medians)")
    for guard, size, bar in (("off", None, 0.1), ("refuse", 1000, 0.15), ("refuse", 5000, 0.3)):
        given: dict[str, Any] = {"guard": guard, "guard_size": size, "steps": 90, "round_size": 3}
        config = Config.of(density=0.05, scope="layer", block_size=1024, batch_size=200, **given)
        pruner = Pruner(model, train, config)
        marks = [time.perf_counter()]
        pruner.run(solver, after_round=lambda _, marks=marks: marks.append(time.perf_counter()))
        seconds = statistics.median(np.diff(marks)[3:])
        rows = pruner.history[9::3]
        parts = [statistics.median(row[f"seconds_{part}"] for row in rows) for part in PARTS]
        verdict = "ok" if seconds <= bar else "ABOVE"
        print(f"{size or 0:8} {seconds:8.4f} {bar:6.2f} {verdict} {', '.join(f'{p:.4f}' for p in parts)}", flush=True)


def _seeds(arguments: argparse.Namespace) -> list[int]:
    return list(range(arguments.first_seed, arguments.first_seed + arguments.seeds))


def backend(arguments: argparse.Namespace) -> str:
    return f"tabu?threads={arguments.threads}"


def accuracy(model: nn.Module, test: Tensors) -> float:
    value = evaluate(copy.deepcopy(model), test).accuracy
    assert value is not None
    return value


if __name__ == "__main__":
    main()
