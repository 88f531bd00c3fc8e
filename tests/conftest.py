"""What holds for every test."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sapi_server import SapiServer

# The suite runs in several processes; where each brings torch threads for all processors they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A suite that is started in the background of a shell inherits an ignored SIGINT, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asks the Hugging Face hub, whose client would wait half a minute for a network that is not there.
os.environ["HF_HUB_OFFLINE"] = "1"

sys.path.insert(0, str(Path(__file__).parent))  # where the server of the solver API is imported from


@pytest.fixture(scope="session")
def sapi_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SapiServer]:
    """The server of D-Wave's solver API, one for all tests of this process."""
    from sapi_server import SapiServer

    with SapiServer().running() as server:
        yield server


@pytest.fixture
def sapi(
    sapi_process: SapiServer, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SapiServer]:
    """That server as new, found by all clients of this process and its children, which wait milliseconds only."""
    from sapi_server import TOKEN

    from solvers.remote.leap import service

    for name in [name for name in os.environ if name.startswith("DWAVE_")]:
        monkeypatch.delenv(name)
    empty = tmp_path_factory.getbasetemp() / "empty.conf"
    empty.touch()
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(empty))
    monkeypatch.setenv("DWAVE_CACHE_HOME", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("DWAVE_API_ENDPOINT", sapi_process.url)
    monkeypatch.setenv("DWAVE_API_TOKEN", TOKEN)
    monkeypatch.setattr(service, "WAITS", (0.01, 0.02, 0.04, 0.08))
    quick = {"poll_backoff_min": 0.01, "poll_backoff_max": 0.05, "http_retry_total": 1}
    monkeypatch.setattr(service, "OPTIONS", quick)
    sapi_process.command("reset")
    yield sapi_process
    sapi_process.state.faults.clear()
    sapi_process.command("release")  # the client would wait for jobs that are held
    service.disconnect()
