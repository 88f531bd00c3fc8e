"""Relation of block energy and loss: many states of each block are merged into the model and measured.

    python benchmarks/energy_vs_loss.py [mlpnet] [classifier] [layers] [--seeds 3] [--out FOLDER]

mlpnet, classifier: blocks of the objective "loss" at the start of a run and after 20 rounds of one block with fixed
damping. About 200 states of each (energy_states.py) are merged into the model, and the loss is measured on 10,000
training images that the run does not use. Batch size N, relative damping rho and block size n vary around N = 200,
rho = 0.1, n = 512.

layers: whole layers pruned at once, with the energies of the objectives "layer", "joint" and "loss" for the same states
(energy_layers.py), on MLPNet and llama-shakespeare.

The table shows Spearman's rank correlation of energy and loss over all states, over those not above the present mask,
and over the quarter of least energy; and the losses of the present mask, of the state of least energy, and the least
loss with its gap (0 the least energy, 1 a random state). Every state is a line of the .csv; --again makes tables and
plots (.svg) from it.
Models and data come from HYBRID_ICBS_DATA.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import models
import numpy as np
import torch
import torch.nn.functional as F
from energy_layers import LAYERS, layer_cases
from energy_states import ladder
from scipy.stats import spearmanr

import solvers
from hybrid_icbs import Config, Pruner
from problems import BlockProblem

HELD_OUT = 10_000
BEST_SHARE = 0.25
STEPS = 20
"""Rounds before a block of the later stage: its block is solved, and merged unless the guard refuses."""

NETWORKS = {"mlpnet": (models.mlpnet, 0.1), "classifier": (models.classifier, 0.02)}
COLUMNS = ("network", "objective", "stage", "samples", "rho", "n", "seed", "kind", "energy", "gap", "loss")


@dataclass(frozen=True)
class Case:
    """A block, its states and their losses."""

    network: str
    objective: str
    stage: str
    samples: int
    rho: float
    n: int
    seed: int
    kinds: np.ndarray
    energies: np.ndarray
    losses: np.ndarray
    random_energy: float

    @property
    def gaps(self) -> np.ndarray:
        """0 at the least energy, 1 at that of a random state."""
        return (self.energies - self.energies.min()) / (self.random_energy - self.energies.min())

    @property
    def present(self) -> np.ndarray:
        """Which state is the present mask [s]; if none is, the best one."""
        named = self.kinds == "mask"
        return named if named.any() else self.kinds == "best"

    @property
    def setting(self) -> tuple[object, ...]:
        """What cases of different seeds have in common."""
        return (self.network, self.objective, self.stage, self.samples, self.rho, self.n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["mlpnet", "classifier", "layers"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=models.CACHE / "energy_vs_loss")
    parser.add_argument("--again", action="store_true", help="tables and plots of what was measured before")
    arguments = parser.parse_args()
    if unknown := set(arguments.what) - {*NETWORKS, "layers"}:
        parser.error(f"{' '.join(sorted(unknown))}: there are {', '.join(NETWORKS)} and layers")
    missing = [file for what in arguments.what if not (file := arguments.out / f"{what}.csv").exists()]
    if arguments.again and missing:
        parser.error(f"nothing was measured yet: {', '.join(map(str, missing))} (leave out --again, or name --out)")
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for what in arguments.what:
        cases = _read(arguments.out / f"{what}.csv") if arguments.again else measure(what, arguments)
        _table(cases)
        plot(cases, arguments.out / f"{what}.svg")


def measure(what: str, arguments: argparse.Namespace) -> list[Case]:
    """Measure, and write the .csv."""
    cases = []
    for case in layers(arguments.seeds) if what == "layers" else blocks(what, arguments.seeds):
        cases.append(case)
        print(*_row([case]), sep="  ", flush=True)
        _write(cases, arguments.out / f"{what}.csv")  # each time: what was measured before a stop is kept
    return cases


def blocks(network: str, seeds: int) -> Iterator[Case]:
    """Blocks of the objective "loss", varying one setting at a time."""
    usual = {"samples": 200, "rho": 0.1, "n": 512}
    if network == "mlpnet":
        settings = [{**usual, "samples": N, "rho": rho} for N in (50, 200, 1000) for rho in (0.01, 0.1, 1.0, 10.0)]
        settings += [{**usual, "n": n} for n in (128, 2048)]
    else:  # its loss takes twenty times as long to measure
        settings = [{**usual, "samples": N} for N in (50, 200, 1000)] + [{**usual, "rho": 10.0}]
    for setting in settings:
        for steps in (0, STEPS):
            for seed in range(seeds):
                yield block(network, steps, seed, **setting)


def block(network: str, steps: int, seed: int, *, samples: int, rho: float, n: int) -> Case:
    """The block of a run after some steps, and the loss of each of its states."""
    make, density = NETWORKS[network]
    x, y = models.mnist("train")
    config = Config.of(
        density=density, steps=steps + 1, block_size=n, batch_size=samples, rho=rho, adapt_rho=False, cut_steps=0,
        seed=seed,
    )  # fmt: skip
    pruner = Pruner(make(), (x[:-HELD_OUT], y[:-HELD_OUT]), config, inplace=True)
    for _ in range(steps):
        (problem,) = pruner.ask()
        pruner.tell(problem, solvers.solve(problem, "tabu", seed=seed))
    (problem,) = pruner.ask()
    merging = Merging(pruner, problem)
    states, kinds = ladder(problem, merging.mask, seed)
    losses = [merging.loss(state, x[-HELD_OUT:], y[-HELD_OUT:]) for state in states]
    return Case(
        network, "loss", f"after {steps}" if steps else "start", samples, rho, problem.n, seed, kinds,
        problem.energy(states), np.array(losses), problem.random_mean_energy(),
    )  # fmt: skip


class Merging:
    """Merges states of a block into its model."""

    def __init__(self, pruner: Pruner, problem: BlockProblem) -> None:
        labels = problem.labels
        assert labels is not None
        self._model = pruner.model
        self.mask = np.zeros(problem.n, np.int8)
        self._places = []
        for layer in pruner.layers:
            own = np.flatnonzero(labels.parameter == layer.number)
            index = labels.index[own]
            self.mask[own] = ~pruner.masks.flat(layer.name)[index]
            restore = pruner.restore[layer.number].reshape(-1)[torch.from_numpy(index)].clone()
            self._places.append((layer.weight.data.view(-1), own, torch.from_numpy(index), restore))

    @torch.no_grad()
    def loss(self, state: np.ndarray, x: torch.Tensor, y: torch.Tensor) -> float:
        """The model's mean loss with the block in a state."""
        for weight, own, index, restore in self._places:
            weight[index] = restore * torch.from_numpy(1 - state[own]).float()
        return float(F.cross_entropy(self._model(x), y))


