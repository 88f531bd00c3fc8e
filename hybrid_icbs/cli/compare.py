"""`hybrid-icbs compare`: runs the comparison that the command line names, and prints it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

import solvers
from hybrid_icbs.cli.console import INTERRUPTED, WrongUse, show, show_json
from hybrid_icbs.progress import phase
from hybrid_icbs.runs.folder import FILE
from solvers.comparison import Comparison
from solvers.comparison.inputs import Given
from solvers.comparison.leaderboard import footnotes, leaderboard


def race(
    given: Sequence[str],
    backends: str,
    time_limits: Sequence[str] | None,
    *,
    count: int,
    **settings: Any,
) -> Comparison:
    """Race the backends of a command line.

    Args:
        given: block files, folders, MDPLIB files, run folders, `instances:PATTERN`.
        backends: texts with commas between them.
        time_limits: texts of one or several seconds, "none" for a backend's own amount of work; None for one second.
        count: how many blocks of a run.
        settings: what :func:`solvers.compare` takes.

    Raises:
        WrongUse: a text that cannot be read, or a run folder whose blocks cannot be made again.
    """
    named = [text.strip() for text in backends.split(",")]
    if not all(named):
        raise WrongUse(f"--backends {backends!r} must be names with commas between them, such as sa,tabu")
    limits = _limits(time_limits)
    found: list[Given | str] = []
    for text in given:
        found += _blocks(Path(text), count) if (Path(text) / FILE).is_file() else [text]
    with phase("comparing", unit="solves") as advance:
        return solvers.compare(
            found,
            named,
            time_limits=limits,
            on_progress=lambda what, done, total: advance(done, what, total),
            **settings,
        )


def show_race(comparison: Comparison, *, quiet: bool, as_json: bool) -> None:
    """Print the result of a comparison.

    Raises:
        SolverError: a backend could not continue, or no solve has succeeded; the results so far were shown.
        typer.Exit: Ctrl-C ended the race; likewise.
    """
    if as_json:
        show_json(comparison.summary())
    elif not quiet:
        if comparison.board:
            show(leaderboard(comparison), *footnotes(comparison))
            show(f"report   {comparison.out}/report.html", f"rows     {comparison.out}/results.csv")
        if comparison.left or comparison.interrupted:
            left = f", with {comparison.left} solves left" if comparison.left else ""
            spent = {why for why in comparison.put_off.values() if _is_budget(why)}
            why = f" ({'; '.join(sorted(spent))})" if spent else ""
            show(f"stopped early{left}{why}; {'a larger limit' if spent else 'the same command'} continues it")
    if comparison.rows and not any(row.scored for row in comparison.rows):
        raise solvers.SolverError(_no_success(comparison))
    reasons = comparison.put_off.items()
    stuck = [f"{backend} could not continue: {why}" for backend, why in reasons if not _is_budget(why)]
    if stuck:
        raise solvers.SolverError("; ".join(stuck))
    if comparison.interrupted:
        raise typer.Exit(INTERRUPTED)


def _is_budget(why: str) -> bool:
    return why.startswith("BudgetReached")


def _no_success(comparison: Comparison) -> str:
    failed = [row for row in comparison.rows if row.status == "failed"]
    why = f"; {len(failed)} failed, the first of them, {failed[0].backend}, with {failed[0].error}" if failed else ""
    return f"none of the {len(comparison.rows)} solves has a feasible answer{why}"


def _limits(texts: Sequence[str] | None) -> list[float | None]:
    if not texts:
        return [1.0]
    limits: list[float | None] = []
    for text in (part.strip() for given in texts for part in given.split(",")):
        try:
            limits.append(None if text.lower() == "none" else float(text))
        except ValueError:
            raise WrongUse(f"--time-limit {text!r} must be a number of seconds, or none") from None
    return limits


def _blocks(folder: Path, count: int) -> list[Given | str]:
    """The blocks that a run waits for, or would come to next."""
    from hybrid_icbs.cli.commands import blocks_of_run

    found = blocks_of_run(folder, count)
    run = folder.resolve().name

    def given(at: int) -> Given:
        # Of the run's step: later steps have other blocks, under other names.
        step = found[at].provenance.get("step", 0)
        return Given(f"{run}-step{step}-{at}", f"run {folder}", lambda: found[at])

    return [given(at) for at in range(len(found))]
