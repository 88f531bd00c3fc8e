"""Functions that the command line names as `package.module:function`: imported and called, with clear errors."""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from hybrid_icbs.errors import PruningError
from problems.names import suggestion

_SPEC = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_spec(text: str) -> bool:
    """Whether a text has the form `package.module:function`."""
    return _SPEC.fullmatch(text) is not None


def load_function(spec: str, what: str) -> Callable[..., Any]:
    """Import the function of `package.module:function`.

    Args:
        spec: the specification; modules are searched on `sys.path`.
        what: purpose of the function, for messages: "model", "data", "loss".

    Raises:
        PruningError: the specification has another form, the module or function does not exist, or the module fails.
    """
    if not is_spec(spec) or ".py:" in spec:
        hint = ""
        if ".py" in spec:
            guess = spec.replace("/", ".").replace("\\", ".").replace(".py", "", 1).lstrip(".")
            hint = f"; a file is named as a module: {guess if ':' in guess else guess + ':function'}"
        raise PruningError(f"{what} {spec!r} must have the form package.module:function{hint}")
    name, _, attribute = spec.partition(":")
    module = _imported(name, f"{what} {spec!r}")
    if not hasattr(module, attribute):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise PruningError(f"{what} {spec!r}: module {name} has no {attribute!r}{suggestion(attribute, names)}")
    function = getattr(module, attribute)
    if not callable(function):
        raise PruningError(f"{what} {spec!r} is of type {type(function).__name__}; a function is needed")
    return function  # type: ignore[no-any-return]


def call(spec: str, what: str) -> Any:
    """Import the function of `package.module:function`, call it without arguments, and return its result.

    Raises:
        PruningError: as :func:`load_function`, or the function raised an exception; the message says which and where.
    """
    function = load_function(spec, what)
    try:
        return function()
    except (Exception, SystemExit) as error:  # raised by a user's function
        raise PruningError(f"{what} {spec!r} raised {explained(error)}") from error


def explained(error: BaseException) -> str:
    """A third-party exception in one line: its type, its text, and the line that raised it."""
    text = " ".join(str(error).split())
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def _imported(name: str, asked: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The module itself is missing, or a module that it imports.
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise PruningError(
                f"{asked}: there is no module {error.name!r} in the current folder or among the installed packages"
            ) from error
        raise PruningError(f"{asked}: module {name} does not load: {explained(error)}") from error
    except (Exception, SystemExit) as error:  # raised by a user's module
        raise PruningError(f"{asked}: module {name} does not load: {explained(error)}") from error
