from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hybrid_icbs import Config, PruningError


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


def test_a_config_survives_json() -> None:
    config = Config.of(density=0.1, include=("a",), backend_options={"restarts": 3}, preset="icbs-paper")
    assert Config.of(**config.model_dump(mode="json")) == config
