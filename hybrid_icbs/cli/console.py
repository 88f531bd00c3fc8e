"""How the command line speaks: results on standard output, progress and errors on standard error, and exit codes."""

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

P = ParamSpec("P")
R = TypeVar("R")

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes. The last is the shell's, for what Ctrl-C ended: races, and commands that had nothing to keep."""

TRACEBACK = "HYBRID_ICBS_TRACEBACK"
"""Environment variable; where it is set, an error shows where in the code it was raised."""


class WrongUse(Exception):
    """The command was not given what it needs; the message says what was given, what is allowed, what to do."""


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Make of a function a command that ends in one clear line where it cannot do its work, never in a traceback."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        _tell_of_compiling(not kwargs.get("quiet"))
        try:
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
    """What cannot go on in here was not given rightly: settings, a model, data."""
    from hybrid_icbs.errors import PruningError, RunFolderError

    try:
        yield
    except RunFolderError:
        raise
    except PruningError as error:
        raise WrongUse(str(error)) from error


def show_json(values: Mapping[str, Any] | list[Any]) -> None:
    """Write values to standard output as one line of JSON; numbers that JSON lacks become null."""
    typer.echo(json.dumps(_finite(values), allow_nan=False))


def show(*lines: Any) -> None:
    """Print lines and rich tables to standard output."""
    from rich.console import Console

    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=isinstance(line, str), markup=False)


@contextmanager
def working(what: str, shown: bool) -> Iterator[None]:
    """Show on standard error that something is going on, and for how long, until it is done."""
    if not (shown and sys.stderr.isatty()):  # a line that is wiped again is nothing for a log file
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(what, total=None)
        yield


class _OnStandardError(logging.Handler):
    """Writes messages to what standard error is at the time: above a progress bar, where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)


def _tell_of_compiling(shown: bool) -> None:
    """Have it said on standard error why nothing moves for a while, the first time that a solver is used."""
    logger = logging.getLogger("problems.compiling")
    logger.setLevel(logging.INFO if shown else logging.WARNING)
    if not logger.handlers:
        logger.addHandler(_OnStandardError())
        logger.propagate = False  # a user's model may have set up logging of its own


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
    # What nobody foresaw, a model that does not take the data perhaps: its type may say more than its text.
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
