"""The command line: `hybrid-icbs COMMAND --help` teaches each command by example.

Torch and everything heavy is imported inside the commands, so that help comes at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hybrid_icbs.cli import instances as cli_instances
from hybrid_icbs.cli.console import WrongUse, command, show, show_json, wrong_use
from hybrid_icbs.cli.options import (
    Data,
    DispatchTo,
    Json,
    LossFunction,
    MaxCalls,
    MaxCharge,
    Model,
    ModelFn,
    Quiet,
    RunFolder,
    Samples,
    SeqLen,
    SettingsFile,
    TestData,
    with_settings,
)
from hybrid_icbs.config import BLOCKS, GOAL, MODEL, OBJECTIVE, SERVICES, START
from hybrid_icbs.progress import phase

app = typer.Typer(
    name="hybrid-icbs",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Prune neural networks by combinatorial optimisation: solvers are exchanged with one flag.\n\n"
    "Begin with [bold]hybrid-icbs demo[/]. Exit codes: 0 done, 2 wrong use, 1 failed.",
)
app.add_typer(cli_instances.app)


def main() -> None:
    """What the script `hybrid-icbs` runs."""
    app(prog_name="hybrid-icbs")


# Commands


@app.command()
@command
def demo(
    out: Annotated[
        Path, typer.Option(help="Run folder; one with a number after it where a run is there already.")
    ] = Path("runs/demo"),
    density: Annotated[float, typer.Option(help="Share of weights to keep.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Where the randomness of the pruning starts.")] = 0,
    backend: Annotated[str, typer.Option(help="Solver of the blocks; `hybrid-icbs backends` lists them.")] = "sa",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a small classifier on handwritten digits and prune it, in seconds.

    Prints accuracy, loss and density of the dense model, of magnitude pruning
    and of iCBS on digits that neither training nor pruning saw, and leaves a
    run folder with a report.

    [bold]hybrid-icbs demo --density 0.02 --backend tabu[/]
    """
    from hybrid_icbs.cli.demo import demo_table, run_demo

    record = run_demo(out, density=density, seed=seed, backend=backend)
    if as_json:
        show_json(record)
    elif not quiet:
        show(demo_table(record), f"report: {record['report']}", f"run:    {record['out']}")


@app.command()
@command
@with_settings()
def prune(
    given: dict[str, Any],
    model: Model = None,
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option(help="New run folder: model, masks, journal, report.", show_default=False)
    ] = None,
    model_fn: ModelFn = None,
    loss: LossFunction = None,
    test: TestData = None,
    seq_len: SeqLen = None,
    samples: Samples = None,
    config: SettingsFile = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate what the run would cost; solve and send nothing.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    r"""Prune a trained model to a density.

    Functions are looked up in the current folder and among installed packages.
    An example with the model and data of the package:

    [bold]hybrid-icbs prune --model hybrid_icbs.digits:digits_classifier \
      --data hybrid_icbs.digits:load_digits --density 0.05 \
      --backend tabu --out runs/x[/]

    A saved file of weights:

    [bold]hybrid-icbs prune --model net.safetensors --model-fn nets:make \
      --data nets:calibration --sparsity 0.9 --rho 0.5 --out runs/y[/]

    A language model of transformers, by folder or hub name, on text:

    [bold]hybrid-icbs prune --model FOLDER --data train.txt --eval test.txt \
      --density 0.5 --backend tabu --block-size 4096 --out runs/z[/]

    The same layer by layer, to a pattern, with survivors refitted:

    [bold]hybrid-icbs prune --model FOLDER --data train.txt --eval test.txt \
      --objective layer --pattern 2:4 --update backsolve --out runs/w[/]

    A stopped run is continued by [bold]hybrid-icbs resume runs/x[/].
    """
    from hybrid_icbs.cli.commands import configure, dry_run_of, finish, prune_layers, sources_of, start

    with wrong_use():
        settled = configure(config, given, solving=not dry_run)
        sources = sources_of(
            model, data, model_fn=model_fn, loss=loss, test=test, seq_len=seq_len, samples=samples, seed=settled.seed
        )  # fmt: skip
        if dry_run:
            dry_run_of(sources, settled, quiet=quiet, as_json=as_json)
            return
        if settled.by_layer:
            prune_layers(sources, settled, out, quiet=quiet, as_json=as_json)
            return
        pruner, tested = start(sources, settled, out)
    finish(pruner, tested, quiet=quiet, as_json=as_json)


