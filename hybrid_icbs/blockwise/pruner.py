"""The pruning loop: ask for blocks, solve them with any solver, tell the answers."""

from __future__ import annotations

import copy
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import solvers
from hybrid_icbs.blockwise.blocks import Answer, build_blocks
from hybrid_icbs.blockwise.merge import write_masks
from hybrid_icbs.blockwise.refit import Refit, refit
from hybrid_icbs.blockwise.rounds import OpenRound, open_round
from hybrid_icbs.blockwise.snapshots import PresentValues, Snapshot, Values, drop_values, kept_values, save_values
from hybrid_icbs.blockwise.solving import RunSolver, solve_round
from hybrid_icbs.blockwise.state import RunState, check_rebuilt
from hybrid_icbs.config import Config
from hybrid_icbs.data.batch_norm import fresh_statistics
from hybrid_icbs.data.calibration import Batch
from hybrid_icbs.data.evaluation import Guard
from hybrid_icbs.data.forward import device_of
from hybrid_icbs.data.losses import Loss, loss_for
from hybrid_icbs.data.model_data import data_for
from hybrid_icbs.data.samples import REFITS, Samples
from hybrid_icbs.errors import PruningError, StaleBlock
from hybrid_icbs.gradients.passes import measure_gradients
from hybrid_icbs.models.layers import find_layers, has_batch_norm
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.models.restore import restore_values
from hybrid_icbs.progress import phase
from hybrid_icbs.report.renderer import RENDERER
from hybrid_icbs.result import TOOLKITS, PruneResult
from hybrid_icbs.runs.fingerprint import fingerprint
from hybrid_icbs.runs.journal import Journal, RoundRecord
from hybrid_icbs.selection.candidates import with_cut
from hybrid_icbs.selection.plan import choose_blocks, first_masks
from hybrid_icbs.selection.scores import initial_masks, least_cut, score_weights
from problems import BlockProblem
from solvers.dispatch import Dispatch, opened
from solvers.errors import BudgetReached
from solvers.remote.account import Account, accounting
from solvers.remote.ledger import MemoryLedger
from solvers.run import on_interrupt

logger = logging.getLogger(__name__)


