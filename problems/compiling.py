"""Compilation of kernels by numba, with a cache on disk if one can be written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba as nb
from numba.core import event

logger = logging.getLogger(__name__)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator like `numba.njit(cache=True, **options)` that also works without a cache.

    numba raises an error if neither the package's folder nor the user's cache folder can be written and NUMBA_CACHE_DIR
    names no other one. The function is then compiled anew in each process.
    """
    options = {"no_cfunc_wrapper": True, **options}  # an entry for C, which nobody uses, would be compiled too

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return nb.njit(cache=True, **options)(function)
        except RuntimeError:  # no cache can be written; any other cause is raised again by the next line
            return nb.njit(**options)(function)

    return decorate


def helper(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """As :func:`compiled`, for functions that only kernels call, not Python; the cache holds them as parts of these."""
    decorated: Callable[[Callable[..., Any]], Any] = nb.njit(
        no_cpython_wrapper=True, no_cfunc_wrapper=True, **options
    )  # fmt: skip
    return decorated


class _FirstTime(event.Listener):  # type: ignore[misc]
    """Logs once that a kernel is compiled that is not in the cache, since a user may wait for it up to a minute."""

    logged = False

    def on_start(self, _: Any) -> None:
        if not self.logged:
            self.logged = True
            logger.info("compiling for this processor: up to a minute, the first time only")

    def on_end(self, _: Any) -> None:
        pass


_first_time = _FirstTime()
event.register("numba:compile", _first_time)
