"""
Try quantum solvers
===================

Exports blocks of a pruning run, estimates the cost of each remote solver, solves the blocks with ``sa`` and ``qaoa``
(and with ``leap`` if D-Wave credentials are found), and writes a page that compares energies with the proven optimum.

Run it: python examples/hardware_trial.py --out trial

With an account, for example: ``--leap nl,qpu --max-charge 120``. A second run with the same folder continues the
first. Calls to Leap are recorded before they are sent, so none is paid twice. The documentation shows this example and
does not run it, because it takes minutes.
"""

import argparse
import csv
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import problems
import solvers
from hybrid_icbs import Config, Pruner
from hybrid_icbs.digits import digits_classifier, load_digits
from problems import BlockProblem
from solvers.local.repair import polish
from solvers.remote import Account, FileLedger, accounting

ESTIMATED = ("qaoa", "leap?solver=nl", "leap?solver=cqm", "leap?solver=bqm", "leap?solver=qpu")


@dataclass(frozen=True)
class Row:
    """The result of one solver on one block. A gap is 0 % at the optimum and 100 % at the mean of random states.

    `raw` is the best sample as measured, `mean` the mean of the samples, `final` the result after repair and polish.
    """

    block: str
    solver: str
    raw: float | None
    mean: float | None
    final: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("trial"), help="folder for blocks, calls, results and the page"
    )
    parser.add_argument("--blocks", type=int, default=20, help="number of blocks")
    parser.add_argument("--size", type=int, default=16, help="weights per block")
    parser.add_argument("--qaoa", default="reps=3", help="options of qaoa, for example reps=2&mixer=xy-ring")
    parser.add_argument("--leap", default="nl", help="Leap solvers, separated by commas: nl, cqm, bqm, qpu")
    parser.add_argument("--max-charge", type=float, default=60.0, help="limit on the seconds that Leap bills in total")
    arguments = parser.parse_args()
    folder = arguments.out
    folder.mkdir(parents=True, exist_ok=True)

    blocks = real_blocks(folder / "blocks", arguments.blocks, arguments.size)
    costs = [cost(backend, list(blocks.values())) for backend in ESTIMATED]
    for line in ([*costs[0]], *(list(each.values()) for each in costs)):
        print("".join(f"{cell:>16}" for cell in line))

    backends = ["sa", f"qaoa?{arguments.qaoa}"]
    if solvers.available("leap"):
        backends += [f"leap?solver={kind}" for kind in arguments.leap.split(",")]
    else:
        print(f"leap is skipped: {solvers.available('leap').reason}")
    rows = []
    with (
        FileLedger(folder / "calls.jsonl") as ledger,
        accounting(Account(ledger, "trial", max_charge=arguments.max_charge)) as account,
    ):
        for name, block in blocks.items():
            rows += compare(name, block, backends)
            print(f"{name}: " + ", ".join(f"{row.solver} {row.final:.1f} %" for row in rows if row.block == name))
        if account.calls:
            print(f"Leap: {account.calls} calls, {account.charged:.3g} s billed")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(vars(rows[0]))
        writer.writerows(vars(row).values() for row in rows)
    (folder / "trial.html").write_text(page(rows, costs), "utf-8")
    print(f"page: {folder / 'trial.html'}")


def real_blocks(folder: Path, count: int, size: int) -> dict[str, BlockProblem]:
    """Blocks by name: those in the folder, or new ones from a pruning run on handwritten digits."""
    if not folder.exists():
        config = Config.of(density=0.1, steps=count, round_size=count, block_size=size, batch_size=500)
        problems.save_set(Pruner(digits_classifier(), load_digits(), config).ask(count), folder)
    found = problems.load_set(folder)
    return dict(zip(found.names, found, strict=True))


def cost(backend: str, blocks: list[BlockProblem]) -> dict[str, str]:
    """Estimate what a backend needs for all blocks, before anything is sent."""
    estimates = [solvers.get_solver(backend).estimate(block) for block in blocks]
    return {
        "backend": backend,
        "fits": f"{sum(one.fits for one in estimates)} of {len(blocks)}",
        "calls": f"{sum(one.calls for one in estimates)}",
        "upload, MB": f"{sum(one.upload_bytes for one in estimates) / 1e6:.2f}",
        "billed, s": f"{sum(one.charge_seconds for one in estimates):.4g}",
    }