class Pruner:
    """An ask/tell pruning loop, independent of the solver.

    Args:
        model: a trained torch model; a copy is pruned unless `inplace`.
        data: calibration data, see :class:`~hybrid_icbs.data.calibration.CalibrationData`.
        config: settings.
        loss: per-sample loss, (outputs, targets) -> [N]; None for the loss of the model's task, or cross entropy.
        inplace: prune the given model itself, not a copy.
        out: a new run folder with a journal, which makes the run resumable; None writes nothing.
        notes: JSON values of the caller to store in the journal.

    Raises:
        PruningError: the settings, data or model cannot be used; the message says why and what to do.

    Example:
        >>> pruner = Pruner(model, (inputs, labels), Config.of(density=0.1))  # doctest: +SKIP
        >>> for problem in pruner.ask():
        ...     pruner.tell(problem, solvers.solve(problem, "tabu", seed=0))
    """

    account: Account
    """The run's budget for paid calls, and what it has spent."""
    start_densities: dict[str, float]
    _journal: Journal | None

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        config: Config,
        *,
        loss: Loss | None = None,
        inplace: bool = False,
        out: str | Path | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self._prepare(model, data, config, loss, inplace)
        scores = {"dense": self.dense_score, "start": self.start_score}
        start = {
            "scores": {key: asdict(score) for key, score in scores.items() if score},
            "densities": self.start_densities,
            "kept": {name: self.masks.kept(name) for name in self.masks},
            "versions": solvers.versions(TOOLKITS),
        }
        if out is not None:
            self._journal = Journal.create(out, config, self._identity(), {"start": start, **(notes or {})})
        self._open_account()

    @classmethod
    def resume(
        cls,
        out: str | Path,
        model: nn.Module,
        data: Any,
        *,
        loss: Loss | None = None,
        inplace: bool = False,
        max_calls: int | None = None,
        max_charge: float | None = None,
    ) -> Pruner:
        """Resume the run of a folder from the last entry of its journal.

        Args:
            out: the run folder.
            model: the same dense model with which the run began.
            data: the same calibration data.
            loss: the same loss.
            inplace: prune the given model itself, not a copy.
            max_calls: new limit on the calls of the whole run to services; None keeps the old one.
            max_charge: new limit on the seconds billed to the whole run; None keeps the old one.

        Returns:
            A pruner that ends with the same masks as an uninterrupted run. Blocks that were asked for and not answered
            are in :meth:`pending`.

        Raises:
            RunFolderError: the folder holds no run, another process has it open, or the model or data differ from the
                run's.
        """
        journal = Journal.open(out)
        try:
            pruner = object.__new__(cls)
            limits = {"max_calls": max_calls, "max_charge": max_charge}
            given = {key: value for key, value in limits.items() if value is not None}
            config = Config.of(**journal.config.model_dump() | given)
            pruner._prepare(model, data, config, loss, inplace)
            journal.check_identity(pruner._identity())
            pruner._solver = RunSolver(config, journal.value("backend"))
            unmerged = pruner._state.replay(journal, pruner.layers, pruner.restore)
            if unmerged:
                pruner._journal = journal
                pruner._reopen(unmerged)
            if given:
                journal.set_config(config)
        except BaseException:
            journal.close()
            raise
        pruner._journal = journal
        pruner._open_account()
        return pruner

    def _prepare(self, model: nn.Module, data: Any, config: Config, loss: Loss | None, inplace: bool) -> None:
        if config.by_layer:
            raise PruningError(
                f"method {config.method!r} with objective {config.objective!r} prunes layer by layer, which Pruner "
                "does not do: use hybrid_icbs.prune and hybrid_icbs.resume; "
                "hybrid_icbs.layerwise.rows.row_problems makes block problems of a layer's rows"
            )
        self._journal = None  # while a journal is replayed, nothing is recorded again
        self.config = config
        self.loss = loss or loss_for(model)
        self.data = data_for(model, data)
        self._samples = Samples.of(self.data, config)
        self.model = model if inplace else copy.deepcopy(model)
        self.layers = find_layers(self.model, config.include, config.exclude or None)
        self._fingerprint = fingerprint(self.model.state_dict())
        self.restore = restore_values(self.layers)
        self.interrupted = False
        self.budget_reached: str | None = None
        self._solver = RunSolver(config)
        self._round: OpenRound | None = None
        guarded = self._samples.guarded
        self.guard = Guard(self.model, self.data, guarded, self.loss) if len(guarded) else None
        with phase("evaluating the dense model"):
            self.dense_score = self.guard.score() if self.guard else None
        if self.dense_score and not math.isfinite(self.dense_score.loss):
            raise PruningError(
                f"the dense model's loss on the guard's samples is {self.dense_score.loss}; the "
                "calibration data, the weights or the loss hold values that are not finite"
            )
        with phase("choosing the initial masks"):
            scores = score_weights(self.model, self.layers, config.init, self._batch(0), self.loss, config.seed)
            masks = first_masks(scores, self.layers, config)
        self.start_densities = {name: masks.density(name) for name in masks}
        write_masks(self.layers, masks, self.restore)
        self.start_score = self.guard.score() if self.guard else None
        self._state = RunState(config, self.layers, masks, self.start_score.loss if self.start_score else None)
        start, total = self._state.cuts.start, sum(layer.size for layer in self.layers)
        if start > self._state.kept:
            denser = initial_masks(scores, self.layers, start / total, config.start_comparison)
            write_masks(self.layers, denser, self.restore)
            self._state.masks, self._state.guard_loss = denser, self._loss()

    @property
    def masks(self) -> Masks:
        """The current masks."""
        return self._state.masks

    @property
    def guard_loss(self) -> float | None:
        """Current loss on the guard's samples; None without a guard."""
        return self._state.guard_loss

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row for each block of the merged and refused rounds."""
        return self._state.history

    @property
    def rounds(self) -> int:
        """Number of merged and refused rounds."""
        return self._state.rounds

    @property
    def steps(self) -> int:
        """Number of blocks in merged and refused rounds."""
        return self._state.steps

    @property
    def backend(self) -> str:
        """The solver with its settings, as text; empty before the first block is solved."""
        return self._solver.settings

    # Ask and tell

    def ask(self, count: int | None = None) -> list[BlockProblem]:
        """The next round: disjoint blocks, measured in one pass over one calibration batch.

        Args:
            count: number of blocks; None for `round_size`. There are fewer if candidates or remaining steps run short.

        Returns:
            Block problems whose answers go to :meth:`tell`; empty when all steps are done.

        Raises:
            PruningError: blocks of the last round have no answer yet.
        """
        if self._round:
            raise PruningError(
                f"{len(self.pending())} of {len(self._round.blocks)} blocks of the last round have no answer yet; "
                "tell the answers of those that pending() lists"
            )
        count = min(count or self.config.round_size, self.config.steps - self.steps)
        if count <= 0:
            return []
        begun = time.perf_counter()
        state = self._state
        picked = state.schedule.next(count) if self.config.scope == "layer" else []
        layers = [self.layers[n] for n in dict.fromkeys(picked)] or self.layers
        gradients = measure_gradients(self.model, layers, self._batch(self.rounds), self.loss)
        measured = time.perf_counter()
        fixed_before = set(state.held.fixed)
        values = self._values_if_kept()
        scores = gradients.scores(layers, values)
        chosen = choose_blocks(scores, layers, self.masks, state.held, self.config, picked, count)
        chosen = with_cut(chosen, self.masks.kept() - state.cuts.kept(self.steps + len(chosen)))
        origin: dict[str, Any] = {"round": self.rounds, "masks": self.masks.checksum()}
        blocks = build_blocks(chosen, gradients, self.layers, values, self.config, state.damping, origin)
        self._round = open_round(self.rounds, count, origin["masks"], chosen, blocks)
        for c in chosen:
            state.held.add(c.parameter, c.index)
        self._round.record.fixed.update({n: b for n, b in state.held.fixed.items() if n not in fixed_before})
        self._round.seconds.update(gradients=measured - begun, problems=time.perf_counter() - measured)
        if self._journal:
            self._journal.asked(self._round.record)
        return self.pending()

    def pending(self) -> list[BlockProblem]:
        """Block problems of the open round without an answer."""
        return self._round.pending() if self._round else []

    def tell(self, problem: BlockProblem, answer: Answer) -> None:
        """Give the answer of a block. The round is merged, in the order of asking, when its last answer arrives.

        Args:
            problem: a block of the open round, or a copy that was saved and loaded.
            answer: a SampleSet over 0..n-1, of which the best row is taken, or one state [n]; 1 prunes a weight.

        Raises:
            StaleBlock: the block is not of the open round, so its weights may have changed.
            PruningError: the state is not feasible, or the block was answered already.
        """
        block = self._round.find(problem) if self._round else None
        if self._round is None or block is None:
            origin = problem.provenance
            raise StaleBlock(
                f"block {origin.get('block')} of round {origin.get('round')} is not open (round {self.rounds} "
                f"{f'waits for {len(self.pending())} answers' if self._round else 'has not been asked for'}); "
                "its weights may have changed, so the answer cannot be merged"
            )
        block.give(answer)
        if self._journal:
            assert block.answer is not None
            number = self._round.blocks.index(block)
            self._journal.answered(self.rounds, number, block.answer, block.energy, block.info)
        if not self.pending():
            self._merge()

    def run(
        self,
        backend: str | solvers.Solver | None = None,
        *,
        dispatch: str | Dispatch | None = None,
        after_round: Callable[[Pruner], None] | None = None,
    ) -> None:
        """Ask, solve and tell until all steps are done. Ctrl-C ends the run after the current round.

        The limits on paid calls (`max_calls`, `max_charge`) end a run too; `budget_reached` then names the limit.

        Args:
            backend: name of a backend, or a solver; None for the config's. Blocks larger than it takes are decomposed.
            dispatch: where the blocks of a round are solved: a name, or an open Dispatch, which stays open; None for
                the config's. It does not change answers.
            after_round: called after each merged round.

        Raises:
            RemoteError: a service could not be reached, or failed repeatedly. Answers and calls are kept: calling `run`
                again, or resuming, continues without paying for a call twice.
            ServiceError: a service refused a call; answers and calls are kept as well.
            WorkerLost: the worker of a block was lost repeatedly; answers and calls are kept as well.
        """
        solver: solvers.Solver | None = None
        self.budget_reached = None
        with (
            on_interrupt(self._interrupt), accounting(self.account), opened(dispatch, self.config.dispatch) as way
        ):  # fmt: skip
            while not self.interrupted:
                problems = self.pending() or self.ask()
                if not problems:
                    break
                assert self._round is not None
                solver = solver or self._settled(self.solver(problems[0], backend))
                begun = time.perf_counter()
                try:
                    answers = solve_round(solver, self._round.blocks, self.rounds, self.config, way)
                except BudgetReached as reached:
                    self.budget_reached = str(reached)
                    break
                self._round.seconds["solve"] = time.perf_counter() - begun
                for problem, answer in zip(problems, answers, strict=True):
                    if answer.info.get("ended_by") == "interrupt":
                        # An interrupted answer differs from that of an uninterrupted run, so its block stays open.
                        self.interrupted = True
                    else:
                        self.tell(problem, answer)
                if self._round:
                    break
                if after_round:
                    after_round(self)
        if self.interrupted or self.budget_reached:
            logger.warning(
                "%s after %d of %d steps; the best state so far is kept",
                self.budget_reached or "interrupted", self.steps, self.config.steps,
            )  # fmt: skip

    def _interrupt(self) -> None:
        """On Ctrl-C, finish the round, so that masks, weights and journal agree; on the second, stop at once."""
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def solver(self, problem: BlockProblem, backend: str | solvers.Solver | None = None) -> solvers.Solver:
        """The solver of the config, or of another backend; "auto" is the fastest local one for the problem.

        If the problem is larger than the solver takes, it is wrapped in :class:`solvers.Decompose`.
        """
        return self._solver.pick(problem, backend)

    def _settled(self, solver: solvers.Solver) -> solvers.Solver:
        return self._solver.settle(solver, binding=self._journal is not None, note=self.note)

    def finish(self) -> None:
        """Restore the best snapshot, and recompute batch-norm statistics if the model has any.

        A run that ended before it reached the final density is pruned to it by magnitude, or takes the initial masks if
        their loss on the guard's samples is lower.
        """
        state = self._state
        if self.masks.kept() > state.kept:
            values = self._values_if_kept()
            state.masks = least_cut(self.masks, self.layers, values, state.kept)
            write_masks(self.layers, self.masks, values)
            state.guard_loss = loss = self._loss()
            if state.best_loss is not None and loss is not None and loss < state.best_loss:
                state.best_loss, state.best = loss, Snapshot(self.masks.copy(), self._kept_values())
        if state.best_loss is not None and self.guard_loss != state.best_loss:
            state.masks, state.guard_loss = state.best.masks.copy(), state.best_loss
            state.best.put(self.layers, self.restore)
        wanted = self.config.recalibrate_bn
        if has_batch_norm(self.model) if wanted is None else wanted:
            must = wanted or self.config.guard != "refuse"
            pool = self._samples.pool
            state.guard_loss = fresh_statistics(self.model, self.data, pool, self.guard, self.guard_loss, must=must)

    def result(self) -> PruneResult:
        """The result so far."""
        scores = {}
        if self.guard and self.dense_score and self.start_score:
            measured = {"dense": self.dense_score, "start": self.start_score, "result": self.guard.score()}
            scores = {key: asdict(score) for key, score in measured.items()}
        return PruneResult(
            self.model, dict(self.masks), self.history, self.config, self.backend, scores,
            self._folder, self.interrupted, self.start_densities,
            self.budget_reached, self.data.tokenizer, renderer=RENDERER,
        )  # fmt: skip

    @property
    def out(self) -> Path | None:
        """The run folder, if any."""
        return self._folder

    def note(self, key: str, value: Any) -> None:
        """Store a JSON value in the journal, if there is a run folder."""
        if self._journal:
            self._journal.set_value(key, value)

    def close(self) -> None:
        """Close the run folder, so that other processes can open it."""
        if self._journal:
            self._journal.close()
            self._journal = None

    def _open_account(self) -> None:
        """Open the account of paid calls, recorded in the journal if there is one."""
        self._folder = self._journal.folder if self._journal else None
        self.account = Account(
            self._journal or MemoryLedger(),
            self._journal.value("run") if self._journal else secrets.token_hex(8),
            max_calls=self.config.max_calls, max_charge=self.config.max_charge,
        )  # fmt: skip

    # The end of a round

    def _merge(self) -> None:
        assert self._round is not None
        refuses = self.config.guard == "refuse"
        merged = self._round.merge(self.layers, self.masks, self.restore, self.guard, self.guard_loss, refuses=refuses)
        loss, values, saved = merged.loss, None, None
        begun, refitted = time.perf_counter(), self._refit(loss)
        if refitted:
            loss, values = refitted.loss, refitted.values
            self._round.seconds["refit"] = time.perf_counter() - begun
        rows = self._round.rows(merged, refitted, steps=self.steps, density=self.masks.density())
        if self._journal:
            if values is not None:  # written before the journal entry that names them
                saved = save_values(self._journal.folder, self.rounds, self.layers, values)
            self._journal.merged(self.rounds, merged.accepted, loss, rows, merged.applied, saved)
        self._state.close_round(rows, merged.accepted, loss, values, saved)
        if self._journal and saved:
            drop_values(self._journal.folder, [saved, self._state.best.saved])
        self._round = None

    def _refit(self, loss: float | None) -> Refit | None:
        """Refit the survivors, if the settings ask for it and a guard can measure the result."""
        if self.config.update == "none" or self.guard is None or loss is None:
            return None
        batch = self._samples.batch(self.rounds, device_of(self.model), stream=REFITS)
        return refit(self.model, self.layers, self.masks, batch, self.loss, self.guard, loss)

    def _values_if_kept(self) -> Sequence[torch.Tensor]:
        """The value of each weight if it is kept, by layer."""
        if self.config.update == "none":
            return self.restore
        return PresentValues(self.layers, self.masks, self.restore)

    def _kept_values(self) -> Values | None:
        return None if self.config.update == "none" else kept_values(self.layers, self.masks)

    def _loss(self) -> float | None:
        return self.guard.score().loss if self.guard else None

    # Start and resume

    def _batch(self, number: int) -> Batch:
        return self._samples.batch(number, device_of(self.model))

    def _identity(self) -> dict[str, Any]:
        """What must be unchanged when a run is resumed: the dense model, the data and the first masks."""
        first = self._samples.first()
        return {
            "weights": self._fingerprint,
            "samples": len(self.data),
            "data": fingerprint({"inputs": first.inputs, "targets": first.targets}),
            "masks": self.masks.checksum(),
            "layers": {layer.name: list(layer.weight.shape) for layer in self.layers},
        }

    def _reopen(self, record: RoundRecord) -> None:
        """Rebuild the blocks of an unfinished round and give them the recorded answers."""
        self.ask(record.asked)
        assert self._round is not None
        check_rebuilt(self._round.record, record)
        for block, answer in zip(self._round.blocks, record.answers, strict=True):
            if answer is not None:
                block.give(answer)
        if not self.pending():
            self._merge()
