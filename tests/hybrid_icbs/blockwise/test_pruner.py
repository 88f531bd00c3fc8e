from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import dimod
import numpy as np
import pytest
import torch
from torch import nn

import problems
import solvers
from hybrid_icbs import Config, Pruner, PruneResult, PruningError, StaleBlock, evaluate, prune
from hybrid_icbs.digits import load_digits

Tensors = tuple[torch.Tensor, torch.Tensor]
SMALL: dict[str, Any] = {"density": 0.05, "steps": 6, "block_size": 128, "batch_size": 100}
SMALL |= {"backend": "tabu?offspring=5"}


def pruner(model: nn.Module, data: Tensors, **settings: Any) -> Pruner:
    return Pruner(model, data, Config.of(**{**SMALL, **settings}))


def masks_of(result: PruneResult | Pruner) -> dict[str, torch.Tensor]:
    return {name: result.masks[name] for name in result.masks}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def weights_follow_masks(p: Pruner) -> bool:
    return all(
        torch.equal(layer.weight.detach(), torch.where(p.masks[layer.name], restore, torch.zeros(())))
        for layer, restore in zip(p.layers, p.restore, strict=True)
    )


def worst(problem: problems.BlockProblem) -> dimod.SampleSet:
    """The answer that the model of the loss likes least."""
    dense = problem.to_dense()
    opposite = problems.BlockProblem(-dense.form.dense(), -dense.linear, problem.cardinality)
    return solvers.solve(opposite, "tabu", seed=0)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("guard", ["refuse", "watch", "off"])
def test_density_is_exact_to_the_weight_whatever_the_scope_and_guard(
    classifier: nn.Module, digits: Tensors, scope: str, guard: str
) -> None:
    result = prune(classifier, digits, **SMALL, scope=scope, guard=guard, progress=False)  # type: ignore[arg-type]
    total = sum(m.numel() for m in result.masks.values())
    assert sum(int(m.sum()) for m in result.masks.values()) == round(0.05 * total)
    weights = dict(result.model.named_parameters())
    for name in result.masks:
        pruned = weights[name][~result.masks[name]]
        assert bool((pruned == 0).all())
        assert not bool(torch.signbit(pruned).any())
    dense = dict(classifier.named_parameters())
    for name in result.masks:
        assert torch.equal(weights[name][result.masks[name]], dense[name][result.masks[name]])


def test_pruning_beats_magnitude_on_held_out_digits(classifier: nn.Module, digits: Tensors) -> None:
    magnitude = prune(classifier, digits, **SMALL | {"steps": 0}, progress=False)
    found = prune(classifier, digits, **SMALL | {"steps": 12, "block_size": 512}, progress=False)
    test = load_digits("test")
    better, worse = evaluate(found.model, test), evaluate(magnitude.model, test)
    assert better.accuracy is not None
    assert worse.accuracy is not None
    assert better.accuracy > worse.accuracy + 0.1
    assert better.loss < worse.loss


def test_a_copy_is_pruned_unless_inplace(classifier: nn.Module, digits: Tensors) -> None:
    before = [p.clone() for p in classifier.parameters()]
    prune(classifier, digits, **SMALL, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, classifier.parameters(), strict=True))
    result = prune(classifier, digits, **SMALL, progress=False, inplace=True)
    assert result.model is classifier
    assert not torch.equal(before[0], next(classifier.parameters()))


def test_one_seed_gives_one_result_and_another_seed_another(classifier: nn.Module, digits: Tensors) -> None:
    a, b, c = (prune(classifier, digits, **SMALL, seed=seed, progress=False) for seed in (1, 1, 2))
    assert same(masks_of(a), masks_of(b))
    assert [row["energy"] for row in a.history] == [row["energy"] for row in b.history]
    assert not same(masks_of(a), masks_of(c))


def test_ask_and_tell_by_hand_equals_run(classifier: nn.Module, digits: Tensors) -> None:
    by_run, by_hand = pruner(classifier, digits, round_size=2), pruner(classifier, digits, round_size=2)
    by_run.run()
    while asked := by_hand.ask():
        seed = int(np.random.SeedSequence([0, by_hand.rounds]).generate_state(1)[0])
        answers = [
            solvers.solve(problem, "tabu", offspring=5, seed=seed + b, initial_states=by_hand._round.blocks[b].before)
            for b, problem in enumerate(asked)
        ]
        for b in reversed(range(len(asked))):  # answers may come in any order
            by_hand.tell(asked[b], answers[b])
    assert same(masks_of(by_run), masks_of(by_hand))
    assert by_run.history[-1]["loss_after"] == by_hand.history[-1]["loss_after"]


