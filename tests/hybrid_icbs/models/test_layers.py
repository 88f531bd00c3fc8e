from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from hybrid_icbs import PruningError, UnsupportedLayerError
from hybrid_icbs.models.layers import find_layers, has_batch_norm


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)
        self.norm = nn.LayerNorm(2)


def names(model: nn.Module, **patterns: list[str]) -> list[str]:
    return [layer.name for layer in find_layers(model, **patterns)]


def test_all_linear_layers_are_in_scope_by_default() -> None:
    assert names(Net()) == ["body.0.weight", "body.1.weight", "head.weight"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"include": ["body"]}, ["body.0.weight", "body.1.weight"]),
        ({"include": ["body.1"]}, ["body.1.weight"]),
        ({"exclude": ["head"]}, ["body.0.weight", "body.1.weight"]),
        ({"include": ["re:.*[01]"], "exclude": ["re:body.1"]}, ["body.0.weight"]),
        ({"include": ["Linear"]}, ["body.0.weight", "body.1.weight", "head.weight"]),
    ],
)
def test_patterns_are_names_prefixes_classes_or_regular_expressions(
    patterns: dict[str, list[str]], expected: list[str]
) -> None:
    assert names(Net(), **patterns) == expected


def test_a_pattern_that_matches_nothing_names_the_nearest_layer() -> None:
    with pytest.raises(PruningError, match="'haed' matches no layer; did you mean 'head'"):
        find_layers(Net(), include=["haed"])
    with pytest.raises(PruningError, match="not a regular expression"):
        find_layers(Net(), include=["re:("])
    with pytest.raises(PruningError, match="no layer is in scope"):
        find_layers(Net(), exclude=["Linear"])


def test_an_error_names_a_dozen_layers_of_many() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(30)))
    with pytest.raises(PruningError, match=r"The layers are 0, 1, .*, 11 and 18 more$"):
        find_layers(model, ["tail"])


@pytest.mark.parametrize(
    "layer",
    [nn.Embedding(4, 4), nn.ConvTranspose2d(1, 1, 2), nn.Bilinear(2, 2, 2), nn.LSTM(2, 2), nn.MultiheadAttention(4, 1),
     weight_norm(nn.Linear(4, 4))],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_other_layers_with_weights_are_refused_by_name_unless_left_out(layer: nn.Module) -> None:
    model = nn.ModuleDict({"good": nn.Linear(4, 4), "odd": layer})
    with pytest.raises(UnsupportedLayerError, match="'odd"):
        find_layers(model)
    assert names(model, exclude=["odd"]) == ["good.weight"]


def test_a_subclass_of_linear_is_refused_as_it_may_compute_something_else() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    with pytest.raises(UnsupportedLayerError, match="is a Scaled"):
        find_layers(nn.ModuleDict({"a": Scaled(2, 2)}))


def test_tied_weights_are_one_layer_with_all_their_users() -> None:
    model = Net()
    model.body[1].weight = model.body[0].weight
    assert names(model) == ["body.0.weight", "head.weight"]
    assert len(find_layers(model)[0].modules) == 2
    # Leaving one user out does not hide it: its gradient belongs to the shared weight.
    assert len(find_layers(model, exclude=["body.1"])[0].modules) == 2


def test_a_weight_tied_to_an_embedding_is_refused() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "head": nn.Linear(4, 5)})
    model["head"].weight = model["embedding"].weight
    with pytest.raises(UnsupportedLayerError, match="embedding"):
        find_layers(model, exclude=["embedding"])


def test_batch_norm_is_recognised() -> None:
    assert has_batch_norm(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))
    assert not has_batch_norm(nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)))
