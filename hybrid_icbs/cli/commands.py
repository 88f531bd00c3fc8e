"""What the commands do: from the texts of a command line to runs, blocks and tables."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import problems
import solvers
from hybrid_icbs.blockwise.pruner import Pruner
from hybrid_icbs.cli.console import WrongUse, show, show_json, wrong_use
from hybrid_icbs.cli.sources import Sources
from hybrid_icbs.cli.tables import score_table
from hybrid_icbs.config import BY_LAYER_UNDISPATCHED, Config
from hybrid_icbs.data.evaluation import Evaluation
from hybrid_icbs.data.losses import Loss
from hybrid_icbs.errors import RunFolderError
from hybrid_icbs.methods import get_method
from hybrid_icbs.methods.run import prune_by_method, resume_by_method
from hybrid_icbs.progress import phase
from hybrid_icbs.pruning import complete
from hybrid_icbs.report.model_card import write_card
from hybrid_icbs.report.record import RunRecord
from hybrid_icbs.result import PruneResult
from hybrid_icbs.runs.folder import FILE
from hybrid_icbs.runs.forecast import forecast_notes, forecast_table, forecasts
from hybrid_icbs.runs.journal import Journal, check_free
from solvers.dispatch import WorkerLost, get_dispatch

Scores = dict[str, dict[str, Any]]


@dataclass
class Test:
    """Test data, and what the dense model and the start scored on it."""

    data: Evaluation
    scores: Scores


# prune and resume


def configure(file: Path | None, given: Mapping[str, Any], *, solving: bool = False) -> Config:
    """The settings of a command line: options, and a file, over which options take precedence.

    Args:
        file: file of settings, or None.
        given: the options that were given.
        solving: whether the backend has to be ready.

    Raises:
        PruningError: a setting is wrong.
        OptionError: the backend, or one of its options, does not exist.
        UnavailableError: the backend is not ready.
    """
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    config = Config.of(**options) if file is None else Config.read(file, **options)
    config.refuse_without_effect()
    if config.backend != "auto":
        solvers.checked(config.backend, ready=solving, **config.backend_options)
    if solving:
        get_dispatch(config.dispatch).refuse_what_is_missing()
    return config


def sources_of(model: str | None, data: str | None, **others: Any) -> Sources:
    """The sources that a command line names, those that are None left out.

    Raises:
        WrongUse: no model or no data.
    """
    for name, value, kinds in (("--model", model, "a folder or a hub name"), ("--data", data, "a file of text")):
        if value is None:
            raise WrongUse(f"{name} is missing: package.module:function, or {kinds}; --help shows examples")
    assert model is not None
    assert data is not None
    return Sources.named(model, data, **{key: value for key, value in others.items() if value is not None})


def start(sources: Sources, config: Config, out: Path | None) -> tuple[Pruner, Test | None]:
    """A new run, and its test data where there are any.

    Raises:
        WrongUse: the folder holds a run.
        PruningError: the sources cannot be used.
    """
    _refuse_run(out)
    with phase("loading model and data"):
        model, data, loss, test_data = sources.load()
    scores: Scores = {}
    if test_data is not None:
        scores["dense"] = test_data.score(model, loss)
    pruner = Pruner(model, data, config, loss=loss, inplace=True, out=out, notes={"sources": asdict(sources)})
    if test_data is not None:
        scores["start"] = test_data.score(pruner.model, loss)
        pruner.note("test_scores", scores)
    return pruner, None if test_data is None else Test(test_data, scores)


def _refuse_run(out: Path | None) -> None:
    """Refuse a folder that is no new one, in the words of a command line."""
    if out is None:
        return
    if (out / FILE).exists():
        raise WrongUse(
            f"{out} holds a run already; go on with it by `hybrid-icbs resume {out}`, or choose another folder"
        )
    try:
        check_free(out)
    except RunFolderError as error:
        raise WrongUse(str(error)) from error


def dry_run_of(sources: Sources, config: Config, *, quiet: bool, as_json: bool) -> None:
    """Show what a run would take: of its first round's blocks, and the estimates of its backend.

    Raises:
        WrongUse: a run by layer, or of no block: none of a backend's.
    """
    if config.by_layer:
        raise WrongUse("--dry-run estimates what backends take, and runs by layer use none; leave it out")
    pruner, _ = start(sources, config, None)
    found = pruner.ask()
    if not found:
        raise WrongUse("a run of 0 steps solves no block; there is nothing to estimate")
    solver = pruner.solver(found[0])
    inner = solver.inner if isinstance(solver, solvers.Decompose) else solver
    estimates = forecasts(inner, found, config)
    if as_json:
        show_json([asdict(each) for each in estimates])
    elif not quiet:
        show(forecast_table(estimates), *forecast_notes(estimates), "nothing was solved or sent")


def reopen(
    folder: Path, *, max_calls: int | None = None, max_charge: float | None = None
) -> tuple[Pruner | None, Test | None]:
    """The run of a folder where it stopped; None where it had come to its end.

    Raises:
        WrongUse: the folder holds no run, or one whose model and data are not on record.
        PruningError: the sources cannot be used, or are not those of the run.
    """
    journal = Journal.open(run_folder(folder))
    try:
        recorded, end = journal.value("sources"), journal.value("end")
        scores, steps = journal.value("test_scores"), journal.config.steps
    finally:
        journal.close()
    if end is not None and end["steps"] >= steps:
        return None, None
    sources = _recorded(folder, recorded)
    with phase("loading model and data, and what the run has done"):
        model, data, loss, test_data = sources.load()
        pruner = Pruner.resume(folder, model, data, loss=loss, inplace=True, max_calls=max_calls, max_charge=max_charge)
    return pruner, None if test_data is None else Test(test_data, scores or {})


def finish(
    pruner: Pruner, test: Test | None, dispatch: str | None = None, *, quiet: bool, as_json: bool
) -> None:  # fmt: skip
    """Run a pruner until it ends or Ctrl-C, and print the result."""
    begun = time.perf_counter()
    try:
        result = complete(pruner, dispatch=dispatch)
    except (solvers.RemoteError, solvers.ServiceError, solvers.UnavailableError, WorkerLost) as error:
        if pruner.out is None:
            raise
        raise type(error)(f"{error}. Nothing is lost: `hybrid-icbs resume {pruner.out}` continues") from error
    seconds = time.perf_counter() - begun
    if test is not None:
        test.scores["result"] = test.data.score(result.model, pruner.loss)
        if result.out is not None:
            journal = Journal.open(result.out)
            journal.set_value("test_scores", test.scores)
            journal.close()
            write_card(result, result.out, test.scores)
    summary = _summary(RunRecord.of(result), None if test is None else test.scores, result.out) | {
        "interrupted": result.interrupted,
        "budget_reached": result.budget_reached,
        "calls": pruner.account.calls,
        "charged": pruner.account.charged,
        "seconds": seconds,
    }
    _show_summary(summary, quiet=quiet, as_json=as_json)


def prune_layers(sources: Sources, config: Config, out: Path | None, *, quiet: bool, as_json: bool) -> None:
    """Prune layer by layer, and print the result."""
    begun = time.perf_counter()
    _refuse_run(out)
    with wrong_use(), _goes_on(out):
        get_method(config.method)  # refuses an unknown one before anything is loaded
        with phase("loading model and data"):
            model, data, loss, test_data = sources.load()
        scores: Scores = {}
        if test_data is not None:
            scores["dense"] = test_data.score(model, loss)
        result = prune_by_method(
            model, data, config, loss=loss, inplace=True, out=out,
            notes={"sources": asdict(sources), "test_scores": scores},
        )  # fmt: skip
    _show_layers(result, None if test_data is None else Test(test_data, scores), loss, begun, quiet, as_json)


def resume_layers(folder: Path, dispatch: str | None = None, *, quiet: bool, as_json: bool) -> bool:
    """Resume a run by layer and print the result.

    Returns:
        Whether the folder holds such a run that had not come to its end; of any other nothing is done.

    Raises:
        WrongUse: the folder holds no run, or one whose model and data are not on record; or it is by layer, and was to
            be dispatched.
    """
    begun = time.perf_counter()
    get_dispatch(dispatch).refuse_what_is_missing()
    with closing(Journal.open(run_folder(folder))) as journal:
        if not journal.config.by_layer or journal.value("end") is not None:
            return False
        if dispatch is not None:
            raise WrongUse(BY_LAYER_UNDISPATCHED)
        recorded, scores = journal.value("sources"), journal.value("test_scores")
    sources = _recorded(folder, recorded)
    with _goes_on(folder):
        with phase("loading model and data"):
            model, data, loss, test_data = sources.load()
        result = resume_by_method(folder, model, data, loss=loss, inplace=True)
    _show_layers(result, None if test_data is None else Test(test_data, scores or {}), loss, begun, quiet, as_json)
    return True


def _show_layers(result: PruneResult, test: Test | None, loss: Loss, begun: float, quiet: bool, as_json: bool) -> None:
    if test is not None:
        test.scores["result"] = test.data.score(result.model, loss)
        if result.out is not None:
            with closing(Journal.open(result.out)) as journal:
                journal.set_value("test_scores", test.scores)
            write_card(result, result.out, test.scores)
    summary = _summary(RunRecord.of(result), None if test is None else test.scores, result.out)
    _show_summary(summary | {"seconds": time.perf_counter() - begun}, quiet=quiet, as_json=as_json)


@contextmanager
def _goes_on(out: Path | None) -> Iterator[None]:
    """After Ctrl-C, print how to continue a run by layer."""
    try:
        yield
    except KeyboardInterrupt as error:
        if out is None or not (out / FILE).exists():
            raise
        raise KeyboardInterrupt(
            f"interrupted; `hybrid-icbs resume {out}` continues with the remaining layers"
        ) from error


def show_finished(folder: Path, *, quiet: bool, as_json: bool) -> None:
    """Show what a run that had come to its end came to."""
    journal = Journal.open(folder)
    scores = journal.value("test_scores")
    journal.close()
    summary = _summary(RunRecord.read(folder), scores, folder)
    if not (quiet or as_json):
        show(f"the run in {folder} is finished; there is nothing to resume")
    _show_summary(summary, quiet=quiet, as_json=as_json)


def run_folder(folder: Path) -> Path:
    """A folder that holds a run.

    Raises:
        WrongUse: it does not.
    """
    if not (folder / FILE).is_file():
        raise WrongUse(f"{folder} holds no run (no {FILE}); `hybrid-icbs prune --out {folder}` begins one")
    return folder


def _recorded(folder: Path, recorded: Mapping[str, Any] | None) -> Sources:
    if recorded is None:
        raise WrongUse(
            f"the run in {folder} was begun from Python, so its model and data are not on record; go on with it there: "
            f"hybrid_icbs.resume({str(folder)!r}, model, data)"
        )
    return Sources(**recorded)


def _summary(record: RunRecord, test_scores: Scores | None, out: Path | None) -> dict[str, Any]:
    return {
        "out": None if out is None else str(out),
        "finished": record.finished,
        "interrupted": False,
        "budget_reached": None,
        "steps": record.steps,
        "unit": "layers" if record.config.by_layer else "blocks",
        "density": record.density,
        "densities": {layer.name: layer.density for layer in record.layers},
        "init": record.config.init,
        "backend": record.backend,
        "scores": record.scores,
        "test_scores": test_scores,
        "rounds_accepted": sum(each.accepted for each in record.rounds),
        "seconds": sum(record.seconds.values()),
        "seconds_by_part": record.seconds,
    }


def _show_summary(summary: dict[str, Any], *, quiet: bool, as_json: bool) -> None:
    if as_json:
        show_json(summary)
    elif not quiet:
        where = "test data" if summary["test_scores"] else "held-back calibration samples"
        scores = summary["test_scores"] or summary["scores"]
        rows = [
            (name, scores[key], 1.0 if key == "dense" else summary["density"])
            for key, name in (("dense", "dense"), ("start", f"start ({summary['init']})"), ("result", "result"))
            if key in scores
        ]
        if rows:
            show(score_table(f"on {where}", rows))
        show(f"density {summary['density']:.6g}, {summary['steps']} {summary['unit']} in {summary['seconds']:.1f} s")
        show(f"backend {summary['backend'] or 'none: no block was solved'}")
        if summary["out"]:
            show(f"run     {summary['out']} (report.html, model/, masks.safetensors)")
        else:
            show("nothing was kept: --out FOLDER keeps the pruned model, its masks and a report")
        if summary.get("calls"):
            show(f"service {summary['calls']} calls, {summary['charged']:.4g} s billed as far as it has reported")
        if summary["budget_reached"]:
            show(summary["budget_reached"])
        if summary["interrupted"] or summary["budget_reached"]:
            how = f"; `hybrid-icbs resume {summary['out']}` continues it" if summary["out"] else ""
            show(f"stopped early, with the best state so far{how}")


# solve


# blocks


def blocks_of_model(sources: Sources, config: Config, count: int) -> list[problems.BlockProblem]:
    """The first blocks of a new run, of which nothing is kept."""
    with phase("loading model and data"):
        model, data, loss, _ = sources.load()
        return Pruner(model, data, config, loss=loss, inplace=True).ask(count)


def blocks_of_run(folder: Path, count: int) -> list[problems.BlockProblem]:
    """The blocks that a run waits for, or those that it would come to next; the run stays as it is.

    Raises:
        WrongUse: the folder holds no run, or one whose model and data are not on record.
    """
    journal = Journal.open(run_folder(folder))
    recorded = journal.value("sources")
    journal.close()
    sources = _recorded(folder, recorded)
    with phase("loading model and data, and what the run has done"):
        model, data, loss, _ = sources.load()
        pruner = Pruner.resume(folder, model, data, loss=loss, inplace=True)
        pruner.close()  # what is asked from here on is not part of the run
        if pruner.pending():
            return pruner.pending()[:count]
        pruner.config = pruner.config.model_copy(update={"steps": pruner.steps + count})
        return pruner.ask(count)
