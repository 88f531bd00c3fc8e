"""Runs that start denser than they end: the first blocks cut, and the density is exact whatever ends the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hybrid_icbs import Config, Pruner, PruningError, prune
from hybrid_icbs.pruning import complete
from hybrid_icbs.report.record import RunRecord
from hybrid_icbs.selection.schedule import CutSchedule
from hybrid_icbs.selection.scores import least_cut
from problems import BlockProblem
from solvers import solve

Tensors = tuple[torch.Tensor, torch.Tensor]
CUT: dict[str, Any] = {
    "density": 0.02, "steps": 8, "cut_steps": 5, "block_size": 256, "batch_size": 128, "guard_size": 200,
    "backend": "tabu?offspring=5",
}  # fmt: skip


@given(st.integers(2, 10_000), st.integers(0, 40), st.integers(4, 512), st.floats(1.0, 8.0), st.data())
def test_the_schedule_falls_from_its_start_to_the_final_density(total, steps, block_size, factor, data) -> None:
    final = data.draw(st.integers(1, total - 1))
    config = Config.of(density=0.5, steps=steps + 2, cut_steps=steps, block_size=block_size, cut_from=factor)
    schedule = CutSchedule(config, total, final)
    kept = [schedule.kept(step) for step in range(steps + 3)]
    assert kept[0] == schedule.start < total
    assert kept == sorted(kept, reverse=True)
    assert kept[steps:] == [final] * 3
    assert schedule.start <= max(final, round(factor * final))
    assert schedule.start - final <= steps * (block_size // 4)


def test_only_runs_whose_blocks_can_halve_the_model_cut_unless_told_to() -> None:
    config = Config.of(density=0.02, steps=60, block_size=512)
    assert CutSchedule(config, 32_360, 647).start == 1294
    assert CutSchedule(config, 85_000, 1700).start == 1700
    assert CutSchedule(config.model_copy(update={"scope": "layer"}), 32_360, 647).start == 647


def test_each_block_cuts_its_part_and_the_end_is_exact(classifier: nn.Module, digits: Tensors) -> None:
    result = prune(classifier, digits, **CUT, progress=False)
    total = sum(mask.numel() for mask in result.masks.values())
    kept = [round(row["density"] * total) for row in result.history]
    assert [row["cut"] > 0 for row in result.history] == [True] * 5 + [False] * 3
    assert -np.diff(kept[:5]) == pytest.approx([row["cut"] for row in result.history[1:5]])
    assert kept[4:] == [round(0.02 * total)] * 4
    assert result.density == kept[-1] / total
    assert result.scores["result"]["loss"] < result.scores["start"]["loss"]


def test_a_bad_answer_is_refused_and_the_cut_made_by_magnitude(classifier: nn.Module, digits: Tensors) -> None:
    pruner = Pruner(classifier, digits, Config.of(**CUT))
    (problem,) = pruner.ask()
    masks, cut = pruner.masks.copy(), pruner._round.blocks[0].cut
    labels = problem.labels
    upside_down = BlockProblem(-problem.form.dense(), -problem.single_energies, problem.cardinality)
    pruner.tell(problem, solve(upside_down, "tabu", seed=0))
    assert pruner.history[0]["accepted"] is False
    assert pruner.masks.kept() == masks.kept() - cut
    lost = []
    for number, layer in enumerate(pruner.layers):
        gone = masks.flat(layer.name) & ~pruner.masks.flat(layer.name)
        assert not (~masks.flat(layer.name) & pruner.masks.flat(layer.name)).any()
        assert set(np.flatnonzero(gone)) <= set(labels.index[labels.parameter == number])
        lost.append(pruner.restore[number].abs().reshape(-1)[torch.from_numpy(gone)])
    kept_in_block = np.concatenate(
        [
            pruner.restore[number].abs().reshape(-1).numpy()[index[masks.flat(layer.name)[index]]]
            for number, layer in enumerate(pruner.layers)
            for index in [labels.index[labels.parameter == number]]
        ]
    )
    assert sorted(torch.cat(lost).tolist()) == sorted(kept_in_block.tolist())[:cut]


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_run_that_ends_while_it_cuts_is_cut_to_the_end(
    classifier: nn.Module, digits: Tensors, tmp_path: Path, rounds: int
) -> None:
    pruner = Pruner(classifier, digits, Config.of(**CUT), out=tmp_path)

    def stop(running: Pruner) -> None:
        running.interrupted = running.rounds >= rounds

    if rounds == 0:
        pruner.interrupted = True
    result = complete_with(pruner, stop)
    total = sum(mask.numel() for mask in result.masks.values())
    assert result.density == round(0.02 * total) / total
    assert result.scores["result"]["loss"] <= result.scores["start"]["loss"]
    record = RunRecord.read(tmp_path)
    assert [layer.kept for layer in record.layers] == [int(mask.sum()) for mask in result.masks.values()]
    resumed = complete(Pruner.resume(tmp_path, classifier, digits), progress=False)
    whole = prune(classifier, digits, **CUT, progress=False)
    assert all(torch.equal(resumed.masks[name], whole.masks[name]) for name in whole.masks)


def complete_with(pruner: Pruner, after_round: Any) -> Any:
    pruner.run(after_round=after_round)
    original, pruner.run = pruner.run, lambda *_, **__: None  # type: ignore[method-assign]
    try:
        return complete(pruner, progress=False)
    finally:
        pruner.run = original  # type: ignore[method-assign]


def test_the_least_are_cut_over_all_layers(classifier: nn.Module, digits: Tensors) -> None:
    pruner = Pruner(classifier, digits, Config.of(density=0.1, steps=0))
    fewer = least_cut(pruner.masks, pruner.layers, pruner.restore, 1000)
    assert fewer.kept() == 1000
    weights = torch.cat([w.abs().reshape(-1) for w in pruner.restore])
    kept = torch.cat([torch.from_numpy(fewer.flat(layer.name)) for layer in pruner.layers])
    assert weights[kept].min() >= weights[~kept].max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"scope": "layer"}, 'cut_steps needs scope = "global"'), ({"steps": 5}, "must be less than steps = 5")],
)
def test_cuts_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        Config.of(**CUT | settings)
