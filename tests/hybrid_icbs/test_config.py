from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid_icbs import Config, PruningError, prune
from hybrid_icbs.config import GROUPS, PRESETS, settings, settings_table


def test_density_and_sparsity_are_two_words_for_one_thing() -> None:
    assert Config.of(sparsity=0.9).density == pytest.approx(0.1)
    with pytest.raises(PruningError, match="not both"):
        Config.of(density=0.1, sparsity=0.9)
    with pytest.raises(PruningError, match="give density"):
        Config.of()


def test_a_preset_is_where_settings_start_and_keywords_win() -> None:
    paper = Config.of(density=0.1, preset="icbs-paper", steps=7)
    assert (paper.scope, paper.guard, paper.rho, paper.relative_rho, paper.steps) == ("layer", "off", 0.001, False, 7)
    assert (paper.hold_back, paper.fixed_pruned, paper.fixed_kept, paper.gamma) == (0.4, 0.42, 0.35, 0.75)
    assert Config.of(density=0.1).scope == "global"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"densty": 0.1, "density": 0.1}, "no setting 'densty'; did you mean 'density'"),
        ({"density": 1.5}, "density = 1.5"),
        ({"density": 0.1, "preset": "best"}, "preset 'best' does not exist; there are icbs, icbs-paper"),
        ({"density": 0.1, "scope": "row"}, "scope = 'row'"),
        ({"density": 0.1, "steps": "many"}, "steps = 'many'"),
        ({"density": 0.1, "block_size": 1}, "block_size = 1"),
        ({"sparsity": "high"}, "sparsity"),
    ],
)
def test_wrong_settings_are_named_with_their_value(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        Config.of(**settings)


@pytest.mark.parametrize(
    ("name", "text"),
    [("c.toml", 'density = 0.2\nscope = "layer"\n'), ("c.json", '{"density": 0.2, "scope": "layer"}')],
)
def test_toml_and_json_files_read_alike(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert Config.read(tmp_path / name) == Config.of(density=0.2, scope="layer")
    assert Config.read(tmp_path / name, scope="global", steps=None).scope == "global"


@pytest.mark.parametrize(("name", "text"), [("c.toml", "density ="), ("c.json", "[1]"), ("c.json", "{")])
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PruningError, match=name):
        Config.read(tmp_path / name)
    with pytest.raises(PruningError, match=r"absent\.toml"):
        Config.read(tmp_path / "absent.toml")


def test_a_pattern_agrees_with_density_and_with_sparsity() -> None:
    assert Config.of(pattern="2:4").density == 0.5
    assert Config.of(pattern="2:4", density=0.5).density == 0.5
    assert Config.of(pattern="1:4", sparsity=0.75).density == pytest.approx(0.25)
    for density in ({"density": 0.3}, {"sparsity": 0.3}):
        with pytest.raises(PruningError, match=r"pattern 2:4 keeps 0\.5 of the weights, and density is 0\.[37]"):
            Config.of(pattern="2:4", **density)


def test_a_preset_can_set_any_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    other: dict[str, Any] = {"block_size": 64, "init": "wanda", "backend": "sa", "seed": 9, "exclude": ("fc",)}
    monkeypatch.setitem(PRESETS, "other", other)
    config = Config.of(density=0.1, preset="other")
    assert {name: getattr(config, name) for name in other} == other
    assert Config.of(density=0.1, preset="other", block_size=32).block_size == 32
    model, data = torch.nn.Linear(6, 3), (torch.randn(40, 6), torch.randint(0, 3, (40,)))
    result = prune(model, data, density=0.5, preset="other", steps=1, exclude=(), progress=False)
    assert (result.config.block_size, result.config.init, result.config.seed) == (64, "wanda", 9)


def test_every_setting_is_described_once_and_stands_in_one_group() -> None:
    found = list(settings())
    assert [each.name for each in found] == list(dict.fromkeys(each.name for each in found))
    assert {each.name for each in found} == set(Config.model_fields)
    assert all(each.description and not each.description.endswith(".") for each in found)
    assert len({each.description for each in found}) == len(found)
    table = settings_table()
    assert all(f"| `{each.name}` |" in table for each in found)
    assert all(f"**{group}**" in table for group in GROUPS)


def test_a_file_gives_way_to_keywords_in_either_word_for_density(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("density = 0.2\n")
    assert Config.read(tmp_path / "c.toml", sparsity=0.9).density == pytest.approx(0.1)


def test_a_config_survives_json() -> None:
    config = Config.of(density=0.1, include=("a",), backend_options={"restarts": 3}, preset="icbs-paper")
    assert Config.of(**config.model_dump(mode="json")) == config
