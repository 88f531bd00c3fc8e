"""`prune` and `resume`: a trained model in, a pruned model out."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from torch import nn

import solvers
from hybrid_icbs.blockwise.pruner import Pruner
from hybrid_icbs.config import BY_LAYER_UNDISPATCHED, Config
from hybrid_icbs.data.losses import Loss
from hybrid_icbs.data.model_data import data_for
from hybrid_icbs.errors import PruningError
from hybrid_icbs.methods import get_method
from hybrid_icbs.methods.run import prune_by_method, resume_by_method
from hybrid_icbs.progress import phase, reporting
from hybrid_icbs.result import PruneResult
from hybrid_icbs.runs.journal import Journal
from solvers.dispatch import Dispatch, get_dispatch


def prune(
    model: nn.Module,
    data: Any,
    *,
    density: float | None = None,
    sparsity: float | None = None,
    preset: str | None = None,
    backend: str | solvers.Solver | None = None,
    dispatch: str | Dispatch | None = None,
    loss: Loss | None = None,
    tokenizer: Any = None,
    seq_len: int | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    inplace: bool = False,
    **settings: Any,
) -> PruneResult:
    """Prune a trained model by combinatorial optimisation.

    Args:
        model: a torch module; its Linear, Conv2d and transformers Conv1D weights are pruned.
        data: calibration data: a pair of tensors (inputs, labels), a DataLoader, or an iterable of batches; for a
            transformers model also keyword dicts, or texts with a tokenizer. The guard holds part of it back (see
            `guard_size`).
        density: share of weights to keep.
        sparsity: 1 - density; give one of the two.
        preset: named settings that the others start from; None for "icbs".
        backend: solver of the block problems: "sa", "tabu", "exact", "qaoa", "leap?solver=cqm",
            "dimod:package.Sampler", or a solver of your own. None for the preset's, which is the fastest local one.
            Blocks larger than it takes are decomposed.
        dispatch: where the blocks of a round are solved: "serial", "threads?workers=4", "processes?workers=2",
            "ray?address=auto", or an open :class:`solvers.dispatch.Dispatch`, which stays open. None for what the
            solver's capabilities say. It does not change answers.
        loss: (outputs, targets) -> losses of each sample [N]; None for cross entropy, and for a language model the mean
            over each sequence's own tokens.
        tokenizer: converts texts to token ids, and is saved with the model.
        seq_len: tokens of a sequence, for texts; None for 512, or the model's context if that is shorter.
        out: a new run folder for journal, masks, model, metrics and report; a stopped run resumes from it.
        progress: report progress on standard error.
        inplace: prune the given model, not a copy.
        settings: any other field of :class:`~hybrid_icbs.config.Config`, such as `steps`, `block_size`, `pattern` or
            `max_charge`; a setting that is not given comes from the preset.

    Returns:
        The pruned model with masks and history.

    Raises:
        PruningError: a setting, the data or a layer cannot be used; the message says why and what to do.
        RunFolderError: `out` holds a run already, or cannot be written.
        OptionError: the backend does not exist or has no such option.
        UnavailableError: the backend lacks something; the message says what.
        RemoteError, ServiceError: a call to a service failed; with `out`, :func:`resume` continues.
    """
    solver = backend if isinstance(backend, solvers.Solver) else None
    for name in ("include", "exclude"):
        if settings.get(name) is not None:
            settings[name] = tuple(settings[name])
    config = Config.of(
        density=density,
        sparsity=sparsity,
        preset=preset,
        backend=solver.name if solver else backend,
        dispatch=dispatch if isinstance(dispatch, str) else None,
        **settings,
    )
    config.refuse_without_effect()
    get_method(config.method)  # refuses an unknown one before anything is loaded
    if isinstance(dispatch, Dispatch) and config.by_layer:
        raise PruningError(BY_LAYER_UNDISPATCHED)
    get_dispatch(dispatch).refuse_what_is_missing()
    if config.backend != "auto":
        solvers.checked(solver or config.backend, **config.backend_options)
    data = data_for(model, data, tokenizer, seq_len=seq_len, seed=config.seed)
    with reporting(progress):
        if config.by_layer:
            return prune_by_method(model, data, config, loss=loss, inplace=inplace, out=out)
        pruner = Pruner(model, data, config, loss=loss, inplace=inplace, out=out)
        return complete(pruner, solver, dispatch=dispatch)


def resume(
    out: str | Path,
    model: nn.Module,
    data: Any,
    *,
    loss: Loss | None = None,
    tokenizer: Any = None,
    seq_len: int | None = None,
    dispatch: str | Dispatch | None = None,
    max_calls: int | None = None,
    max_charge: float | None = None,
    progress: bool = True,
    inplace: bool = False,
) -> PruneResult:
    """Resume a run that :func:`prune` began in a folder and that was stopped or killed.

    Args:
        out: the run folder.
        model: the same dense model.
        data: the same calibration data.
        loss: the same loss.
        tokenizer: the same, for texts.
        seq_len: the same, for texts.
        dispatch: where blocks are solved from now on; None for as before.
        max_calls: new limit on the calls of the whole run to services; None keeps the old one.
        max_charge: new limit on the seconds billed to the whole run; None keeps the old one.
        progress: report progress on standard error.
        inplace: prune the given model, not a copy.

    Returns:
        The same result as that of an uninterrupted run. A finished run of blocks is read again.

    Raises:
        RunFolderError: the folder holds no run, another process has it open, the model or data differ from the run's,
            or it is a finished run by layer.
        PruningError: the run used a solver that has no name; `Pruner.resume(...).run(solver)` resumes it.
    """
    with closing(Journal.open(out)) as journal:
        config = journal.config
    data = data_for(model, data, tokenizer, seq_len=seq_len, seed=config.seed)
    if config.by_layer:
        if dispatch is not None:
            raise PruningError(BY_LAYER_UNDISPATCHED)
        if max_calls is not None or max_charge is not None:
            raise PruningError("max_calls and max_charge are for services, and runs by layer call none; leave them out")
        with reporting(progress):
            return resume_by_method(out, model, data, loss=loss, inplace=inplace)
    with reporting(progress):
        pruner = Pruner.resume(out, model, data, loss=loss, inplace=inplace, max_calls=max_calls, max_charge=max_charge)
        return complete(pruner, dispatch=dispatch)


def complete(
    pruner: Pruner,
    solver: solvers.Solver | None = None,
    *,
    dispatch: str | Dispatch | None = None,
    progress: bool = True,
) -> PruneResult:
    """Run a pruner to its last step and return the result, which is also saved in the run folder, if there is one.

    Args:
        pruner: new or resumed.
        solver: the solver; None for the config's backend.
        dispatch: where blocks are solved; None for the config's.
        progress: report progress on standard error.
    """
    try:
        with reporting(progress):
            with phase("pruning", pruner.config.steps, "blocks") as advance:

                def after_round(pruner: Pruner) -> None:
                    advance(pruner.steps, "" if pruner.guard_loss is None else f"loss {pruner.guard_loss:.4f}")

                pruner.run(solver, dispatch=dispatch, after_round=after_round)
            with phase("evaluating"):
                pruner.finish()
        result = pruner.result()
        if result.out is not None:
            result.save(result.out)
            result.report(result.out / "report.html")
            kept = {name: pruner.masks.kept(name) for name in pruner.masks}
            end = {"scores": result.scores, "backend": result.backend, "steps": pruner.steps, "kept": kept}
            pruner.note("end", end)
        return result
    finally:
        pruner.close()


__all__ = ["PruningError", "complete", "prune", "resume"]
