"""Suggestions in messages about an unknown name."""

from __future__ import annotations

from collections.abc import Iterable


def suggestion(given: str, known: Iterable[str], count: int = 1) -> str:
    """The text "; did you mean 'tabu'?" with the `count` most similar names, or "" if no known name is similar.

    Example:
        >>> suggestion("taboo", ["sa", "tabu"])
        "; did you mean 'tabu'?"
    """
    import difflib  # not needed unless there is an error

    close = difflib.get_close_matches(given, list(known), n=count, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def nearest(given: str, known: Iterable[str]) -> str:
    """The text of :func:`suggestion`, followed by all known names.

    Example:
        >>> nearest("taboo", ["sa", "tabu"])
        "; did you mean 'tabu'? Known: sa, tabu"
    """
    names = list(known)
    return f"{suggestion(given, names) or '.'} Known: {', '.join(names)}"
