"""`sa` and `tabu` as dimod samplers, for Ocean users."""

from __future__ import annotations

import abc
from typing import Any

import dimod
import numpy as np

from problems import BlockProblem
from problems.forms import StateArray
from solvers.checks import at_least
from solvers.errors import OptionError
from solvers.run import Run

MOST_VARIABLES = 20_000
"""Models are searched as dense matrices, 4.8 GB at this size."""


class LocalSampler(dimod.Sampler):  # type: ignore[misc]
    """A local search as a dimod sampler: by single flips, or by swaps where the number of ones is given."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword arguments that :meth:`sample` knows, each with the properties it depends on: none."""
        return {"cardinality": [], "num_reads": [], "seed": []}

    @property
    def properties(self) -> dict[str, Any]:
        """The largest model taken."""
        return {"max_num_variables": MOST_VARIABLES}

    def sample(
        self,
        bqm: dimod.BinaryQuadraticModel,
        *,
        cardinality: int | None = None,
        num_reads: int = 1,
        seed: int | None = None,
        **unknown: Any,
    ) -> dimod.SampleSet:
        """Look for states of low energy of a dimod model.

        Args:
            bqm: a model of either vartype, with any labels.
            cardinality: how many variables must be one (for SPIN: +1), searched by swaps; None leaves them free and
                searches by single flips.
            num_reads: independent searches, a row of the answer each.
            seed: seed of the search; None draws one, which `.info["seed"]` records.
            unknown: ignored with a warning, as dimod's samplers do.

        Returns:
            A SampleSet of the model's vartype and labels, one row a read.

        Raises:
            OptionError: a number of reads or a seed that cannot be used, or a model of too many variables.
            ProblemError: biases that are not finite, or a cardinality that the model cannot have.

        Example:
            >>> from solvers.local.sa import SimulatedAnnealing
            >>> SimulatedAnnealing().sample_ising({}, {"ab": 1, "bc": 1, "ac": 1}, seed=0).first.energy
            -1.0
        """
        self.remove_unknown_kwargs(**unknown)
        at_least(1, num_reads=num_reads)
        run = Run.checked(seed=seed, time_limit=None, target=None, initial_states=None, stop=None)
        n = bqm.num_variables
        if n > MOST_VARIABLES:
            raise OptionError(
                f"the model has {n} variables; at most {MOST_VARIABLES} are taken, as a dense matrix is made of them. "
                "The samplers of dwave-samplers take large sparse models"
            )
        states: StateArray
        if n == 0:
            states = np.zeros((num_reads, 0), np.int8)
        else:
            problem = BlockProblem.from_bqm(bqm, 0 if cardinality is None else cardinality)
            self._prepare(problem)
            with run.listening():
                run.start()
                read = self._flip_reads if cardinality is None else self._swap_reads
                states = read(problem, num_reads, run)
        values = 2 * states - 1 if bqm.vartype is dimod.SPIN else states
        return dimod.SampleSet.from_samples_bqm((values, list(bqm.variables)), bqm, info={"seed": run.seed})

    @abc.abstractmethod
    def _prepare(self, problem: BlockProblem) -> None:
        """Import and compile what the reads will use."""

    @abc.abstractmethod
    def _flip_reads(self, problem: BlockProblem, num_reads: int, run: Run) -> StateArray:
        """States [num_reads, n] of low energy, whatever the problem's cardinality."""

    @abc.abstractmethod
    def _swap_reads(self, problem: BlockProblem, num_reads: int, run: Run) -> StateArray:
        """Feasible states [num_reads, n] of low energy."""
