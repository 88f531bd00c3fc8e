"""How functions are compiled: numba's `njit`, which keeps what it has compiled on disk where it can."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba as nb
from numba.core import event

logger = logging.getLogger(__name__)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator as `numba.njit(cache=True, **options)`.

    Where neither the package's folder nor the user's cache folder can be written, and NUMBA_CACHE_DIR names no other
    one, numba refuses to cache: then each process compiles for itself.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return nb.njit(cache=True, **options)(function)
        except RuntimeError:  # there is no place for a cache; whatever else is wrong is raised again
            return nb.njit(**options)(function)

    return decorate


class _FirstTime(event.Listener):  # type: ignore[misc]
    """Logs once that something is being compiled that was not found on disk: a user waits for it, up to a minute."""

    logged = False

    def on_start(self, _: Any) -> None:
        if not self.logged:
            self.logged = True
            logger.info("compiling for this processor: up to a minute, the first time only")

    def on_end(self, _: Any) -> None:
        pass


_first_time = _FirstTime()
event.register("numba:compile", _first_time)