def layers(seeds: int) -> Iterator[Case]:
    """Whole layers, by all three objectives."""
    for network, layer, density in LAYERS:
        for samples in (8, 64) if network == "llama" else (50, 200, 1000):
            for seed in range(seeds):
                found = layer_cases(network, layer, density, samples, seed)
                for objective, (energies, random) in found.energies.items():
                    yield Case(
                        f"{network} {layer}", objective, f"density {density}", samples, 0.0, found.n, seed, found.kinds,
                        energies, found.losses, random,
                    )  # fmt: skip


# Tables and plots


def _correlation(case: Case, which: np.ndarray) -> float:
    if which.sum() < 10:
        return float("nan")
    return float(spearmanr(case.energies[which], case.losses[which]).statistic)


def _row(cases: Sequence[Case]) -> list[str]:
    """A line of the table: settings, and over the seeds the mean and range of each correlation, and mean losses."""
    cells = [str(value) for value in cases[0].setting]
    everything, below, good = [], [], []
    for case in cases:
        mask = case.energies[case.present].min(initial=np.inf)
        everything.append(_correlation(case, np.ones(len(case.losses), bool)))
        below.append(_correlation(case, case.energies <= mask))
        good.append(_correlation(case, case.energies <= np.quantile(case.energies, BEST_SHARE)))
    for values in (everything, below, good):
        some = [value for value in values if np.isfinite(value)]
        spread = f" ({min(some):.2f} to {max(some):.2f})" if len(some) > 1 else ""
        cells.append(f"{np.mean(some):.2f}{spread}" if some else "")
    losses = {
        "mask": [case.losses[case.present].min() for case in cases if case.present.any()],
        "best": [case.losses[case.energies.argmin()] for case in cases],
        "least": [case.losses.min() for case in cases],
        "gap of the least": [case.gaps[case.losses.argmin()] for case in cases],
    }
    return cells + [f"{np.mean(values):.4f}" if values else "" for values in losses.values()]


