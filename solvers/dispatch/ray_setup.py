"""Importing and starting Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from solvers.dispatch.local import thread_variables

logger = logging.getLogger(__name__)

_SECRET = re.compile("TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE)


def imported() -> Any:
    """Import Ray; no other function does."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray leaves the GPUs of tasks without one visible
    import ray
    import ray.util.scheduling_strategies

    return ray


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep Ray's start from replacing the handler of SIGTERM, and suppress its warnings."""
    before, log = signal.getsignal(signal.SIGTERM), logging.getLogger("ray")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            log.setLevel(level)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)


def messages_to_log() -> Callable[[], None]:
    """Send a cluster's messages about its nodes to the log, one line each; the returned function undoes it.

    Ray always prints them to standard output, where the caller may write JSON.
    """
    import ray._private.worker as of_ray

    before = getattr(of_ray, "print_to_stdstream", None)
    if before is None:
        return lambda: None

    def log(data: dict[str, Any], ignore_prefix: bool) -> None:
        for message in data.get("lines", []):
            logger.warning("Ray: %s", (str(message).strip().splitlines() or [""])[0])

    of_ray.print_to_stdstream = log

    def undo() -> None:
        of_ray.print_to_stdstream = before

    return undo


@contextlib.contextmanager
def environment_of_workers(threads: int) -> Iterator[None]:
    """Environment of processes started in this context: the same module path, threads, and no credentials.

    No task needs credentials: solvers that call a service run in this process.
    """
    before = dict(os.environ)
    for name in before:
        if _SECRET.search(name) and not name.startswith("RAY_"):  # Ray needs its own
            del os.environ[name]
    given = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)} | thread_variables(threads)
    os.environ.update(given)
    try:
        yield
    finally:
        for name in {*given, *before}:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]
