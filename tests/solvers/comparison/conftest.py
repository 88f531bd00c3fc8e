"""What tests of races share: solvers that misbehave, and a race that nothing disturbs."""

from __future__ import annotations

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