def _table(cases: Sequence[Case]) -> None:
    head = [
        "network", "objective", "stage", "N", "rho", "n", "all states", "below the mask", "best quarter", "loss: mask",
        "least energy", "least of all", "at a gap of",
    ]  # fmt: skip
    groups: dict[tuple[object, ...], list[Case]] = {}
    for case in cases:
        groups.setdefault(case.setting, []).append(case)
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for members in groups.values():
        print("| " + " | ".join(_row(members)) + " |")
    print()


def _write(cases: Sequence[Case], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for case in cases:
            shared = [*case.setting, case.seed]
            for each in zip(case.kinds, case.energies, case.gaps, case.losses, strict=True):
                writer.writerow([*shared, *each])


def _read(path: Path) -> list[Case]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in COLUMNS[:7]), []).append(row)
    cases = []
    for (network, objective, stage, samples, rho, n, seed), members in groups.items():
        energies, gaps, losses = (np.array([float(row[key]) for row in members]) for key in ("energy", "gap", "loss"))
        worst, least = int(energies.argmax()), float(energies.min())
        random = least + (float(energies[worst]) - least) / float(gaps[worst])
        kinds = np.array([row["kind"] for row in members])
        cases.append(
            Case(
                network, objective, stage, int(samples), float(rho), int(n), int(seed), kinds, energies, losses, random
            )
        )
    return cases


COLOURS = {
    "random": "#9e9e9e", "descent": "#56b4e9", "annealed": "#009e73", "from mask": "#cc79a7", "optimum": "#0072b2",
    "near": "#e69f00", "mixed": "#009e73", "searched": "#0072b2", "mask": "#d55e00", "best": "#000000",
}  # fmt: skip


def plot(cases: Sequence[Case], path: Path) -> None:
    """Loss against gap, a panel for each setting, all seeds in it, losses as differences from the present mask's."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups: dict[tuple[object, ...], list[Case]] = {}
    for case in cases:
        groups.setdefault(case.setting, []).append(case)
    across = 4 if len({case.objective for case in cases}) == 1 else 3
    down = -(-len(groups) // across)
    figure, axes = plt.subplots(down, across, figsize=(3.4 * across, 2.7 * down), squeeze=False, layout="constrained")
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    for axis, members in zip(axes.flat, groups.values(), strict=False):
        for kind, colour in COLOURS.items():
            points = [
                np.stack([case.gaps, case.losses - case.losses[case.present].mean()])[:, case.kinds == kind]
                for case in members
            ]
            gaps, losses = np.concatenate(points, axis=1)
            marked = {"s": 60, "marker": "*", "zorder": 3} if kind in ("mask", "best") else {"s": 5, "alpha": 0.6}
            if len(gaps):
                axis.scatter(gaps, losses, color=colour, label=kind, linewidths=0, rasterized=True, **marked)
        case = members[0]
        axis.set_xscale("symlog", linthresh=0.01)
        axis.axhline(0.0, color="#888888", linewidth=0.6)
        rho = f", rho {case.rho:g}" if case.objective == "loss" and case.rho else ""
        name = case.network.replace("model.layers.", "")
        axis.set_title(f"{name}, {case.objective}, {case.stage}\nN {case.samples}{rho}, n {case.n}", fontsize=8)
        axis.tick_params(labelsize=7)
    for axis in axes[:, 0]:
        axis.set_ylabel("loss - loss of the mask", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("gap (0 best energy, 1 random)", fontsize=8)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=8, markerscale=1.5)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"{path}: {len(cases)} blocks")


if __name__ == "__main__":
    main()
