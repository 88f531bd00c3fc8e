"""The folder of solvers that races are run with, on the path of this process and of racing ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import odd_solvers

    yield odd_solvers
    sys.modules.pop("odd_solvers")
