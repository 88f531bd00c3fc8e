"""Ray, imported and started: the one place that does."""

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
    """Ray; nothing else imports it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # tasks that ask for no GPU are left as they are
    import ray
    import ray.util.scheduling_strategies

    return ray


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep Ray's start from taking this process's SIGTERM for itself, and from warnings that are no user's concern."""
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
    """Let what a cluster says of its nodes go to the log, a line each; the function that is returned undoes it.

    Ray prints it on standard output, whatever it is told, and that may be where a caller's JSON goes.
    """
    import ray._private.worker as of_ray

    before = getattr(of_ray, "print_to_stdstream", None)
    if before is None:
        return lambda: None

    def told(data: dict[str, Any], ignore_prefix: bool) -> None:
        for message in data.get("lines", []):
            logger.warning("Ray: %s", (str(message).strip().splitlines() or [""])[0])

    of_ray.print_to_stdstream = told

    def undo() -> None:
        of_ray.print_to_stdstream = before

    return undo


@contextlib.contextmanager
def environment_of_workers(threads: int) -> Iterator[None]:
    """For processes that are started meanwhile: modules found where they are found here, threads, and no credentials.

    No task needs those: solvers that ask a service stay in this process.
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