@app.command()
@command
def resume(
    folder: RunFolder,
    dispatch: DispatchTo = None,
    max_calls: MaxCalls = None,
    max_charge: MaxCharge = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Go on with a run that was stopped; it ends as one that never was.

    Model and data are made again by the functions that prune was given. Calls
    that a service has taken already are found again, and not paid twice.

    [bold]hybrid-icbs resume runs/x[/]
    """
    from hybrid_icbs.cli.commands import finish, reopen, resume_layers, show_finished

    with wrong_use():
        if resume_layers(folder, dispatch, quiet=quiet, as_json=as_json):
            return
        pruner, tested = reopen(folder, max_calls=max_calls, max_charge=max_charge)
    if pruner is None:
        show_finished(folder, quiet=quiet, as_json=as_json)
    else:
        finish(pruner, tested, dispatch, quiet=quiet, as_json=as_json)


@app.command()
@command
@with_settings(GOAL, OBJECTIVE, BLOCKS, START, MODEL, without=("method", "objective", "update", "steps", "round_size"))
def blocks(
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder for the blocks.")],
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="RUN|BLOCKS",
            help="Run folder, for blocks of its current state; or block files, folders, MDPLIB files, "
            "instances:PATTERN, to be copied and converted. May be repeated.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of blocks of a model or run; they share no weight.")] = 1,
    bqm: Annotated[
        bool, typer.Option("--bqm", help="Write dense .bqm files, which dimod reads, instead of .npz factors.")
    ] = False,
    cardinality: Annotated[
        int | None, typer.Option(help="Number of ones, for files that do not state it.", show_default=False)
    ] = None,
    model: Model = None,
    data: Data = None,
    model_fn: ModelFn = None,
    loss: LossFunction = None,
    seq_len: SeqLen = None,
    samples: Samples = None,
    config: SettingsFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    r"""Export block problems of a model or a run, or convert others, to files.

    Answers to the blocks of a run are given back in Python: Pruner.resume, ask for
    as many, tell.

    [bold]hybrid-icbs blocks --from runs/x --count 4 --out blocks[/]

    [bold]hybrid-icbs blocks --model hybrid_icbs.digits:digits_classifier \
      --data hybrid_icbs.digits:load_digits --density 0.05 --bqm --out blocks[/]

    [bold]hybrid-icbs blocks --from "instances:*-n32-*" --bqm --out small[/]
    """
    from hybrid_icbs.cli.block_files import converted, write_blocks

    if source:
        others = [model, data, model_fn, loss, seq_len, samples, config, *given.values()]
        if any(value is not None for value in others):
            raise WrongUse("--from takes model, data and settings from the run; leave the other options out")
    names, found = (None, None) if not source else converted(source, cardinality)
    if found is None:
        from hybrid_icbs.cli.commands import blocks_of_model, blocks_of_run, configure, sources_of

        with wrong_use():
            if source:
                found = blocks_of_run(Path(source[0]), count)
            else:
                settled = configure(config, given | {"steps": count})
                sources = sources_of(
                    model, data, model_fn=model_fn, loss=loss, seq_len=seq_len, samples=samples, seed=settled.seed
                )  # fmt: skip
                found = blocks_of_model(sources, settled, count)
    written = write_blocks(found, out, names=names, dense=bqm)
    if as_json:
        show_json(written)
    elif not quiet:
        first = written["blocks"][0]
        asked = "" if names else f" of {count}"
        show(
            f"{len(written['blocks'])}{asked} blocks of up to {max(each['n'] for each in written['blocks'])} weights "
            f"in {out}",
            f"next: hybrid-icbs solve {first['file']} --backend tabu",
        )


@app.command()
@command
def solve(
    blocks: Annotated[
        list[str],
        typer.Argument(
            metavar="BLOCKS...",
            help="Block files, folders of them, MDPLIB files, or instances:PATTERN of those shipped.",
        ),
    ],
    backend: Annotated[str, typer.Option(help="Solver; `hybrid-icbs backends` lists them.")] = "tabu",
    time_limit: Annotated[
        float | None,
        typer.Option(help="Seconds of search; by default a fixed, reproducible amount of work.", show_default=False),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; drawn if not given.", show_default=False)] = None,
    target: Annotated[float | None, typer.Option(help="Energy at which to stop.", show_default=False)] = None,
    cardinality: Annotated[
        int | None, typer.Option(help="Number of ones, for files that do not state it.", show_default=False)
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A setting of the solver. May be repeated.", show_default=False),
    ] = None,
    calls: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=SERVICES,
            show_default=False,
            help="Record of the calls to a service; by default NAME.calls.jsonl beside the block's file.",
        ),
    ] = None,
    max_calls: MaxCalls = None,
    max_charge: MaxCharge = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    r"""Solve block problems from files, or shipped ones.

    Prints the energy and its gap to the best known one: 0 % is the best known,
    100 % a random state. The state is in the JSON, which is a list if BLOCKS name
    several problems. A block larger than the solver takes is decomposed.

    Calls to a service are recorded before they are sent: the same command with
    the same seed (0 if not given) finds its answer again and pays nothing.

    [bold]hybrid-icbs solve blocks/block_0000.npz --backend sa --time-limit 1[/]

    [bold]hybrid-icbs solve "instances:mlpnet-picked-n64-*" --backend tabu --seed 0[/]

    [bold]hybrid-icbs solve other.bqm --cardinality 512 --backend tabu \
      --option restarts=4 --seed 0 --json[/]
    """
    import problems
    import solvers
    from hybrid_icbs.cli.calls import CALLS, on_account
    from hybrid_icbs.cli.tables import answer_lines, answer_record

    solver = solvers.get_solver(_with_options(backend, option or []))
    listed = problems.resolve(blocks, cardinality)
    records = []
    with phase(f"solving with {solver.backend}", len(listed), "blocks") as advance:
        for number, each in enumerate(listed):
            problem = each.load()
            if cardinality not in (None, problem.cardinality):
                raise WrongUse(f"--cardinality {cardinality}: {each.origin} has cardinality {problem.cardinality}")
            fitting = solvers.fitted(solver, problem)
            seeded = 0 if fitting.capabilities.remote and seed is None else seed
            beside = Path(each.origin) if Path(each.origin).exists() else Path(each.name)
            with on_account(
                fitting, problem, calls or beside.with_name(beside.name + CALLS), max_calls, max_charge
            ):  # fmt: skip
                answer = fitting.solve(problem, seed=seeded, time_limit=time_limit, target=target)
            records.append({"name": each.name, **answer_record(problem, answer)})
            advance(number + 1, each.name)
    if as_json:
        show_json(records if len(records) > 1 else records[0])
    elif not quiet:
        for record in records:
            show(*([f"block    {record['name']}"] if len(records) > 1 else []), *answer_lines(record))


@app.command()
@command
def compare(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="BLOCKS...",
            help="Block files, folders of them, MDPLIB files, a run's folder, or instances:PATTERN of those that ship.",
        ),
    ],
    backends: Annotated[str, typer.Option(help="Solvers, with commas between them.")] = "sa,tabu",
    time_limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECONDS",
            help="Seconds of each solve, one or several with commas (1); none for each solver's own amount of work.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Solves of each block, solver and time limit.")] = 5,
    first_seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder of the comparison; one that exists is continued and extended.")
    ] = Path("runs/race"),
    threads: Annotated[int, typer.Option(help="Processors of each solve.")] = 1,
    start: Annotated[
        Literal["cold", "mask"], typer.Option(help="From nothing, or from the state that leaves the network as it is.")
    ] = "cold",
    cardinality: Annotated[
        int | None, typer.Option(help="The demanded number of ones, for .bqm files from elsewhere.", show_default=False)
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Blocks of a run's folder.")] = 4,
    dispatch: Annotated[
        str,
        typer.Option(help="How solves are handed out: serial, or threads, processes?workers=4, ray, that share time."),
    ] = "serial",
    max_calls: MaxCalls = None,
    max_charge: MaxCharge = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    r"""Race solvers on block problems, by one protocol, and make a page of it.

    Each solver works in a process of its own; warm-up is not timed, energies are
    recomputed. results.csv gets a row for each solve, report.html shows who leads
    and what is noise, submission.csv has QOBLIB's columns.

    The same command continues a comparison that was stopped; with more
    backends, seeds, limits or blocks it adds only their rows.

    [bold]hybrid-icbs compare blocks --backends sa,tabu --time-limit 2 --out runs/race[/]

    [bold]hybrid-icbs compare "instances:*-n32-*" --time-limit 0.1,1 --seeds 10 \
      --backends "tabu,sa?restarts=32,qaoa?reps=3,ocean-tabu" --out runs/small[/]
    """
    from hybrid_icbs.cli.compare import race, show_race

    comparison = race(
        given, backends, time_limit, count=count, seeds=seeds, first_seed=first_seed, out=out,
        threads=threads, start=start, cardinality=cardinality, dispatch=dispatch, max_calls=max_calls,
        max_charge=max_charge,
    )  # fmt: skip
    show_race(comparison, quiet=quiet, as_json=as_json)


@app.command()
@command
def backends(as_json: Json = False) -> None:
    """List the solvers: which are ready, what the others lack, and their options.

    [bold]hybrid-icbs backends[/]
    """
    from hybrid_icbs.cli.tables import backend_records, backend_table

    records = backend_records()
    if as_json:
        show_json(records)
    else:
        show(backend_table(records), 'options go into the name: --backend "sa?restarts=4&sweeps=200"')


@app.command()
@command
def report(
    folder: RunFolder,
    out: Annotated[Path | None, typer.Option(help="The page's file; report.html in the folder if not given.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the HTML page of a run, finished or stopped.

    [bold]hybrid-icbs report runs/x --out page.html[/]
    """
    from hybrid_icbs.cli.commands import run_folder
    from hybrid_icbs.report.page import write_report

    with phase("drawing"):
        page = write_report(run_folder(folder), out)
    if as_json:
        show_json({"report": str(page)})
    elif not quiet:
        show(f"report: {page}")


def _with_options(backend: str, options: list[str]) -> str:
    for option in options:
        if "=" not in option:
            raise WrongUse(f"--option {option!r} must be KEY=VALUE")
    joined = "&".join(options)
    return backend if not joined else f"{backend}{'&' if '?' in backend else '?'}{joined}"