def test_blocks_of_a_round_are_disjoint_and_stand_on_the_same_weights(classifier: nn.Module, digits: Tensors) -> None:
    p = pruner(classifier, digits)
    asked = p.ask(3)
    labels = [problem.labels for problem in asked]
    pairs = [(int(a), int(b)) for own in labels if own for a, b in zip(own.parameter, own.index, strict=True)]
    assert len(pairs) == len(set(pairs)) == sum(problem.n for problem in asked)
    before = p.masks.checksum()
    p.tell(asked[2], p._round.blocks[2].before)
    p.tell(asked[0], p._round.blocks[0].before)
    assert p.masks.checksum() == before  # early answers wait
    assert p.pending() == [asked[1]]


def test_a_round_with_the_answer_as_it_is_changes_nothing(classifier: nn.Module, digits: Tensors) -> None:
    p = pruner(classifier, digits)
    before, (problem,) = p.masks.checksum(), p.ask()
    p.tell(problem, p._round.blocks[0].before)
    assert p.masks.checksum() == before
    assert p.history[0]["swaps"] == 0
    assert p.history[0]["predicted"] == 0.0
    assert p.history[0]["accepted"]


def test_the_guard_takes_a_harmful_round_back(classifier: nn.Module, digits: Tensors) -> None:
    p = pruner(classifier, digits, density=0.3, block_size=1024)
    before, loss, (problem,) = p.masks.checksum(), p.guard_loss, p.ask()
    p.tell(problem, worst(problem))
    assert not p.history[0]["accepted"]
    assert p.history[0]["loss_after"] > p.history[0]["loss_before"]
    assert p.masks.checksum() == before
    assert p.guard_loss == loss
    assert weights_follow_masks(p)


def test_watching_returns_the_best_state_of_the_path_not_the_last(classifier: nn.Module, digits: Tensors) -> None:
    p = pruner(classifier, digits, density=0.3, block_size=1024, guard="watch")
    (problem,) = p.ask()
    p.tell(problem, solvers.solve(problem, "tabu", seed=0))
    best, loss = p.masks.checksum(), p.guard_loss
    (problem,) = p.ask()
    p.tell(problem, worst(problem))
    assert p.guard_loss is not None
    assert loss is not None
    assert p.guard_loss > loss
    p.finish()
    assert (p.masks.checksum(), p.guard_loss) == (best, loss)
    assert weights_follow_masks(p)


def test_answers_come_back_through_files(classifier: nn.Module, digits: Tensors, tmp_path: Path) -> None:
    p, twin = pruner(classifier, digits), pruner(classifier, digits)
    (problem,), (kept,) = p.ask(), twin.ask()
    problem.save(tmp_path / "block")
    read = problems.load(tmp_path / "block")
    answer = solvers.solve(read, "tabu", seed=3)
    p.tell(read, answer)
    twin.tell(kept, solvers.solve(kept, "tabu", seed=3))
    assert same(masks_of(p), masks_of(twin))


def test_an_answer_to_an_old_block_is_stale(classifier: nn.Module, digits: Tensors) -> None:
    p = pruner(classifier, digits)
    (old,) = p.ask()
    p.tell(old, p._round.blocks[0].before)
    with pytest.raises(StaleBlock, match="block 0 of round 0 is not open"):
        p.tell(old, solvers.solve(old, "tabu", seed=0))
    p.ask()
    with pytest.raises(StaleBlock, match="waits for 1 answers"):
        p.tell(old, solvers.solve(old, "tabu", seed=0))


def test_a_block_of_another_run_is_stale(classifier: nn.Module, digits: Tensors) -> None:
    mine, other = pruner(classifier, digits), pruner(classifier, digits, batch_size=50)
    mine.ask()
    (foreign,) = other.ask()
    with pytest.raises(StaleBlock):
        mine.tell(foreign, other._round.blocks[0].before)


def test_wrong_answers_are_refused_and_nothing_is_lost(classifier: nn.Module, digits: Tensors) -> None:
    p = pruner(classifier, digits)
    a, _ = p.ask(2)
    state = p._round.blocks[0].before.copy()
    with pytest.raises(PruningError, match="blocks of the last round have no answer"):
        p.ask()
    with pytest.raises(PruningError, match="shape"):
        p.tell(a, state[:-1])
    with pytest.raises(PruningError, match="zeros and ones"):
        p.tell(a, state * 0.5)
    with pytest.raises(PruningError, match="the block needs exactly"):
        p.tell(a, np.ones_like(state))
    with pytest.raises(PruningError, match="SampleSet with at least one row over the variables"):
        p.tell(a, dimod.SampleSet.from_samples([[0, 1]], "BINARY", [0.0]))
    p.tell(a, state)
    with pytest.raises(PruningError, match="was answered already"):
        p.tell(a, state)
    assert len(p.pending()) == 1


def test_a_strangers_sample_set_may_hold_infeasible_rows_and_wrong_energies(
    classifier: nn.Module, digits: Tensors
) -> None:
    p = pruner(classifier, digits)
    (problem,) = p.ask()
    good = solvers.solve(problem, "tabu", seed=0).record.sample[0]
    rows = np.vstack([np.ones(problem.n, int), problem.random_states(1, 0)[0], good])
    p.tell(problem, dimod.SampleSet.from_samples(2 * rows - 1, "SPIN", energy=[-9.0, -8.0, 0.0]))
    assert p.history[0]["energy"] == pytest.approx(problem.energy(good))


