"""Output of the command line: results on standard output, progress and errors on standard error, exit codes."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import typer

from hybrid_icbs.progress import reporting

P = ParamSpec("P")
R = TypeVar("R")

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes. 130 is the shell's code for Ctrl-C: of comparisons, and of commands that kept nothing."""

TRACEBACK = "HYBRID_ICBS_TRACEBACK"
"""Environment variable; if it is set, errors show a traceback."""


class WrongUse(Exception):
    """Wrong use of a command; the message says what was given, what is allowed, and what to do."""


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function a command: its errors become one line on standard error and an exit code, not a traceback."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        shown = not kwargs.get("quiet")
        _report_compiling(shown)
        try:
            with reporting(shown):
                return function(*args, **kwargs)
        except KeyboardInterrupt as error:
            raise _ended(str(error) or "interrupted", INTERRUPTED) from error
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            raise _ended(_sentence(error), _code(error)) from error

    return wrapped


@contextmanager
def wrong_use() -> Iterator[None]:
    """Report errors of settings, model and data inside as wrong use (exit code 2)."""
    from hybrid_icbs.errors import PruningError, RunFolderError

    try:
        yield
    except RunFolderError:
        raise
    except PruningError as error:
        raise WrongUse(str(error)) from error


def show_json(values: Mapping[str, Any] | list[Any]) -> None:
    """Write values to standard output as one line of JSON; infinities and NaN become null."""
    typer.echo(json.dumps(_finite(values), allow_nan=False))


def show(*lines: Any) -> None:
    """Print lines and rich tables to standard output."""
    from rich.console import Console

    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=isinstance(line, str), markup=False)


class _OnStandardError(logging.Handler):
    """Writes messages to the current standard error, which is above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)


def _report_compiling(shown: bool) -> None:
    """Report on standard error when a solver's kernels are compiled, the first time it is used."""
    logger = logging.getLogger("problems.compiling")
    logger.setLevel(logging.INFO if shown else logging.WARNING)
    if not logger.handlers:
        logger.addHandler(_OnStandardError())
        logger.propagate = False  # the user's model may configure logging


def _ended(sentence: str, code: int) -> typer.Exit:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text(f"error: {sentence}", style="red"), soft_wrap=True)
    return typer.Exit(code)


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    if type(error).__module__.partition(".")[0] in ("hybrid_icbs", "solvers", "problems"):
        return text
    if isinstance(error, OSError):
        reason = error.strerror or text
        return f"{error.filename}: {reason}" if error.filename else reason
    # An unforeseen error, perhaps of the user's model: its type may say more than its text.
    return f"{type(error).__name__}: {text} (set {TRACEBACK}=1 to see where)"


def _code(error: Exception) -> int:
    from problems import ProblemError
    from solvers import OptionError

    return WRONG_USE if isinstance(error, WrongUse | OptionError | ProblemError | FileNotFoundError) else FAILED


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
