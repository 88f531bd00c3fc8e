"""The one call: a trained model in, a pruned model out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from torch import nn

import solvers
from hybrid_icbs.blockwise.pruner import Pruner
from hybrid_icbs.config import BY_LAYER_UNDISPATCHED, Config
from hybrid_icbs.data.losses import Loss
from hybrid_icbs.data.model_data import data_for
from hybrid_icbs.errors import PruningError
from hybrid_icbs.layerwise.run import prune_by_layer, resume_by_layer
from hybrid_icbs.result import PruneResult
from hybrid_icbs.runs.journal import Journal
from hybrid_icbs.selection.scores import Score
from solvers.dispatch import Dispatch, get_dispatch


def prune(
    model: nn.Module,
    data: Any,
    *,
    density: float | None = None,
    sparsity: float | None = None,
    backend: str | solvers.Solver = "auto",
    backend_options: dict[str, Any] | None = None,
    preset: str = "icbs",
    scope: Literal["global", "layer"] | None = None,
    steps: int | None = None,
    block_size: int = 1024,
    batch_size: int | None = None,
    init: Score = "magnitude",
    dispatch: str | Dispatch | None = None,
    loss: Loss | None = None,
    tokenizer: Any = None,
    seq_len: int | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
    inplace: bool = False,
    **settings: Any,
) -> PruneResult:
    """Prune a trained model by combinatorial optimisation.

    Args:
        model: any torch module; its Linear, Conv2d and Hugging Face Conv1D weights are pruned.
        data: calibration data: a pair of tensors (inputs, labels), a DataLoader, or an iterable of batches; for a
            transformers model also keyword dicts as it takes them, or texts with a tokenizer. A third of it, 5,000
            samples or 64 sequences at most, is held back to measure the loss (see `guard_size`).
        density: share of weights to keep.
        sparsity: 1 - density; give one of the two.
        backend: what solves the block problems: "sa", "tabu", "exact", "qaoa", "leap?solver=cqm",
            "dimod:package.Sampler", a solver of your own, or "auto" for the fastest local one. Blocks larger than it
            takes are decomposed.
        backend_options: settings of the backend.
        preset: "icbs", or "icbs-paper" for the method as published.
        scope: "global" lets budget move between layers, "layer" keeps each layer's density; None: the preset's.
        steps: how many blocks to solve; None: the preset's number.
        block_size: weights in a block, n.
        batch_size: samples on which the gradients of a block are measured, N; None for 1,000, of text 32
            sequences, by layer 64 (by preset "icbs-paper" 200 samples).
        init: score of the masks with which the run starts: "magnitude", "wanda", "gradient" or "random".
        dispatch: where the blocks of a round (`round_size`) are solved: "serial", "threads?workers=4",
            "processes?workers=2", "ray?address=auto", or a :class:`solvers.dispatch.Dispatch`, which is left open; None
            for what the solver's capabilities say. It changes no answer.
        loss: (outputs, targets) -> losses of each sample [N]; None for cross entropy, of a language model the mean over
            a sequence's own tokens.
        tokenizer: makes texts into token ids, and is saved with the model.
        seq_len: tokens of a sequence, for texts; None for 512, or the model's context where that is shorter.
        include: patterns of layers in scope (a name, a prefix, a class name, or "re:" and a regular expression).
        exclude: patterns of layers left out.
        seed: where all randomness starts; the same seed on the same machine gives the same masks.
        out: a new run folder: journal, masks, model, metrics and report; a run that is stopped resumes from there.
        progress: show a progress bar (on standard error).
        inplace: prune the given model, not a copy.
        settings: `method` and `objective` prune layer by layer (see :mod:`hybrid_icbs.layerwise.run`); `update` refits the
            weights that survive, `pattern` keeps N of every M; any other setting of
            :class:`~hybrid_icbs.config.Config`, such as `max_charge`, the seconds that a service may bill the run.

    Returns:
        The pruned model with masks, history and report.

    Raises:
        PruningError: a setting, the data or a layer cannot be used; the message says what and what to do.
        RunFolderError: `out` holds a run already, or cannot be written.
        OptionError: the backend does not exist or has no such option.
        UnavailableError: the backend lacks something; the message says what.
        RemoteError, ServiceError: a service failed for now, or refused a call; with `out`, :func:`resume` goes on.
    """
    solver = backend if isinstance(backend, solvers.Solver) else None
    config = Config.of(
        density=density,
        sparsity=sparsity,
        backend=solver.name if solver else backend,
        backend_options=backend_options,
        preset=preset,
        scope=scope,
        steps=steps,
        block_size=block_size,
        batch_size=batch_size,
        init=init,
        include=tuple(include) if include is not None else None,
        exclude=tuple(exclude) if exclude is not None else None,
        seed=seed,
        dispatch=dispatch if isinstance(dispatch, str) else None,
        **settings,
    )
    config.refuse_what_does_not_count()
    if isinstance(dispatch, Dispatch) and config.by_layer:
        raise PruningError(BY_LAYER_UNDISPATCHED)
    get_dispatch(dispatch).refuse_what_is_missing()
    if config.backend != "auto":
        solvers.checked(solver or config.backend, **config.backend_options)
    data = data_for(model, data, tokenizer, seq_len=seq_len, seed=seed)
    if config.by_layer:
        return prune_by_layer(model, data, config, loss=loss, inplace=inplace, out=out, progress=progress)
    pruner = Pruner(model, data, config, loss=loss, inplace=inplace, out=out)
    return complete(pruner, solver, dispatch=dispatch, progress=progress)


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
    """Go on with a run that :func:`prune` began in a folder, and that was stopped or killed.

    Args:
        out: the run folder.
        model: the same dense model.
        data: the same calibration data.
        loss: the same loss.
        tokenizer: the same, for texts.
        seq_len: the same, for texts.
        dispatch: where blocks are solved from now on; None: as before.
        max_calls: calls to services that the run may make from now on, those before included; None: as before.
        max_charge: seconds that services may bill the run, likewise.
        progress: show a progress bar.
        inplace: prune the given model, not a copy.

    Returns:
        The same result as of a run that was never stopped. A run of blocks that is finished is read again.

    Raises:
        RunFolderError: no run is there, another process works on it, model or data are not those of the run, or it is
            a run by layer that is finished.
        PruningError: the run used a solver of the caller's own: `Pruner.resume(...).run(solver)` goes on with it.
    """
    with closing(Journal.open(out)) as journal:
        config = journal.config
    data = data_for(model, data, tokenizer, seq_len=seq_len, seed=config.seed)
    if config.by_layer:
        if dispatch is not None:
            raise PruningError(BY_LAYER_UNDISPATCHED)
        if max_calls is not None or max_charge is not None:
            raise PruningError("max_calls and max_charge are for services, and runs by layer call none; leave them out")
        return resume_by_layer(out, model, data, loss=loss, inplace=inplace, progress=progress)
    pruner = Pruner.resume(out, model, data, loss=loss, inplace=inplace, max_calls=max_calls, max_charge=max_charge)
    return complete(pruner, dispatch=dispatch, progress=progress)


def complete(
    pruner: Pruner,
    solver: solvers.Solver | None = None,
    *,
    dispatch: str | Dispatch | None = None,
    progress: bool = True,
) -> PruneResult:
    """Run a pruner to the end of its budget and gather the result; into its run folder too, if it has one.

    Args:
        pruner: new, or resumed.
        solver: a solver to use; None for the config's backend.
        dispatch: where blocks are solved; None: as the config says.
        progress: show a progress bar.
    """
    try:
        with _progress_bar(pruner, progress) as after_round:
            pruner.run(solver, dispatch=dispatch, after_round=after_round)
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


@contextmanager
def _progress_bar(pruner: Pruner, shown: bool) -> Iterator[Any]:
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("pruning"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("blocks"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=pruner.config.steps, completed=pruner.steps, note="")

        def show(pruner: Pruner) -> None:
            note = "" if pruner.guard_loss is None else f"loss {pruner.guard_loss:.4f}"
            bar.update(task, completed=pruner.steps, note=note)

        yield show


__all__ = ["PruningError", "complete", "prune", "resume"]