def test_the_budget_counts_blocks_exactly(classifier: nn.Module, digits: Tensors) -> None:
    p = pruner(classifier, digits, steps=5, round_size=3)
    p.run()
    assert [row["round"] for row in p.history] == [0, 0, 0, 1, 1]
    assert p.ask() == []


def test_ctrl_c_ends_the_run_after_its_round_with_the_best_so_far(classifier: nn.Module, digits: Tensors) -> None:
    p = pruner(classifier, digits, steps=50)
    p.run(after_round=lambda p: os.kill(os.getpid(), signal.SIGINT) if p.rounds == 2 else None)
    p.finish()
    assert p.interrupted
    assert p.rounds <= 3
    assert weights_follow_masks(p)
    assert p.result().interrupted


def test_auto_picks_a_local_solver_and_says_which(classifier: nn.Module, digits: Tensors) -> None:
    result = prune(classifier, digits, **SMALL | {"backend": "auto", "steps": 1}, progress=False)
    assert result.backend.startswith(("TabuSearch", "SimulatedAnnealing"))
    assert result.history[0]["backend"] in ("tabu", "sa")


def test_a_solver_object_serves_as_backend(classifier: nn.Module, digits: Tensors) -> None:
    solver = solvers.get_solver("sa", restarts=1, sweeps=10)
    result = prune(classifier, digits, **SMALL | {"backend": solver, "steps": 1}, progress=False)
    assert result.history[0]["backend"] == "sa"


def test_the_paper_preset_runs_layer_by_layer_without_a_guard(classifier: nn.Module, digits: Tensors) -> None:
    p = pruner(classifier, digits, preset="icbs-paper", steps=8)
    start = dict(p.start_densities)
    p.run()
    assert {name: p.masks.density(name) for name in p.masks} == start
    assert p.guard is None
    assert all(row["accepted"] and "," not in row["layers"] for row in p.history)
    assert sorted(p._state.held.fixed) == [0, 1, 2]


def test_global_scope_moves_budget_between_layers(classifier: nn.Module, digits: Tensors) -> None:
    p = pruner(classifier, digits, init_comparison="layer", guard="off")
    start = dict(p.start_densities)
    p.run()
    assert {name: p.masks.density(name) for name in p.masks} != start


def test_regression_takes_a_loss_of_ones_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
    x = torch.randn(300, 6)
    y = x[:, :1] * 2 - x[:, 1:2]

    def squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - targets).square().mean(1)

    result = prune(model, (x, y), density=0.3, loss=squared, steps=4, block_size=32, progress=False)
    assert result.scores["result"]["accuracy"] is None
    assert result.scores["result"]["loss"] < result.scores["start"]["loss"]  # type: ignore[operator]
    with pytest.raises(PruningError, match=r"loss has shape \[\] for a batch"):
        prune(model, (x, y), density=0.3, loss=nn.functional.mse_loss, progress=False)


def test_batch_norm_is_recalibrated_unless_told_not_to() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).eval()
    data = (torch.randn(200, 8) + 1, torch.arange(200) % 3)
    settings: dict[str, Any] = {"density": 0.3, "steps": 2, "block_size": 16, "progress": False}
    fresh, stale = prune(model, data, **settings), prune(model, data, recalibrate_bn=False, **settings)
    assert torch.equal(stale.model[1].running_mean, model[1].running_mean)  # type: ignore[index]
    kept = np.random.default_rng([0, 0]).permutation(200)[66:]
    expected = fresh.model[0](data[0][kept]).mean(0).detach()  # type: ignore[index]
    torch.testing.assert_close(fresh.model[1].running_mean, expected)  # type: ignore[index]
    assert not fresh.model.training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": 1e-9}, "no block can be formed"),
        ({"guard_size": 1347}, "leaves none of 1347 for gradients"),
        ({"backend": "tabuu"}, "did you mean 'tabu'"),
        ({"backend": "tabu?offsprings=3"}, "did you mean 'offspring'"),
        ({"exclude": ["0", "2", "4"]}, "no layer is in scope"),
        ({"backend": "auto", "backend_options": {"restarts": 2}}, "need a named backend"),
    ],
)
def test_what_cannot_be_done_is_said_clearly(
    classifier: nn.Module, digits: Tensors, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((PruningError, solvers.OptionError), match=message):
        prune(classifier, digits, **{**SMALL, **settings}, progress=False)


@pytest.mark.parametrize("guard", ["refuse", "off"])
def test_data_with_nan_is_refused_before_any_work(classifier: nn.Module, digits: Tensors, guard: str) -> None:
    x = digits[0].clone()
    x[:, 3] = float("nan")
    with pytest.raises(PruningError, match="finite"):
        prune(classifier, (x, digits[1]), **SMALL, guard=guard, progress=False)  # type: ignore[arg-type]
