"""Atomic writing of files, and reading of JSON that may be damaged or hostile."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from problems.errors import FileFormatError, ProblemError


def write_whole(
    base: Path,
    writers: Mapping[str, Callable[[BinaryIO], None]],
    last: tuple[str, Callable[[Mapping[str, Path]], bytes]],
) -> None:
    """Write several files of one folder so that a kill at any moment leaves none of them half written.

    All are written under temporary names and then renamed, `last` as the last one.

    Args:
        base: folder and common beginning of the names.
        writers: for each ending, a function that writes to an open file.
        last: an ending, and a function from the temporary paths of the others, by ending, to its bytes.
    """
    with contextlib.ExitStack() as unfinished:
        ready = {end: _write_beside(with_ending(base, end), write, unfinished) for end, write in writers.items()}
        data = last[1](ready)
        ready[last[0]] = _write_beside(with_ending(base, last[0]), lambda file: _write_bytes(file, data), unfinished)
        for ending, temporary in ready.items():
            os.replace(temporary, with_ending(base, ending))


def write_bytes(path: Path, data: bytes) -> None:
    """Write one file so that a kill at any moment leaves the old file or the new one."""
    write_whole(path, {}, ("", lambda _: data))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[io.BufferedReader, int]]:
    """A regular file, open for reading in binary, and its size.

    Raises:
        FileFormatError: it is a folder, a pipe or a device.
        OSError: it does not exist or cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # before opening it: opening a pipe waits for a writer
        raise FileFormatError(f"{path}: is not a regular file")
    with path.open("rb") as file:
        yield file, os.fstat(file.fileno()).st_size


def with_ending(base: Path, ending: str) -> Path:
    """NAME with an ending added; unlike in `Path.with_suffix`, dots in NAME are kept."""
    return base.parent / (base.name + ending)


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """A JSON object with one field a line, which :func:`parse_json` can read.

    Raises:
        ProblemError: a value that is not JSON; the message names the field.
    """
    lines = []
    for key, value in values.items():
        try:
            text = json.dumps(value, allow_nan=False)
            parse_json(f'{{"{key}": {text}}}'.encode(), Path(), key)
        except (TypeError, ValueError, RecursionError) as error:
            raise ProblemError(f"{key} is not valid JSON: {error}") from error
        lines.append(f'  "{key}": {text}')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("ascii")


def parse_json(data: bytes, path: Path, field: str) -> dict[str, Any]:
    """Parse a JSON object; the caller limits the size of `data`.

    Args:
        data: the text.
        path: the file it is from, for messages.
        field: the part of the file it is from, for messages.

    Raises:
        FileFormatError: not JSON, not an object, a repeated key, NaN or infinity, or nested too deeply.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite
        )  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: {field}: not valid JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{path}: {field}: a JSON object is needed, not {type(value).__name__}")
    return value


def check_schema(values: Mapping[str, Any], schema: str, version: int, path: Path) -> None:
    """Check the fields "schema" and "version".

    Raises:
        FileFormatError: another schema, or a version that this program does not know.
    """
    if values.get("schema") != schema:
        raise FileFormatError(f"{path}: schema: is {values.get('schema')!r:.100}; {schema!r} is needed")
    given = values.get("version")
    if type(given) is not int or given != version:
        newer = "; a newer hybrid-icbs is needed" if type(given) is int and given > version else ""
        raise FileFormatError(f"{path}: version: is {given!r:.100}; version {version} is supported{newer}")


def _write_beside(target: Path, write: Callable[[BinaryIO], None], unfinished: contextlib.ExitStack) -> Path:
    """Write to a temporary file, which is deleted when `unfinished` closes unless it was renamed before."""
    temporary = target.parent / f".{target.name}.{os.urandom(4).hex()}.tmp"
    with temporary.open("xb") as file:
        unfinished.callback(temporary.unlink, missing_ok=True)
        write(file)
    return temporary


def _write_bytes(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key[:100]!r} occurs twice")
        values[key] = value
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:100]} is not a finite number")
    return value
