"""The pruning loop, ask and tell: whoever solves the blocks, and wherever, the loop is the same."""

from __future__ import annotations

import copy
import itertools
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dimod
import numpy as np
import numpy.typing as npt
from torch import nn

import solvers
from hybrid_icbs.blocks import Answer, Block, build_blocks, checksum
from hybrid_icbs.calibration import (
    Batch,
    Loss,
    batch_norm_statistics,
    device_of,
    recalibrate_batch_norm,
    restore_batch_norm,
)
from hybrid_icbs.config import Config
from hybrid_icbs.errors import PruningError, StaleBlock
from hybrid_icbs.fingerprint import fingerprint
from hybrid_icbs.gradients import GradientPass, measure_gradients
from hybrid_icbs.journal import Journal, RoundRecord
from hybrid_icbs.layers import Layer, find_layers, has_batch_norm
from hybrid_icbs.mapped import restore_values
from hybrid_icbs.merge import Guard, apply, moves_of, write_masks
from hybrid_icbs.pretrained import data_for, loss_for
from hybrid_icbs.result import TOOLKITS, PruneResult
from hybrid_icbs.schedule import CutSchedule, LayerSchedule
from hybrid_icbs.scores import initial_masks, least_cut, score_weights
from hybrid_icbs.selection import Chosen, HoldBack, choose_candidates, with_cut
from problems import BlockProblem
from solvers.account import Account, accounting
from solvers.errors import BudgetReached
from solvers.ledger import MemoryLedger
from solvers.run import on_interrupt

logger = logging.getLogger(__name__)

RECALIBRATION_SAMPLES = 10_000
"""Samples over which batch-norm statistics are averaged: their error is then far below that of one training batch."""

BATCH_SAMPLES, BATCH_SEQUENCES = 200, 32
"""Samples on which the gradients of a round are measured, and sequences where the samples are text."""

GUARD_SAMPLES, GUARD_SEQUENCES = 5000, 64
"""The most that the guard holds back where nothing is said."""


