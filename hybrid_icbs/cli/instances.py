"""The commands `hybrid-icbs instances list|show|export`: the benchmark set that ships."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid_icbs.cli.console import WrongUse, command, show, show_json
from hybrid_icbs.cli.options import Json, Quiet
from hybrid_icbs.progress import phase

if TYPE_CHECKING:
    from rich.table import Table

    from problems import BlockProblem
    from problems.instances import Instance

MOST_DENSE = 4096
"""Variables up to which blocks are written in dense form: 200 MB."""

Patterns = Annotated[
    list[str] | None,
    typer.Argument(help='Names, or patterns such as "llama-*"; all if none is given.', metavar="[NAME...]"),
]

app = typer.Typer(
    name="instances", no_args_is_help=True, help="The benchmark set: real block problems with best known energies."
)


@app.command("list")
@command
def list_instances(
    patterns: Patterns = None,
    source: Annotated[
        str | None, typer.Option(help="Of one network: mlpnet, resnet20, llama.", show_default=False)
    ] = None,
    form: Annotated[str | None, typer.Option(help="dense or low-rank.", show_default=False)] = None,
    hard: Annotated[bool, typer.Option("--hard", help="Without those that plain descent mostly solves.")] = False,
    as_json: Json = False,
) -> None:
    """List the instances: real blocks of three networks.

    An instance is easy where more than half of the plain descents from random
    states end at the best known energy; a starred energy is proven.

    [bold]hybrid-icbs instances list "resnet20-*" --hard[/]
    """
    found = _chosen(patterns, source=source, form=form, easy=False if hard else None)
    if as_json:
        show_json([_facts(each) for each in found])
    else:
        easy = sum(each.easy for each in found)
        show(_table(found), f"{len(found)} instances, {easy} of them easy; * = proven")


@app.command("show")
@command
def show_instance(
    name: Annotated[str, typer.Argument(help="Name of the instance.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show all facts of an instance, and how to solve it.

    [bold]hybrid-icbs instances show resnet20-picked-n64-k32[/]
    """
    from problems import instances

    instance = instances.facts(name)
    problem = instance.load()
    energies = _energies(instance, problem)
    if as_json:
        state = instance.best().tolist()
        show_json({**_facts(instance), "coupled": _coupled(problem), "energies": energies, "best_state": state})
    else:
        show(*_lines(instance, _coupled(problem), energies))


@app.command("export")
@command
def export(
    patterns: Annotated[
        list[str], typer.Argument(help='Names, or patterns such as "llama-*".', metavar="NAME...", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the blocks.", show_default=False)],
    dense: Annotated[
        bool,
        typer.Option("--dense", help="Write low-rank blocks as dense .bqm files too, which any dimod program reads."),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write instances as block files, which solve and other programs take.

    Those of a folder that has some already come to them.

    [bold]hybrid-icbs instances export "mlpnet-*" --out blocks[/]
    """
    import problems

    found = _chosen(patterns)
    if out.is_symlink() and not out.exists():
        raise WrongUse(f"--out {out} is a link to something that is not there; name another folder")
    if out.exists() and not out.is_dir():
        raise WrongUse(f"--out {out} is a file; name a folder")
    large = [each.name for each in found if each.n > MOST_DENSE] if dense else []
    if large:
        raise WrongUse(f"--dense goes up to n = {MOST_DENSE}; leave out {', '.join(large)}, or --dense")
    with phase(f"writing {len(found)} blocks"):
        loaded = {each.name: each.load(True if dense else None) for each in found}
        problems.save_set(loaded, out, add=True)
    files = [str(out / f"{name}{'.npz' if problem.is_low_rank else '.bqm'}") for name, problem in loaded.items()]
    if as_json:
        show_json({"out": str(out), "blocks": files})
    elif not quiet:
        show(f"{len(files)} blocks in {out}", f"next: hybrid-icbs solve {files[0]} --backend tabu")


def _chosen(patterns: Sequence[str] | None, **filters: Any) -> tuple[Instance, ...]:
    from problems import instances

    return instances.curated(*(patterns or ()), **filters)


def _facts(instance: Instance) -> dict[str, Any]:
    values = dataclasses.asdict(instance)
    del values["folder"], values["best_state"]
    return {**values, "easy": instance.easy}


def _table(found: Sequence[Instance]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in ("name", "form", "rank", "best known", "descent", ""):  # network, n and k stand in the name
        table.add_column(head, justify="right" if head in ("rank", "best known", "descent") else "left", no_wrap=True)
    for each in found:
        best = f"{each.best_known.energy:.6g}{'*' if each.best_known.proven else ' '}"
        easy = "easy" if each.easy else ""
        table.add_row(each.name, each.form, str(each.rank), best, f"{each.descent.rate:.1%}", easy)
    return table


def _energies(instance: Instance, problem: BlockProblem) -> dict[str, float]:
    return {
        "best_known": instance.best_known.energy,
        "present_mask": float(problem.energy(instance.mask())),
        "random_mean": problem.random_mean_energy(),
    }


def _coupled(problem: BlockProblem) -> int:
    """Variables that are coupled to any other; a weight whose input is always zero is to none."""
    import numpy as np

    from problems import LowRankForm

    form = problem.form
    if isinstance(form, LowRankForm):
        return int(np.count_nonzero(form.factor.any(axis=1)))
    matrix = form.dense()
    np.fill_diagonal(matrix, 0.0)
    return int(np.count_nonzero(matrix.any(axis=1)))


def _lines(instance: Instance, coupled: int, energies: dict[str, float]) -> list[str]:
    best, tries = instance.best_known, instance.descent
    unused = () if instance.provenance.get("layer") else ("layer", "row")
    made = ", ".join(f"{key} {value}" for key, value in instance.provenance.items() if key not in unused)
    file = f"blocks/{instance.name}{'.bqm' if instance.form == 'dense' else '.npz'}"
    scale = energies["random_mean"] - best.energy
    mask = (energies["present_mask"] - best.energy) / scale if scale > 0 else 0.0
    return [
        f"{instance.name}",
        f"size     n = {instance.n}, k = {instance.cardinality}, {instance.form}, rank {instance.rank}; "
        f"{coupled} variables are coupled to others",
        f"best     {best.energy:.12g} ({'proven, ' if best.proven else 'not proven, '}{best.found_by})",
        f"energies 0 % the best known; the present mask {energies['present_mask']:.6g} ({mask:.4%}); "
        f"a random state {energies['random_mean']:.6g} (100 %)",
        f"descent  {tries.found} of {tries.tries} from random states end at the best known: "
        f"{'easy' if instance.easy else 'not easy'}",
        f"made     {made}",
        f"sha256   {instance.sha256}",
        f"solve    hybrid-icbs instances export {instance.name} --out blocks",
        f"         hybrid-icbs solve {file} --backend tabu",
        f'python   problems.instances.load("{instance.name}")',
    ]
