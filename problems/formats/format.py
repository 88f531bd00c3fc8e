"""What a problem file format is: a name, how its files are recognised, a reader and perhaps a writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

from problems.data import ProblemData
from problems.errors import FileFormatError

if TYPE_CHECKING:
    from problems.block import BlockProblem

HEAD = 4096
"""Bytes of a file's beginning that :attr:`Format.sniff` receives."""

Reader: TypeAlias = Callable[[Path, "int | npt.ArrayLike | None", "npt.ArrayLike | None"], ProblemData]


@dataclass(frozen=True)
class Format:
    """A file format of block problems; see :func:`problems.formats.register`.

    Attributes:
        name: a short name such as "mdplib", as `format=` takes it.
        read: reads a file: path, cardinality and groups given by the caller, or None, which are used where the file
            has none. It returns a :class:`ProblemData` (a BlockProblem is one) and raises
            :class:`~problems.FileFormatError` with the file, the field or line, and what is allowed.
        endings: file name endings such as ".bqm".
        sniff: whether a file begins as this format's files do, from its first bytes (:data:`HEAD` at most). It is asked
            about files whose ending no format, or several formats, have.
        write: writes a problem to a path and returns the path that `read` takes; None if the format is only read.
        companions: endings of files that belong to another file of this format and are not listed in a folder.
    """

    name: str
    read: Reader
    endings: tuple[str, ...] = ()
    sniff: Callable[[bytes], bool] | None = None
    write: Callable[[BlockProblem, Path], Path] | None = None
    companions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.endings) or 'recognised by its content'})"


def required(path: Path, cardinality: Any) -> Any:
    """The cardinality given by the caller, for a file that has none.

    Raises:
        FileFormatError: none was given.
    """
    if cardinality is None:
        raise FileFormatError(f"{path}: cardinality: the file has none; pass cardinality=, the demanded number of ones")
    return cardinality
