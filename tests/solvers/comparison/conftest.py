"""What tests of races share: solvers that misbehave, and a race that nothing disturbs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from solvers.comparison import Comparison

sys.path.insert(0, str(Path(__file__).parent))  # on which racing processes find odd_solvers too

from races import race


@pytest.fixture
def odd() -> Iterator[ModuleType]:
    import odd_solvers

    yield odd_solvers
    sys.modules.pop("odd_solvers")


@pytest.fixture(scope="session")
def whole() -> Comparison:
    """A race that nothing disturbs."""
    return race()


@pytest.fixture(scope="session")
def _small_race(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("race") / "r"
    race(backends="exact", seeds=1, out=folder)
    return folder


@pytest.fixture
def raced(_small_race: Path, tmp_path: Path) -> Path:
    """A folder with what a race of two problems by `exact` with one seed leaves."""
    return Path(shutil.copytree(_small_race, tmp_path / "r"))
