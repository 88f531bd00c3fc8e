"""Fixtures: faulty solvers and finished comparisons."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from solvers.comparison import Comparison

sys.path.insert(0, str(Path(__file__).parent))  # worker processes inherit it and find odd_solvers

from races import race


@pytest.fixture
def odd() -> Iterator[ModuleType]:
    import odd_solvers

    yield odd_solvers
    sys.modules.pop("odd_solvers")


@pytest.fixture(scope="session")
def whole() -> Comparison:
    """An uninterrupted comparison."""
    return race()


@pytest.fixture(scope="session")
def _small_race(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("race") / "r"
    race(backends="exact", seeds=1, out=folder)
    return folder


@pytest.fixture
def raced(_small_race: Path, tmp_path: Path) -> Path:
    """The folder of a comparison of `exact` on two problems with one seed."""
    return Path(shutil.copytree(_small_race, tmp_path / "r"))