def compare(name: str, block: BlockProblem, backends: list[str]) -> list[Row]:
    """Solve a block with each backend, and polish random states in the same way for comparison."""
    optimum = float(solvers.solve(block, "exact").first.energy)
    random = block.random_states(1024, seed=0)
    energies = block.energy(random)
    level = float(energies.mean())

    def gap(energy: float | None) -> float | None:
        return None if energy is None else 100 * (energy - optimum) / (level - optimum)

    best = polish(block, random[np.argsort(energies)[:100]])
    rows = [Row(name, "random", gap(energies.min()), 100.0, gap(float(block.energy(best).min())), 0.0)]
    for backend in backends:
        try:
            answer = solvers.solve(block, backend, seed=0)
        except solvers.BudgetReached as reached:
            print(f"{backend} is skipped: {reached}")
            continue
        raw = answer.info["raw"]
        rows.append(
            Row(name, answer.info["backend"], gap(raw["energy"]), gap(raw.get("mean")),
                gap(float(answer.first.energy)), answer.info["timing"]["total"])
        )  # fmt: skip
    return rows


def page(rows: list[Row], costs: list[dict[str, str]]) -> str:
    """Render the trial as one self-contained HTML page."""
    names = list(dict.fromkeys(row.solver for row in rows))
    heads = ("solver", "raw mean", "raw best", "final", "optimum in raw", "optimum in final", "seconds")
    table = []
    for name in names:
        own = [row for row in rows if row.solver == name]
        hits = sum(row.final < 1e-6 for row in own)
        cells = [
            f"{hits} of {len(own)}",
            *(_median([getattr(r, key) for r in own]) for key in ("raw", "mean", "final")),
        ]
        table.append([name, *cells, f"{np.median([row.seconds for row in own]):.2g}"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Trial of quantum solvers</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
td, th {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ccc }}
td:first-child, th:first-child {{ text-align: left }} svg {{ max-width: 100%; height: auto }}</style></head><body>
<h1>Quantum solvers on {len({row.block for row in rows})} real pruning blocks</h1>
<p>A gap of 0 % is the proven optimum, 100 % the mean of random feasible states. <b>Raw</b> is
the solver's samples before repair and polish, <b>final</b> the result after both. The row <b>random</b> polishes
random feasible states in the same way: the difference is what the quantum solver contributes. Gaps and seconds are
medians.</p>
{_table(heads, table)}
{plot(rows, names)}
<h2>Estimated cost of all blocks at each service</h2>
{_table(tuple(costs[0]), [list(line.values()) for line in costs])}
<p>Estimated before anything was sent. Without credentials the estimates use documented limits.</p>
</body></html>
"""


def plot(rows: list[Row], names: list[str]) -> str:
    """Plot each solver's best raw gap (dots) and mean raw gap (bars) on every block, as an SVG element."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    blocks = list(dict.fromkeys(row.block for row in rows))
    for s, name in enumerate(names):
        own = {row.block: row for row in rows if row.solver == name}
        at = [b + 0.8 * (s + 0.5) / len(names) - 0.4 for b, block in enumerate(blocks) if block in own]
        line = axes.plot(at, [own[b].raw for b in blocks if b in own], "o", markersize=5, label=f"{name}, raw best")[0]
        means = [(x, own[b].mean) for x, b in zip(at, [b for b in blocks if b in own], strict=True) if own[b].mean]
        if means:
            axes.bar(*zip(*means, strict=True), width=0.7 / len(names), color=line.get_color(), alpha=0.3,
                     label=f"{name}, raw mean")  # fmt: skip
    axes.set_xticks(range(len(blocks)), [block.split("_")[-1] for block in blocks])
    axes.set_xlabel("block")
    axes.set_ylabel("gap to the optimum, %")
    axes.legend(ncols=2, fontsize="small", loc="upper left", bbox_to_anchor=(0, -0.15))
    file = io.StringIO()
    figure.savefig(file, format="svg")
    return file.getvalue()[file.getvalue().index("<svg") :]


def _median(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.median(known):.1f} %" if known else "-"


def _table(heads: tuple[str, ...], lines: list[list[str]]) -> str:
    def row(cells: list[str] | tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + row(heads, "th") + "".join(row(line, "td") for line in lines) + "</table>"


if __name__ == "__main__":
    main()
