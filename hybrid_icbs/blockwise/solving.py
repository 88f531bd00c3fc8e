"""Which solver a run uses, and the one place where the blocks of a round are solved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import dimod
import numpy as np

import solvers
from hybrid_icbs.blockwise.blocks import Block
from hybrid_icbs.config import Config
from hybrid_icbs.errors import PruningError
from problems import BlockProblem
from solvers.dispatch import Dispatch, get_dispatch

logger = logging.getLogger(__name__)


def solve_round(
    solver: solvers.Solver, blocks: Sequence[Block], number: int, config: Config, dispatch: Dispatch | None = None
) -> list[dimod.SampleSet]:
    """Solve those blocks of a round that have no answer yet.

    Args:
        solver: what solves them.
        blocks: all blocks of the round.
        number: of the round: with the run's seed, and the block's place in the round, the seed of each block.
        config: the run's settings.
        dispatch: where they are solved, which changes no answer; None for what the solver's capabilities say.

    Returns:
        Their answers, in the order of asking.
    """
    waiting = [b for b, block in enumerate(blocks) if block.answer is None]
    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    return (dispatch or get_dispatch()).solve(
        solver,
        [blocks[b].problem for b in waiting],
        # Counted from the first block that waits: a resumed round seeds its blocks as an unbroken one does.
        seed=seed + waiting[0],
        time_limit=config.time_limit,
        initial_states=[blocks[b].fallback for b in waiting],
    )


class RunSolver:
    """The solver of a run: chosen for its first block, on record from then on.

    Args:
        config: the run's settings.
        recorded: name and settings of the solver with which a resumed run began.

    Attributes:
        settings: the solver with its settings, as text; empty while none is settled.
    """

    def __init__(self, config: Config, recorded: dict[str, str] | None = None) -> None:
        self._config, self._recorded = config, recorded
        self.settings = recorded["settings"] if recorded else ""

    def pick(self, problem: BlockProblem, backend: str | solvers.Solver | None = None) -> solvers.Solver:
        """The solver of the config, or of another backend, decomposing where a problem is larger than it takes."""
        options = self._config.backend_options if backend is None else {}
        named = backend or self._config.backend
        if named != "auto":
            return solvers.fitted(solvers.get_solver(named, **options), problem)
        if self._recorded:  # picked when the run began; another number of processors may favour another
            return solvers.get_solver(self._recorded["name"])
        if options:
            raise PruningError(f"backend_options {sorted(options)} need a backend by name; backend is 'auto'")
        picked = solvers.fastest_local(problem)
        logger.info("backend auto: %s", picked)
        return picked

    def settle(self, solver: solvers.Solver, *, binding: bool, note: Callable[[str, Any], None]) -> solvers.Solver:
        """Take a solver for the run.

        Args:
            solver: the solver.
            binding: whether the run must go on with the solver with which it began.
            note: keeps the record of a run's first solver.

        Raises:
            PruningError: the run began with another one.
        """
        settings = repr(solver)
        if binding and self._recorded and self._recorded["settings"] != settings:
            raise PruningError(
                f"the run began with {self._recorded['settings']}, not {settings}; go on with the same solver, by "
                "Pruner.resume(...).run(solver) where it is not a backend's name"
            )
        self.settings = settings
        if self._recorded is None:
            self._recorded = {"name": solver.backend, "settings": settings}
            note("backend", self._recorded)
        return solver