class Pruner:
    """Prunes a model by rounds of blocks that anyone may solve.

    Args:
        model: a trained torch model; a copy is pruned unless `inplace`.
        data: calibration data, see :class:`~hybrid_icbs.calibration.CalibrationData`.
        config: settings.
        loss: per-sample loss, (outputs, targets) -> [N]; None for cross entropy.
        inplace: prune the given model itself.
        out: a new run folder, in which a journal makes the run resumable; None keeps nothing.
        notes: values (JSON) of the caller's that the journal keeps from the start.

    Raises:
        PruningError: settings, data or a model that cannot be used; the message says what and what to do.

    Example:
        >>> pruner = Pruner(model, (inputs, labels), Config.of(density=0.1))  # doctest: +SKIP
        >>> for problem in pruner.ask():
        ...     pruner.tell(problem, solvers.solve(problem, "tabu", seed=0))
    """

    account: Account
    """What the run may spend at services, and has spent."""
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
        """Go on with the run of a folder, from the last thing its journal holds.

        Args:
            out: the run folder.
            model: the same dense model with which the run began.
            data: the same calibration data.
            loss: the same loss.
            inplace: prune the given model itself.
            max_calls: calls to services that the run may make in all, from now on; None: as before.
            max_charge: seconds that services may bill the run in all, from now on; None: as before.

        Returns:
            A pruner that ends in the same masks as one that was never stopped. Where blocks were asked but not
            merged, :meth:`pending` holds them, answers told before are remembered.

        Raises:
            RunFolderError: no run is there, another process works on it, or model or data are not those of the run.
        """
        journal = Journal.open(out)
        try:
            pruner = object.__new__(cls)
            limits = {"max_calls": max_calls, "max_charge": max_charge}
            given = {key: value for key, value in limits.items() if value is not None}
            config = Config.of(**journal.config.model_dump() | given)
            pruner._prepare(model, data, config, loss, inplace)
            journal.check_identity(pruner._identity())
            pruner._solver_on_record = journal.value("backend")
            pruner.backend = (pruner._solver_on_record or {}).get("settings", "")
            pruner._replay(journal)
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
                f"method {config.method!r} with objective {config.objective!r} goes through the layers once, not "
                "through blocks: `prune` runs it, hybrid_icbs.rows.row_problems makes block problems of a layer's rows"
            )
        self._journal = None  # on a resume: nothing is recorded twice while the record is replayed
        self._solver_on_record: dict[str, str] | None = None
        self.config = config
        self.loss = loss or loss_for(model)
        self.data = data_for(model, data)
        self.batch_size = config.batch_size or (BATCH_SEQUENCES if self.data.sequences else BATCH_SAMPLES)
        self.model = model if inplace else copy.deepcopy(model)
        self.layers = find_layers(self.model, config.include, config.exclude or None)
        self._fingerprint = fingerprint(self.model.state_dict())
        self.restore = restore_values(self.layers)
        self.history: list[dict[str, Any]] = []
        self.rounds = 0
        self.steps = 0
        self.interrupted = False
        self.budget_reached: str | None = None
        self.backend = ""
        self._damping = 1.0
        self._open: list[Block] = []
        self._round: RoundRecord | None = None
        self._held = HoldBack(self.layers, config.hold_back)
        self._schedule = LayerSchedule([layer.size for layer in self.layers])
        guarded, self._pool = self._split()
        self.guard = Guard(self.model, self.data, guarded, self.loss) if len(guarded) else None
        self.dense_score = self.guard.score() if self.guard else None
        if self.dense_score and not math.isfinite(self.dense_score.loss):
            raise PruningError(
                f"the dense model's loss on the guard's samples is {self.dense_score.loss}; look for values that are "
                "not finite in the calibration data, the weights or the loss"
            )
        batch = self._batch()
        scores = score_weights(self.model, self.layers, config.init, batch, self.loss, config.seed)
        self.masks = initial_masks(scores, self.layers, config.density, config.start_comparison)
        self.start_densities = {name: self.masks.density(name) for name in self.masks}
        write_masks(self.layers, self.masks, self.restore)
        self.start_score = self.guard.score() if self.guard else None
        self.guard_loss = self.start_score.loss if self.start_score else None
        self._best_loss, self._best = self.guard_loss, self.masks.copy()
        total = sum(layer.size for layer in self.layers)
        self._kept = self.masks.kept()
        self._cuts = CutSchedule(config, total, self._kept)
        if self._cuts.start > self._kept:
            self.masks = initial_masks(scores, self.layers, self._cuts.start / total, config.start_comparison)
            write_masks(self.layers, self.masks, self.restore)
            self.guard_loss = self.guard.score().loss if self.guard else None

    # Ask and tell

    def ask(self, count: int | None = None) -> list[BlockProblem]:
        """The next blocks: disjoint, all from one pass over one calibration batch.

        Args:
            count: how many; None for a round's usual number. Fewer come where candidates, or the steps of the
                budget, are too few.

        Returns:
            Block problems whose answers go to :meth:`tell`; empty when the budget of steps is used up.

        Raises:
            PruningError: the blocks of the last ask are not all told.
        """
        if self._open:
            raise PruningError(
                f"{len(self.pending())} of {len(self._open)} blocks of the last ask are not told; pending() lists them"
            )
        count = min(count or self.config.round_size, self.config.steps - self.steps)
        if count <= 0:
            return []
        begun = time.perf_counter()
        picked = self._schedule.next(count) if self.config.scope == "layer" else []
        layers = [self.layers[n] for n in dict.fromkeys(picked)] or self.layers
        gradients = measure_gradients(self.model, layers, self._batch(), self.loss)
        measured = time.perf_counter()
        fixed_before = set(self._held.fixed)
        chosen = self._choose(gradients, layers, picked, count)
        chosen = with_cut(chosen, self.masks.kept() - self._cuts.kept(self.steps + len(chosen)))
        origin: dict[str, Any] = {"round": self.rounds, "masks": self.masks.checksum()}
        self._open = build_blocks(chosen, gradients, self.layers, self.restore, self.config, self._damping, origin)
        problems = self.pending()
        for c in chosen:
            self._held.add(c.parameter, c.index)
        self._round = RoundRecord(
            number=self.rounds,
            asked=count,
            masks=origin["masks"],
            parameter=[c.parameter for c in chosen],
            index=[c.index for c in chosen],
            pruned=[c.pruned for c in chosen],
            checksums=[checksum(problem) for problem in problems],
            fixed={n: bits for n, bits in self._held.fixed.items() if n not in fixed_before},
        )
        self._spent = {"gradients": measured - begun, "problems": time.perf_counter() - measured}
        if self._journal:
            self._journal.asked(self._round)
        return problems

    def pending(self) -> list[BlockProblem]:
        """Blocks of the last ask that wait for their answers."""
        return [block.problem for block in self._open if block.answer is None]

    def tell(self, problem: BlockProblem, answer: Answer) -> None:
        """Give the answer of a block; a round merges when its last answer is here, in the order of asking.

        Args:
            problem: a block of the last ask, or one that was saved to a file and read again.
            answer: a SampleSet over 0..n-1 (its best row counts) or one state [n]; 1 prunes a weight.

        Raises:
            StaleBlock: the block is not of the round that is open, so its weights may have changed since.
            PruningError: the state is not feasible, or the block was told already.
        """
        block = self._find(problem)
        block.give(answer)
        if self._journal:
            self._journal.told(self.rounds, self._open.index(block), block)
        if not self.pending():
            self._merge()

    def run(
        self, backend: str | solvers.Solver | None = None, *, after_round: Callable[[Pruner], None] | None = None
    ) -> None:
        """Ask, solve and tell until the budget of steps is used up, or Ctrl-C, which ends after the round in progress.

        The budget of calls to services (`max_calls`, `max_charge`) ends a run too; `budget_reached` then says which.

        Args:
            backend: a backend's name or a solver; None for the config's. Blocks that are larger than it takes are
                decomposed.
            after_round: called after each merged round.

        Raises:
            RemoteError: a service could not be reached, or kept failing. The open round keeps what was answered, and
                the journal every call: `run` again, or a resume, goes on where this ended, and pays for nothing twice.
            ServiceError: a service refused a call; likewise.
        """
        solver: solvers.Solver | None = None
        self.budget_reached = None
        with on_interrupt(self._interrupt), accounting(self.account):
            while not self.interrupted:
                problems = self.pending() or self.ask()
                if not problems:
                    break
                solver = solver or self._settled(self.solver(problems[0], backend))
                begun = time.perf_counter()
                try:
                    answers = self._solve(solver, problems)
                except BudgetReached as reached:
                    self.budget_reached = str(reached)
                    break
                self._spent["solve"] = time.perf_counter() - begun
                for problem, answer in zip(problems, answers, strict=True):
                    if answer.info.get("ended_by") == "interrupt":
                        # Cut short, it is not what a resumed run would find: its block stays open for that.
                        self.interrupted = True
                    else:
                        self.tell(problem, answer)
                if self._open:
                    break
                if after_round:
                    after_round(self)
        if self.interrupted or self.budget_reached:
            logger.warning(
                "%s after %d of %d steps; the best state so far is kept",
                self.budget_reached or "interrupted", self.steps, self.config.steps,
            )  # fmt: skip

    def _interrupt(self) -> None:
        """On Ctrl-C: finish the round, so that masks, weights and journal agree; at once on the second."""
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def solver(self, problem: BlockProblem, backend: str | solvers.Solver | None = None) -> solvers.Solver:
        """The solver of the config, or of another backend; "auto" is the fastest local one for such a problem.

        A problem that is larger than the solver takes gets :class:`solvers.Decompose` around it.
        """
        options = self.config.backend_options if backend is None else {}
        named = backend or self.config.backend
        if named != "auto":
            return solvers.fitted(solvers.get_solver(named, **options), problem)
        if self._solver_on_record:  # picked when the run began; another number of processors may favour another
            return solvers.get_solver(self._solver_on_record["name"])
        if options:
            raise PruningError(f"backend_options {sorted(options)} need a backend by name; backend is 'auto'")
        picked = solvers.fastest_local(problem)
        logger.info("backend auto: %s", picked)
        return picked

    def _settled(self, solver: solvers.Solver) -> solvers.Solver:
        """Hold a resumed run to the solver with which it began."""
        settings = repr(solver)
        recorded = self._solver_on_record
        if self._journal and recorded and recorded["settings"] != settings:
            raise PruningError(
                f"the run began with {recorded['settings']}, not {settings}; go on with the same solver, by "
                "Pruner.resume(...).run(solver) where it is not a backend's name"
            )
        self.backend = settings
        if recorded is None:
            self._solver_on_record = {"name": solver.backend, "settings": settings}
            self.note("backend", self._solver_on_record)
        return solver

    def finish(self) -> None:
        """Put the best state of the path into the model, and recompute batch-norm statistics where there are any.

        A run that ended while it was still lowering its density is cut to the end by magnitude, or takes the masks of
        the start where the guard finds these better.
        """
        if self.masks.kept() > self._kept:
            self.masks = least_cut(self.masks, self.layers, self.restore, self._kept)
            write_masks(self.layers, self.masks, self.restore)
            self.guard_loss = self.guard.score().loss if self.guard else None
            if self._best_loss is not None and self.guard_loss is not None and self.guard_loss < self._best_loss:
                self._best_loss, self._best = self.guard_loss, self.masks.copy()
        if self._best_loss is not None and self.guard_loss != self._best_loss:
            self.masks, self.guard_loss = self._best.copy(), self._best_loss
            write_masks(self.layers, self.masks, self.restore)
        self._recalibrate()

    def _recalibrate(self) -> None:
        """Recompute batch-norm statistics for the final masks, unless told not to or the guard measures a higher loss.

        The masks were chosen under the dense model's statistics and may have come to fit them better than fresh ones.
        """
        wanted = self.config.recalibrate_bn
        if not (has_batch_norm(self.model) if wanted is None else wanted):
            return
        statistics = batch_norm_statistics(self.model)
        recalibrate_batch_norm(self.model, self.data, self._pool[:RECALIBRATION_SAMPLES])
        if self.guard and self.guard_loss is not None:
            loss = self.guard.score().loss
            if wanted is None and self.config.guard == "refuse" and loss > self.guard_loss:
                logger.info("fresh batch-norm statistics would raise the loss to %.4f: left out", loss)
                restore_batch_norm(self.model, statistics)
            else:
                self.guard_loss = loss

    def result(self) -> PruneResult:
        """What the run has come to so far."""
        scores = {}
        if self.guard and self.dense_score and self.start_score:
            measured = {"dense": self.dense_score, "start": self.start_score, "result": self.guard.score()}
            scores = {key: asdict(score) for key, score in measured.items()}
        return PruneResult(
            self.model, dict(self.masks), self.history, self.config, self.backend, scores,
            self._folder, self.interrupted, self.start_densities,
            self.budget_reached, self.data.tokenizer,
        )  # fmt: skip

    @property
    def out(self) -> Path | None:
        """The run folder, or None."""
        return self._folder

    def note(self, key: str, value: Any) -> None:
        """Keep a value (JSON) of the caller's in the run folder's journal; without a run folder, nowhere."""
        if self._journal:
            self._journal.set_value(key, value)

    def close(self) -> None:
        """Let go of the run folder."""
        if self._journal:
            self._journal.close()
            self._journal = None

    def _open_account(self) -> None:
        """What the run may spend at services and has spent, on record in its journal where it has one."""
        self._folder = self._journal.folder if self._journal else None
        self.account = Account(
            self._journal or MemoryLedger(),
            self._journal.value("run") if self._journal else secrets.token_hex(8),
            max_calls=self.config.max_calls, max_charge=self.config.max_charge,
        )  # fmt: skip

    # How a round comes about

    def _choose(self, gradients: GradientPass, layers: list[Layer], picked: list[int], count: int) -> list[Chosen]:
        scores = gradients.scores(layers, self.restore)
        for layer in layers:
            if layer.number not in self._held.fixed and (self.config.fixed_pruned or self.config.fixed_kept):
                kept = self.masks.flat(layer.name)
                self._held.fix(
                    layer.number, scores[layer.number], kept, self.config.fixed_pruned, self.config.fixed_kept
                )
        n = self.config.block_size
        if self.config.scope == "global":
            chosen = choose_candidates(scores, layers, self.masks, self._held, n, count)
        else:
            chosen = [
                c
                for layer in layers
                for c in choose_candidates(scores, [layer], self.masks, self._held, n, picked.count(layer.number))
            ]
        if not chosen:
            raise PruningError(
                f"no block can be formed: {self.masks.kept()} of {sum(layer.size for layer in self.layers)} weights "
                "are kept; a block needs free weights of both kinds. Choose a density further from 0 and 1"
            )
        return chosen

    def _solve(self, solver: solvers.Solver, problems: list[BlockProblem]) -> list[dimod.SampleSet]:
        waiting = [b for b, block in enumerate(self._open) if block.answer is None]
        seed = int(np.random.SeedSequence([self.config.seed, self.rounds]).generate_state(1)[0])
        # Counted from the first block that waits: a resumed round seeds its blocks as an unbroken one does.
        return solver.solve_many(
            problems,
            seed=seed + waiting[0],
            time_limit=self.config.time_limit,
            initial_states=[self._open[b].fallback for b in waiting],
        )

    # How a round ends

    def _merge(self) -> None:
        begun = time.perf_counter()
        fallback = [move for block in self._open for move in block.moves(fallback=True)]
        before = self.guard_loss
        if self.guard and any(block.cut for block in self._open):
            # A cut raises the loss: the answer has to be better than a cut of the same size by magnitude.
            apply(fallback, self.layers, self.masks, self.restore)
            before = self.guard.score().loss
            apply([move.undone() for move in fallback], self.layers, self.masks, self.restore)
        moves = [move for block in self._open for move in block.moves()]
        apply(moves, self.layers, self.masks, self.restore)
        merged = time.perf_counter()
        after = self.guard.score().loss if self.guard else None
        refused = self.config.guard == "refuse" and before is not None and after is not None and not after <= before
        if refused:
            apply([move.undone() for move in moves], self.layers, self.masks, self.restore)
            apply(fallback, self.layers, self.masks, self.restore)
        self._spent |= {"merge": merged - begun, "guard": time.perf_counter() - merged}
        rows = self._rows(before, after, not refused)
        if self._journal:
            applied = [(block.fallback if block.cut else None) if refused else block.answer for block in self._open]
            self._journal.merged(self.rounds, not refused, before if refused else after, rows, applied)
        self._close_round(rows, not refused, before if refused else after)

    def _close_round(self, rows: list[dict[str, Any]], accepted: bool, loss: float | None) -> None:
        self.history += rows
        self.steps += len(self._open)
        self.rounds += 1
        self._open, self._round = [], None
        if self.config.adapt_rho and self.config.guard == "refuse":
            # The model of the loss holds near the present weights only: trust it less after a refusal, as
            # Levenberg and Marquardt do. The bounds keep a long series of either from overshooting for good.
            self._damping = min(max(self._damping * (0.5 if accepted else 2.0), 2.0**-10), 2.0**10)
        self.guard_loss = loss
        lowest = loss is not None and (self._best_loss is None or loss <= self._best_loss)
        if accepted and lowest and self.masks.kept() == self._kept:  # not while the density is still being lowered
            self._best_loss, self._best = loss, self.masks.copy()

    def _rows(self, before: float | None, after: float | None, accepted: bool) -> list[dict[str, Any]]:
        return [
            {
                "step": self.steps + b + 1,
                "round": self.rounds,
                "block": b,
                "layers": ",".join(block.problem.provenance["layers"]),
                "n": block.problem.n,
                "cardinality": block.problem.cardinality,
                "swaps": block.swaps,
                "cut": block.cut,
                "energy": block.energy,
                "predicted": block.predicted,
                "loss_before": before,
                "loss_after": after,
                "accepted": accepted,
                "density": self.masks.density(),
                "backend": block.info.get("backend", ""),
                **{f"seconds_{key}": round(value, 6) for key, value in self._spent.items()},
            }
            for b, block in enumerate(self._open)
        ]

    def _find(self, problem: BlockProblem) -> Block:
        origin = problem.provenance
        for block in self._open:
            own = block.problem.provenance
            if problem is block.problem or all(
                origin.get(key) == own[key] for key in ("round", "block", "masks", "weights")
            ):
                if block.answer is not None:
                    raise PruningError(f"block {own['block']} of round {own['round']} has its answer already")
                return block
        raise StaleBlock(
            f"block {origin.get('block')} of round {origin.get('round')} is not open (round {self.rounds} "
            f"{'waits for ' + str(len(self.pending())) + ' answers' if self._open else 'has not been asked'}); "
            "the weights may have changed since it was asked, so its answer cannot be merged"
        )

    # Where a run starts, and starts again

    def _split(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Samples of the guard, and those from which gradients are measured."""
        order = np.random.default_rng([self.config.seed, 0]).permutation(len(self.data))
        if self.config.guard == "off":
            return order[:0], order
        most = GUARD_SEQUENCES if self.data.sequences else GUARD_SAMPLES
        size = min(most, len(order) // 3) if self.config.guard_size is None else self.config.guard_size
        if not 0 < size < len(order):
            raise PruningError(
                f"a guard of {size} samples leaves none of {len(order)} for gradients; give more calibration data, a "
                'smaller guard_size, or guard="off"'
            )
        return order[:size], order[size:]

    def _batch(self) -> Batch:
        rng = np.random.default_rng([self.config.seed, 1, self.rounds])
        size = min(self.batch_size, len(self._pool))
        return self.data.take(rng.choice(self._pool, size, replace=False), device_of(self.model))

    def _identity(self) -> dict[str, Any]:
        """What must be the same when a run is resumed: the dense model, the data and the first masks."""
        first = self.data.take(self._pool[: self.batch_size])
        return {
            "weights": self._fingerprint,
            "samples": len(self.data),
            "data": fingerprint({"inputs": first.inputs, "targets": first.targets}),
            "masks": self.masks.checksum(),
            "layers": {layer.name: list(layer.weight.shape) for layer in self.layers},
        }

    def _replay(self, journal: Journal) -> None:
        for record in journal.rounds():
            if record.merged is None:
                self._journal = journal
                self._reopen(record)
                break
            if self.config.scope == "layer":
                self._schedule.next(record.asked)
            self._held.fixed.update(record.fixed)
            accepted, loss, rows = record.merged
            for parameter, index, pruned, applied in zip(
                record.parameter, record.index, record.pruned, record.applied, strict=True
            ):
                self._held.add(parameter, index)
                if applied is not None:
                    before = np.arange(len(index)) >= pruned
                    apply(moves_of(parameter, index, before, applied == 0), self.layers, self.masks, self.restore)
            self._open = [None] * len(record.index)  # type: ignore[list-item] # counted, then cleared
            self._close_round(rows, accepted, loss)

    def _reopen(self, record: RoundRecord) -> None:
        """Build the blocks of an unfinished round anew and give them the answers that are on record."""
        self.ask(record.asked)
        assert self._round is not None
        pairs = itertools.zip_longest(self._round.index, record.index)
        same = all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)
        if self._round.masks != record.masks or not same:
            raise PruningError(
                f"round {record.number} of the run cannot be built again: other weights are chosen now. Was it begun "
                "on another machine, or with another number of threads? Start a new run folder"
            )
        if self._round.checksums != record.checksums:
            logger.warning("the blocks of round %d differ in the last digits from those on record", record.number)
        for block, answer in zip(self._open, record.answers, strict=True):
            if answer is not None:
                block.give(answer)
        if not self.pending():
            self._merge()
