"""Checks of settings, worded alike for all solvers."""

from __future__ import annotations

import numpy as np

from solvers.errors import OptionError


def at_least(least: int, **settings: object) -> None:
    """Refuse settings that are not whole numbers of at least `least`.

    Raises:
        OptionError: names the setting, what was given and what is allowed.
    """
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise OptionError(f"{name} {value!r} must be a whole number, {least} or more")


def one_of(allowed: tuple[str, ...], **settings: object) -> None:
    """Refuse settings that are none of the names allowed.

    Raises:
        OptionError: names the setting, what was given and what is allowed.
    """
    for name, value in settings.items():
        if value not in allowed:
            raise OptionError(f"{name} {value!r} must be one of {', '.join(allowed)}")
