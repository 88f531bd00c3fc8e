"""Test accuracy against density of a pruned MNIST classifier: the figure of README.

    python benchmarks/accuracy_density.py               prune, write docs/figures/accuracy_density.csv and .svg
    python benchmarks/accuracy_density.py --plot        draw the figure again from the recorded .csv

The model is the 784-512-512-10 classifier of the iCBS paper. All methods choose masks only: no weight is updated. iCBS
runs with its default settings and `tabu` on one thread; magnitude pruning compares weights of all layers; Wanda (Sun et
al. 2024) compares the weights of each output. The data comes from HYBRID_ICBS_DATA (see benchmarks/models.py).
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "figures"
DENSITIES = (0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
METHODS: dict[str, dict[str, Any]] = {
    "iCBS": {"backend": "tabu?threads=1"},
    "magnitude": {"steps": 0},
    "Wanda": {"method": "wanda"},
}
COLOURS = {"iCBS": "#1591a8", "magnitude": "#cc6324", "Wanda": "#8579c4"}
GREY = "#7d858c"  # legible on white and on black


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", action="store_true", help="only draw the figure, from the recorded results")
    parser.add_argument("--seeds", type=int, default=3, help="runs for each method and density")
    arguments = parser.parse_args()
    record = FOLDER / "accuracy_density.csv"
    if not arguments.plot:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with record.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["method", "density", "seed", "accuracy", "seconds"])
            for row in measured(arguments.seeds):
                print(*row, flush=True)
                writer.writerow(row)
    with record.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    means = {
        method: {
            density: statistics.mean(
                float(row["accuracy"]) for row in rows if (row["method"], float(row["density"])) == (method, density)
            )
            for density in sorted({float(row["density"]) for row in rows if row["method"] == method}, reverse=True)
        }
        for method in dict.fromkeys(row["method"] for row in rows)
    }
    print_table(means)
    draw(means, FOLDER / "accuracy_density.svg")


def measured(seeds: int) -> Iterator[tuple[str, float, int, float, float]]:
    """Method, density, seed, test accuracy in per cent, and processor seconds of the run."""
    import models
    import torch

    from hybrid_icbs import evaluate, prune

    torch.set_num_threads(1)
    model, train, test = models.classifier(), models.mnist("train"), models.mnist("test")
    yield "dense", 1.0, 0, round(100 * evaluate(model, test).accuracy, 2), 0.0
    for density in DENSITIES:
        for method, settings in METHODS.items():
            for seed in range(seeds):
                start = time.process_time()
                result = prune(model, train, density=density, seed=seed, progress=False, **settings)
                seconds = time.process_time() - start
                accuracy = 100 * evaluate(result.model, test).accuracy
                yield method, density, seed, round(accuracy, 2), round(seconds, 1)


def print_table(means: dict[str, dict[float, float]]) -> None:
    """Print the mean test accuracy as a Markdown table, one row a density."""
    methods = [method for method in means if method != "dense"]
    print(f"dense: {means['dense'][1.0]:.2f}\n\n| density | " + " | ".join(methods) + " |")
    print("|---" * (len(methods) + 1) + "|")
    for density in means[methods[0]]:
        print(f"| {density:g} | " + " | ".join(f"{means[method][density]:.2f}" for method in methods) + " |")


def draw(means: dict[str, dict[float, float]], file: Path) -> None:
    """Draw the means on a transparent background, in colours that are legible on white and on black."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

    mpl.rcParams.update({"svg.hashsalt": "hybrid-icbs", "svg.fonttype": "none", "font.family": "sans-serif"})
    mpl.rcParams.update({"font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"], "font.size": 11})
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(means["dense"][1.0], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(0.2, means["dense"][1.0] + 2, f"dense, {means['dense'][1.0]:.1f} %", color=GREY)
    for method, points in means.items():
        if method == "dense":
            continue
        densities, values = list(points), list(points.values())
        axes.plot(densities, values, "o-", color=COLOURS[method], linewidth=2.2, markersize=5)
        below = -7 if method == "iCBS" else 0  # points: clear of the line of the dense model
        axes.annotate(
            method, (densities[-1], values[-1]), xytext=(8, below), textcoords="offset points", va="center",
            color=COLOURS[method], fontweight="bold",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(FixedLocator(DENSITIES))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(0.22, 0.0068)
    axes.set_ylim(0, 108)
    axes.set_xlabel("density: share of weights kept", color=GREY)
    axes.set_ylabel("test accuracy, %", color=GREY)
    axes.tick_params(colors=GREY)
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    print(f"figure: {file}")


if __name__ == "__main__":
    main()
