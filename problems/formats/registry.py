"""The registry of problem file formats: which format a file has, and reading and writing through it."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from problems.cardinality import Cardinality
from problems.data import ProblemData
from problems.errors import FileFormatError, ProblemError
from problems.formats import mdplib, native
from problems.formats.format import HEAD, Format
from problems.names import suggestion
from problems.storage import opened, with_ending

if TYPE_CHECKING:
    from problems.block import BlockProblem

logger = logging.getLogger(__name__)

ENTRY_POINTS = "hybrid_icbs.formats"
"""Entry-point group of third-party formats: `name = "package.module:FORMAT"`, a :class:`Format`."""

_formats: dict[str, Format] = {format.name: format for format in (native.FORMAT, mdplib.FORMAT)}


def register(format: Format) -> None:
    """Add a format, so that :func:`problems.load`, :func:`problems.save` and the command line know it.

    Raises:
        ProblemError: it is not a :class:`Format`, its endings are not texts like ".lp", or another format has its name.

    Example:
        >>> from problems.formats import Format, register
        >>> register(Format("toy", read=lambda path, cardinality, groups: ..., endings=(".toy",)))  # doctest: +SKIP
    """
    if not isinstance(format, Format):
        raise ProblemError(f"{format!r:.100} is not a problems.formats.Format")
    if isinstance(format.endings, str) or not all(ending.startswith(".") for ending in format.endings):
        raise ProblemError(
            f"the endings of format {format.name!r} are {format.endings!r}; give a tuple such as ('.lp',)"
        )
    if _formats.get(format.name, format) != format:
        raise ProblemError(f"a format named {format.name!r} is registered already; choose another name")
    _formats[format.name] = format


def known() -> tuple[Format, ...]:
    """All formats: the built-in, the registered and those of installed distributions."""
    _load_entry_points()
    return tuple(_formats.values())


def named(name: str) -> Format:
    """The format of a name.

    Raises:
        ProblemError: no format has that name; the message lists all.
    """
    if name not in _formats:
        _load_entry_points()
    if name not in _formats:
        raise ProblemError(f"no file format {name!r}{suggestion(name, _formats) or ';'} known formats: {_listed()}")
    return _formats[name]


def recognised(path: Path) -> Format | None:
    """The format of a file, by its ending or else by its content; None if no format recognises it.

    Raises:
        FileFormatError: several formats recognise it, or it is not a regular file.
        OSError: it does not exist or cannot be read.
    """
    candidates = _with_ending_of(path)
    if len(candidates) == 1:
        return candidates[0]
    with opened(path) as (file, _):
        head = file.read(HEAD)
    candidates = [format for format in candidates or known() if format.sniff is not None and format.sniff(head)]
    if len(candidates) > 1:
        names = " or ".join(repr(format.name) for format in candidates)
        raise FileFormatError(f"{path}: several formats match; pass format={names}")
    return candidates[0] if candidates else None


def located(path: Path, format: str | None = None) -> tuple[Format, Path]:
    """The format and the file that a path stands for: the path itself, or NAME.ENDING for a path NAME.

    Args:
        path: a file, or its name without the ending.
        format: a format's name, if not to be found out.

    Raises:
        FileFormatError: no format, or several, recognise the file; the message lists the known ones.
        FileNotFoundError: there is no such file.
        ProblemError: no format has the name given.
    """
    if format is not None:
        return named(format), path
    if _with_ending_of(path) or (path.exists() and not path.is_dir()):
        found = recognised(path)
        if found is not None:
            return found, path
    for formats in (_formats.values, known):  # those of installed distributions take time to load
        for each in tuple(formats()):
            for ending in each.endings:
                if path.name and with_ending(path, ending).is_file():
                    return each, with_ending(path, ending)
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder; name a file in it, such as {path / 'NAME.bqm'}")
    if path.exists():
        raise FileFormatError(f"{path}: no format recognises the file; known formats: {_listed()}")
    endings = ", ".join(ending for each in known() for ending in each.endings)
    raise FileNotFoundError(f"no problem at {path}: no such file, also not with one of the endings {endings}")


def read(
    path: str | os.PathLike[str],
    cardinality: int | npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    format: str | None = None,
) -> ProblemData:
    """Read a problem file; a cardinality or groups that the file has win over those given.

    Arguments and errors are those of :func:`problems.load`, which refuses a cardinality that disagrees instead.
    """
    found, path = located(Path(path), format)
    return found.read(path, cardinality, groups)


def read_strictly(
    path: str | os.PathLike[str],
    cardinality: int | npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    format: str | None = None,
) -> ProblemData:
    """As :func:`read`, but refuse a cardinality or groups that disagree with those of the file."""
    found, path = located(Path(path), format)
    data = found.read(path, cardinality, groups)
    if cardinality is not None or groups is not None:
        _check_agreement(data, cardinality, groups, path)
    return data


def write(problem: BlockProblem, path: str | os.PathLike[str], format: str | None = None) -> Path:
    """Write a problem to a file; arguments, result and errors are those of :func:`problems.save`."""
    path = Path(path)
    candidates = [named(format)] if format is not None else _with_ending_of(path) or [native.FORMAT]
    writers = [each for each in candidates if each.write is not None]
    if not writers:
        able = ", ".join(each.name for each in known() if each.write is not None)
        raise ProblemError(f"{path}: {candidates[0].name} files can be read, not written; formats written: {able}")
    if len(writers) > 1:
        names = " or ".join(repr(each.name) for each in writers)
        raise ProblemError(f"{path}: several formats have this ending; pass format={names}")
    write = writers[0].write
    assert write is not None
    return write(problem, path)


def _with_ending_of(path: Path) -> list[Format]:
    """Formats that have the path's ending; installed distributions are looked at only if no other format has it."""

    def having() -> list[Format]:
        return [
            each for each in _formats.values() if path.name.endswith(each.endings) and path.name not in each.endings
        ]

    found = having()
    if not found and path.suffix:
        _load_entry_points()
        found = having()
    return found


@functools.cache
def _load_entry_points() -> None:
    import importlib.metadata  # a third of the time that importing this package takes beside numpy

    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            register(point.load())
        except Exception as error:  # any error of a third-party module; files of other formats can still be read
            logger.warning("file format %r (%s) was not loaded: %s", point.name, point.value, error)


def _listed() -> str:
    return ", ".join(map(str, known()))


def _check_agreement(data: ProblemData, cardinality: Any, groups: npt.ArrayLike | None, path: Path) -> None:
    own = data.constraint
    given = Cardinality.of(
        data.cardinality if cardinality is None else cardinality, data.groups if groups is None else groups, data.n
    )
    if not (np.array_equal(given.counts, own.counts) and np.array_equal(given.groups, own.groups)):
        raise FileFormatError(
            f"{path}: cardinality: the file has {own.counts.tolist()[:8]}, but {given.counts.tolist()[:8]} was given"
            + ("" if groups is None else ", or other groups")
        )
