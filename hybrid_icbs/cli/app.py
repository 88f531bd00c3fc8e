"""The command line: `hybrid-icbs COMMAND --help` teaches each command by example.

Torch and everything heavy is imported inside the commands, so that help comes at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hybrid_icbs.cli import instances as cli_instances
from hybrid_icbs.cli.console import WrongUse, command, show, show_json, working, wrong_use
from hybrid_icbs.cli.options import (
    BatchSize,
    BlockSize,
    Data,
    Density,
    DispatchTo,
    Exclude,
    Include,
    Init,
    Json,
    LossFunction,
    MaxCalls,
    MaxCharge,
    Method,
    Model,
    ModelFn,
    NofM,
    Objective,
    Preset,
    Quiet,
    RunFolder,
    Samples,
    Scope,
    Seed,
    SeqLen,
    Set,
    SettingsFile,
    Sparsity,
    TestData,
    TimeLimit,
    Update,
)  # fmt: skip

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

    record = run_demo(out, density=density, seed=seed, backend=backend, progress=not quiet)
    if as_json:
        show_json(record)
    elif not quiet:
        show(demo_table(record), f"report: {record['report']}", f"run:    {record['out']}")


@app.command()
@command
def prune(
    model: Model = None,
    data: Data = None,
    density: Density = None,
    sparsity: Sparsity = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help='Solver of the blocks, such as tabu or "sa?restarts=4"; auto (default) picks one.', show_default=False
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New run folder: model, masks, journal, report.")] = None,
    steps: Annotated[int | None, typer.Option(help="Blocks to solve (60).", show_default=False)] = None,
    model_fn: ModelFn = None,
    loss: LossFunction = None,
    test: TestData = None,
    seq_len: SeqLen = None,
    samples: Samples = None,
    method: Method = None,
    objective: Objective = None,
    update: Update = None,
    pattern: NofM = None,
    preset: Preset = None,
    scope: Scope = None,
    block_size: BlockSize = None,
    batch_size: BatchSize = None,
    init: Init = None,
    include: Include = None,
    exclude: Exclude = None,
    seed: Seed = None,
    time_limit: TimeLimit = None,
    config: SettingsFile = None,
    settings: Set = None,
    dispatch: DispatchTo = None,
    max_calls: MaxCalls = None,
    max_charge: MaxCharge = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            rich_help_panel="Services that bill",
            help="Solve nothing and send nothing: tell what the run would take.",
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    r"""Prune a trained model to a density.

    Functions are looked up in the current folder and among the installed
    packages. To try it on what ships:

    [bold]hybrid-icbs prune --model hybrid_icbs.digits:digits_classifier \
      --data hybrid_icbs.digits:load_digits --density 0.05 \
      --backend tabu --out runs/x[/]

    With a saved file, and any setting by name:

    [bold]hybrid-icbs prune --model net.safetensors --model-fn nets:make \
      --data nets:calibration --sparsity 0.9 --set rho=0.5 --out runs/y[/]

    A language model of transformers, by folder or hub name, on text:

    [bold]hybrid-icbs prune --model FOLDER --data train.txt --eval test.txt \
      --density 0.5 --backend tabu --block-size 4096 --out runs/z[/]

    The same layer by layer, to a pattern, with survivors refitted:

    [bold]hybrid-icbs prune --model FOLDER --data train.txt --eval test.txt \
      --objective layer --pattern 2:4 --update backsolve --out runs/w[/]

    A run that was stopped goes on by [bold]hybrid-icbs resume runs/x[/].
    What a service would bill is told by [bold]--dry-run[/].
    """
    from hybrid_icbs.cli.commands import configure, dry_run_of, finish, prune_layers, sources_of, start

    with wrong_use():
        settled = configure(
            config, settings, solving=not dry_run, density=density, sparsity=sparsity, backend=backend, steps=steps,
            preset=preset, scope=scope, block_size=block_size, batch_size=batch_size, init=init, include=include,
            exclude=exclude, seed=seed, time_limit=time_limit, max_calls=max_calls, max_charge=max_charge,
            method=method, objective=objective, update=update, pattern=pattern, dispatch=dispatch,
        )  # fmt: skip
        sources = sources_of(
            model, data, model_fn=model_fn, loss=loss, test=test, seq_len=seq_len, samples=samples, seed=settled.seed
        )  # fmt: skip
        if dry_run:
            dry_run_of(sources, settled, quiet=quiet, as_json=as_json)
            return
        if settled.by_layer:
            prune_layers(sources, settled, out, quiet=quiet, as_json=as_json)
            return
        pruner, tested = start(sources, settled, out, progress=not quiet)
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
        pruner, tested = reopen(folder, progress=not quiet, max_calls=max_calls, max_charge=max_charge)
    if pruner is None:
        show_finished(folder, quiet=quiet, as_json=as_json)
    else:
        finish(pruner, tested, dispatch, quiet=quiet, as_json=as_json)


@app.command()
@command
def blocks(
    out: Annotated[Path, typer.Option(help="Folder for the blocks.")],
    run: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="Run folder: blocks of its present state.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many blocks; they share no weight.")] = 1,
    bqm: Annotated[
        bool,
        typer.Option("--bqm", help="Write dimod's dense .bqm files, which any dimod program reads, not .npz factors."),
    ] = False,
    model: Model = None,
    data: Data = None,
    density: Density = None,
    sparsity: Sparsity = None,
    model_fn: ModelFn = None,
    loss: LossFunction = None,
    seq_len: SeqLen = None,
    samples: Samples = None,
    preset: Preset = None,
    scope: Scope = None,
    block_size: BlockSize = None,
    batch_size: BatchSize = None,
    init: Init = None,
    include: Include = None,
    exclude: Exclude = None,
    seed: Seed = None,
    config: SettingsFile = None,
    settings: Set = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    r"""Export block problems of a model, or of a run, to files.

    Solvers can be compared on them. Answers to the blocks of a run are told to it
    in Python: Pruner.resume, ask for as many, tell.

    [bold]hybrid-icbs blocks --from runs/x --count 4 --out blocks[/]

    [bold]hybrid-icbs blocks --model hybrid_icbs.digits:digits_classifier \
      --data hybrid_icbs.digits:load_digits --density 0.05 --bqm --out blocks[/]
    """
    from hybrid_icbs.cli.commands import blocks_of_model, blocks_of_run, configure, sources_of, write_blocks

    with wrong_use():
        given: dict[str, Any] = {
            "density": density, "sparsity": sparsity, "preset": preset, "scope": scope, "block_size": block_size,
            "batch_size": batch_size, "init": init, "include": include, "exclude": exclude, "seed": seed,
        }  # fmt: skip
        if run is not None:
            others = [model, data, model_fn, loss, seq_len, samples, config, settings, *given.values()]
            if any(value not in (None, []) for value in others):
                raise WrongUse("--from takes model, data and settings from the run; leave the other options out")
            found = blocks_of_run(run, count, progress=not quiet)
        else:
            settled = configure(config, settings, **given, steps=count)
            sources = sources_of(
                model, data, model_fn=model_fn, loss=loss, seq_len=seq_len, samples=samples, seed=settled.seed
            )  # fmt: skip
            found = blocks_of_model(sources, settled, count, progress=not quiet)
    written = write_blocks(found, out, dense=bqm)
    if as_json:
        show_json(written)
    elif not quiet:
        first = written["blocks"][0]
        show(
            f"{len(written['blocks'])} of {count} blocks of up to {first['n']} weights in {out}",
            f"next: hybrid-icbs solve {first['file']} --backend tabu",
        )


@app.command()
@command
def solve(
    file: Annotated[Path, typer.Argument(help="A block: NAME.bqm, NAME.npz, or any dimod .bqm file.", metavar="BLOCK")],
    backend: Annotated[str, typer.Option(help="Solver; `hybrid-icbs backends` lists them.")] = "tabu",
    time_limit: Annotated[
        float | None,
        typer.Option(help="Seconds of search; a fixed amount of work if not given.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Where randomness starts; drawn if not given.", show_default=False)
    ] = None,
    target: Annotated[float | None, typer.Option(help="An energy at which to stop.", show_default=False)] = None,
    cardinality: Annotated[
        int | None, typer.Option(help="The demanded number of ones, for a .bqm from elsewhere.", show_default=False)
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A setting of the solver. May be repeated.", show_default=False),
    ] = None,
    calls: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel="Services that bill",
            show_default=False,
            help="Record of calls to a service; BLOCK.calls.jsonl beside the block if not given.",
        ),
    ] = None,
    max_calls: MaxCalls = None,
    max_charge: MaxCharge = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    r"""Solve one block problem from a file.

    Prints the energy and its gap to the best known one: 0 % is the best known,
    100 % a random state. The state is in the JSON. A block that is larger than
    the solver takes is decomposed.

    Calls to a service are on record before they are sent: the same command with
    the same seed (0 if not given) finds its answer again and pays nothing.

    [bold]hybrid-icbs solve blocks/block_0000.npz --backend sa --time-limit 1[/]

    [bold]hybrid-icbs solve other.bqm --cardinality 512 --backend tabu \
      --option restarts=4 --seed 0 --json[/]
    """
    import problems
    import solvers
    from hybrid_icbs.cli.calls import CALLS, on_account
    from hybrid_icbs.cli.tables import answer_lines, answer_record

    solver = solvers.get_solver(_with_options(backend, option or []))
    problem = problems.load(file, cardinality)
    solver = solvers.fitted(solver, problem)
    if solver.capabilities.remote and seed is None:
        seed = 0
    with (
        working(f"solving with {solver.backend}", not quiet),
        on_account(solver, problem, calls or file.with_name(file.name + CALLS), max_calls, max_charge),
    ):
        answer = solver.solve(problem, seed=seed, time_limit=time_limit, target=target)
    record = answer_record(problem, answer)
    if as_json:
        show_json(record)
    elif not quiet:
        show(*answer_lines(record))


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
        Path, typer.Option(help="Folder of the race; one that was stopped goes on, one that is there grows.")
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

    The same command goes on where a race was stopped or killed; with more
    backends, seeds, limits or blocks it adds only their rows.

    [bold]hybrid-icbs compare blocks --backends sa,tabu --time-limit 2 --out runs/race[/]

    [bold]hybrid-icbs compare "instances:*-n32-*" --time-limit 0.1,1 --seeds 10 \
      --backends "tabu,sa?restarts=32,qaoa?reps=3,ocean-tabu" --out runs/small[/]
    """
    from hybrid_icbs.cli.compare import race, show_race

    comparison = race(
        given, backends, time_limit, count=count, progress=not quiet, seeds=seeds, first_seed=first_seed, out=out,
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

    with working("drawing", not quiet):
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
