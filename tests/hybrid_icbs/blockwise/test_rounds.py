"""Merging a round: what its answers must beat, and what a refusal leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hybrid_icbs.blockwise.blocks import Block, cut_by_magnitude
from hybrid_icbs.blockwise.rounds import Merged, OpenRound
from hybrid_icbs.data.evaluation import Score
from hybrid_icbs.models.layers import Layer, find_layers
from hybrid_icbs.models.masks import Masks
from hybrid_icbs.runs.journal import RoundRecord
from problems import BlockProblem, Labels

VALUES = torch.tensor([[5.0, -1.0, 3.0, -4.0, 2.0, 6.0]])


class Model:
    """A linear layer of six weights, the last two pruned, and a guard whose losses are given by the kept weights."""

    def __init__(self) -> None:
        self.linear = nn.Linear(6, 1, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(VALUES)
        self.layers: list[Layer] = find_layers(nn.Sequential(self.linear), None, None)
        self.restore = [VALUES.clone()]
        self.masks = Masks.like(self.layers)
        self.masks.set_flat(self.layers[0].name, np.array([1, 1, 1, 1, 0, 0], np.bool_))
        with torch.no_grad():
            self.linear.weight[0, 4:] = 0.0
        self.losses: dict[tuple[int, ...], float] = {}
        self.measured: list[tuple[int, ...]] = []

    def kept(self) -> tuple[int, ...]:
        kept = tuple(np.flatnonzero(self.masks.flat(self.layers[0].name)).tolist())
        assert torch.equal(self.linear.weight.detach().reshape(-1).nonzero().reshape(-1), torch.tensor(kept))
        assert torch.equal(self.linear.weight.detach()[0, list(kept)], VALUES[0, list(kept)])
        return kept

    def score(self) -> Score:
        self.measured.append(self.kept())
        return Score(self.losses[self.measured[-1]], None)

    def block(self, order: list[int], pruned: int, cut: int, answer: list[int]) -> Block:
        """A block of the weights `order`, of which the first `pruned` are pruned now, and its answer."""
        before = (np.arange(len(order)) < pruned).astype(np.int8)
        problem = BlockProblem.low_rank(
            np.ones((len(order), 1)), np.zeros(len(order)), pruned + cut,
            labels=Labels(np.zeros(len(order), np.int32), np.array(order, np.int64)),
        )  # fmt: skip
        values = VALUES[0, order].numpy()
        block = Block(problem, before, cut_by_magnitude(before, values, cut))
        block.give(np.isin(order, answer).astype(np.int8))
        return block

    def merge(self, blocks: list[Block], loss: float | None, *, refuses: bool = True, guarded: bool = True) -> Merged:
        record = RoundRecord(0, len(blocks), "", [], [], [], [], {})
        guard = self if guarded else None
        return OpenRound(record, blocks).merge(
            self.layers,
            self.masks,
            self.restore,
            guard,
            loss,
            refuses=refuses,  # type: ignore[arg-type]
        )


@pytest.mark.parametrize(("after", "accepted"), [(0.9, True), (1.0, True), (1.1, False), (float("nan"), False)])
def test_without_a_cut_answers_are_compared_with_the_loss_before(after: float, accepted: bool) -> None:
    model = Model()
    model.losses = {(1, 2, 3, 4): after}
    merged = model.merge([model.block([4, 0], 1, 0, answer=[0])], 1.0)
    assert model.measured == [(1, 2, 3, 4)]  # nothing else was measured
    assert (merged.accepted, merged.before) == (accepted, 1.0)
    assert merged.loss == (after if accepted else 1.0)
    assert model.kept() == ((1, 2, 3, 4) if accepted else (0, 1, 2, 3))
    assert [state if state is None else state.tolist() for state in merged.applied] == [[0, 1] if accepted else None]


@pytest.mark.parametrize(("after", "accepted"), [(1.9, True), (2.0, True), (2.1, False)])
def test_a_cut_is_compared_with_pruning_as_many_weights_by_magnitude(after: float, accepted: bool) -> None:
    model = Model()
    # The block keeps 0, 1 and 2 and prunes one of them: by magnitude 1, by its answer 2.
    model.losses = {(0, 2, 3): 2.0, (0, 1, 3): after}
    merged = model.merge([model.block([5, 0, 1, 2], 1, 1, answer=[5, 2])], 1.0)
    assert model.measured == [(0, 2, 3), (0, 1, 3)]
    assert (merged.accepted, merged.before, merged.after) == (accepted, 2.0, after)
    assert merged.loss == min(after, 2.0)
    assert model.kept() == ((0, 1, 3) if accepted else (0, 2, 3))
    assert [state.tolist() for state in merged.applied if state is not None] == [
        [1, 0, 0, 1] if accepted else [1, 0, 1, 0]
    ]


def test_a_refused_round_cuts_those_blocks_that_had_to_and_leaves_the_others() -> None:
    model = Model()
    model.losses = {(0, 2, 3): 2.0, (1, 2, 4): 3.0}
    blocks = [model.block([4, 0], 1, 0, answer=[0]), model.block([5, 1, 3], 1, 1, answer=[5, 3])]
    merged = model.merge(blocks, 1.0)
    assert not merged.accepted
    assert model.kept() == (0, 2, 3)
    assert merged.applied[0] is None
    assert merged.applied[1].tolist() == [1, 1, 0]


def test_a_guard_that_only_watches_keeps_a_worse_answer_and_reports_it() -> None:
    model = Model()
    model.losses = {(1, 2, 3, 4): 5.0}
    merged = model.merge([model.block([4, 0], 1, 0, answer=[0])], 1.0, refuses=False)
    assert merged.accepted
    assert (merged.before, merged.loss) == (1.0, 5.0)
    assert model.kept() == (1, 2, 3, 4)


def test_without_a_guard_every_answer_is_kept() -> None:
    model = Model()
    merged = model.merge([model.block([5, 0, 1, 2], 1, 1, answer=[5, 0])], None, guarded=False)
    assert merged.accepted
    assert (merged.before, merged.after, model.measured) == (None, None, [])
    assert model.kept() == (1, 2, 3)


def test_rows_of_history_say_what_each_block_did() -> None:
    model = Model()
    model.losses = {(0, 2, 3): 2.0, (1, 3, 4): 1.5}
    blocks = [model.block([4, 0], 1, 0, answer=[0]), model.block([5, 1, 2], 1, 1, answer=[5, 2])]
    for number, block in enumerate(blocks):
        block.problem = block.problem.replaced(provenance={"layers": ["0"], "block": number})
    opened = OpenRound(RoundRecord(3, 2, "", [], [], [], [], {}), blocks, {"solve": 0.25})
    merged = opened.merge(model.layers, model.masks, model.restore, model, 1.0, refuses=True)  # type: ignore[arg-type]
    rows = opened.rows(merged, None, steps=10, density=0.5)
    assert [(row["step"], row["round"], row["block"]) for row in rows] == [(11, 3, 0), (12, 3, 1)]
    assert [(row["n"], row["cardinality"], row["swaps"], row["cut"]) for row in rows] == [(2, 1, 1, 0), (3, 2, 0, 1)]
    assert {row["loss_before"] for row in rows} == {2.0}
    assert {row["loss_after"] for row in rows} == {1.5}
    # Energies are (number of pruned weights)^2 here, so that the predicted change is known.
    assert [row["energy"] for row in rows] == [1.0, 4.0]
    assert [row["predicted"] for row in rows] == [0.0, 3.0]
    assert {row["seconds_solve"] for row in rows} == {0.25}
    assert all(row["seconds_merge"] >= 0.0 and row["seconds_guard"] >= 0.0 for row in rows)


def test_the_smallest_kept_weights_are_cut_the_first_of_equal_ones_first() -> None:
    before = np.array([1, 0, 0, 0, 0], np.int8)
    values = np.array([0.1, -2.0, 1.0, -1.0, 3.0])
    assert cut_by_magnitude(before, values, 0).tolist() == before.tolist()
    assert cut_by_magnitude(before, values, 1).tolist() == [1, 0, 1, 0, 0]
    assert cut_by_magnitude(before, values, 3).tolist() == [1, 1, 1, 1, 0]
    assert before.tolist() == [1, 0, 0, 0, 0]
