"""Estimates of a run's cost before anything is sent: `hybrid-icbs prune --dry-run`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import solvers
from hybrid_icbs.config import Config
from problems import BlockProblem

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Forecast:
    """Estimated cost of a whole run with one backend.

    Attributes:
        backend: its name; for a service, with the kind of solver.
        chosen: whether it is the run's backend, not another kind of solver at the same service.
        blocks: number of blocks to solve.
        n: variables of the largest block.
        fits: whether the backend takes blocks of this size.
        affordable: number of blocks within the limits on calls and billed seconds; all of them without limits.
        calls: number of calls to a service.
        upload_bytes: bytes sent to a service.
        seconds: wall-clock seconds for solving, an order of magnitude.
        charge_seconds: seconds that a service would bill.
        missing: what the backend lacks on this machine; empty if it is ready.
        note: basis of the figures, or why a block does not fit.
    """

    backend: str
    chosen: bool
    blocks: int
    n: int
    fits: bool
    affordable: int
    calls: int
    upload_bytes: float
    seconds: float
    charge_seconds: float
    missing: str
    note: str


def forecasts(solver: solvers.Solver, problems: list[BlockProblem], config: Config) -> list[Forecast]:
    """Estimates for a solver, and for the other kinds of solver at its service.

    Args:
        solver: the run's solver.
        problems: blocks of the run's first round, taken as typical of all.
        config: the run's settings, with its limits on paid calls.
    """
    return [_forecast(each, each is solver, problems, config) for each in (solver, *_siblings(solver))]


def forecast_table(found: list[Forecast]) -> Table:
    """A table of forecasts; :func:`forecast_notes` explains the figures."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("backend", overflow="fold", min_width=12)
    for head in ("blocks", "n", "fits", "calls", "MB", "seconds", "billed", "payable"):
        table.add_column(head, justify="right", no_wrap=True)
    for each in found:
        figures = ["no", "-", "-", "-", "-", "-"]
        if each.fits:
            figures = [
                "yes", f"{each.calls:,}", _short(each.upload_bytes / 1e6), _short(each.seconds),
                _short(each.charge_seconds), "all" if each.affordable == each.blocks else f"{each.affordable:,}",
            ]  # fmt: skip
        table.add_row(each.backend, f"{each.blocks:,}", f"{each.n:,}", *figures)
    return table


def forecast_notes(found: list[Forecast]) -> list[str]:
    """Distinct notes on the figures and on what is missing, each with its backends."""
    notes: dict[str, list[str]] = {}
    for each in found:
        for line in filter(None, (each.note, each.missing)):
            notes.setdefault(line, []).append(each.backend)
    return [line if len(who) == len(found) else f"{', '.join(who)}: {line}" for line, who in notes.items()]


def _short(value: float) -> str:
    """Three significant digits, or the whole part if it has more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _forecast(solver: solvers.Solver, chosen: bool, problems: list[BlockProblem], config: Config) -> Forecast:
    largest = max(problems, key=lambda problem: problem.n)
    fitting = solvers.fitted(solver, largest)
    each = [fitting.estimate_within(problem, config.time_limit) for problem in problems]
    share = config.steps / len(problems)
    fits = all(estimate.fits for estimate in each)
    seconds, charge, upload = (
        share * sum(getattr(estimate, name) for estimate in each) if fits else math.inf
        for name in ("seconds", "charge_seconds", "upload_bytes")
    )
    calls = math.ceil(share * sum(estimate.calls for estimate in each))
    ready = solver.available()
    return Forecast(
        fitting.backend, chosen, config.steps, largest.n, fits, _affordable(config, calls, charge) if fits else 0,
        calls, upload, seconds, charge, ready.reason, next(e.note for e in each if e.fits == fits),
    )  # fmt: skip


def _affordable(config: Config, calls: int, charge: float) -> int:
    shares = [
        limit / needed
        for limit, needed in ((config.max_calls, calls), (config.max_charge, charge))
        if limit is not None and needed > 0
    ]
    return min(config.steps, *(math.floor(config.steps * share + 1e-9) for share in shares), config.steps)


def _siblings(solver: solvers.Solver) -> list[solvers.Solver]:
    """The same settings with each other kind of solver at the same service."""
    if not solver.capabilities.remote or isinstance(solver, solvers.Decompose):
        return []
    kinds: tuple[str, ...] = getattr(solver, "kinds", ())
    return [
        dataclasses.replace(solver, solver=kind)  # type: ignore[call-arg] # solvers with kinds have this field
        for kind in kinds
        if kind != getattr(solver, "kind", None)
    ]
