"""The solver of a run, and solving the blocks of a round."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import solvers
from hybrid_icbs.blockwise.blocks import Block
from hybrid_icbs.config import Config
from hybrid_icbs.errors import PruningError
from problems import BlockProblem
from solvers.dispatch import Dispatch, get_dispatch

if TYPE_CHECKING:
    import dimod

logger = logging.getLogger(__name__)


def solve_round(
    solver: solvers.Solver, blocks: Sequence[Block], number: int, config: Config, dispatch: Dispatch | None = None
) -> list[dimod.SampleSet]:
    """Solve the blocks of a round that have no answer yet.

    Args:
        solver: the solver.
        blocks: all blocks of the round.
        number: number of the round; the seed of a block follows from it, the run's seed and the block's position.
        config: the run's settings.
        dispatch: where blocks are solved; it does not change answers. None for what the solver's capabilities say.

    Returns:
        Their answers, in the order of asking.
    """
    waiting = [b for b, block in enumerate(blocks) if block.answer is None]
    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    return (dispatch or get_dispatch()).solve(
        solver,
        [blocks[b].problem for b in waiting],
        # Counted from the first open block, so that a resumed round gives every block the same seed.
        seed=seed + waiting[0],
        time_limit=config.time_limit,
        initial_states=[blocks[b].fallback for b in waiting],
    )


class RunSolver:
    """The solver of a run: chosen for its first block, and recorded.

    Args:
        config: the run's settings.
        recorded: name and settings of the solver with which a resumed run began.

    Attributes:
        settings: the solver with its settings, as text; empty until one is chosen.
    """

    def __init__(self, config: Config, recorded: dict[str, str] | None = None) -> None:
        self._config, self._recorded = config, recorded
        self.settings = recorded["settings"] if recorded else ""

    def pick(self, problem: BlockProblem, backend: str | solvers.Solver | None = None) -> solvers.Solver:
        """The solver of the config, or of another backend; larger problems than it takes are decomposed."""
        options = self._config.backend_options if backend is None else {}
        named = backend or self._config.backend
        if named != "auto":
            return solvers.fitted(solvers.get_solver(named, **options), problem)
        if self._recorded:  # chosen when the run began: with another number of processors another may be faster
            return solvers.get_solver(self._recorded["name"])
        if options:
            raise PruningError(
                f"backend_options {sorted(options)} need a named backend, and backend is 'auto'; give backend="
            )
        picked = solvers.fastest_local(problem)
        logger.info("backend auto: %s", picked)
        return picked

    def settle(self, solver: solvers.Solver, *, binding: bool, note: Callable[[str, Any], None]) -> solvers.Solver:
        """Fix the solver of the run.

        Args:
            solver: the solver.
            binding: whether a resumed run must use the solver with which it began.
            note: records the first solver of the run.

        Raises:
            PruningError: the run began with another one.
        """
        settings = repr(solver)
        if binding and self._recorded and self._recorded["settings"] != settings:
            raise PruningError(
                f"the run began with {self._recorded['settings']}, not {settings}; resume with the same solver, by "
                "Pruner.resume(...).run(solver) if it has no backend name"
            )
        self.settings = settings
        if self._recorded is None:
            self._recorded = {"name": solver.backend, "settings": settings}
            note("backend", self._recorded)
        return solver
