"""Tensors in a file of a run folder: all of it is there, or nothing, and what is read is what was written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hybrid_icbs.errors import RunFolderError
from hybrid_icbs.runs.fingerprint import fingerprint


def write_tensors(file: Path, tensors: Mapping[str, torch.Tensor], run: Path) -> str:
    """Write tensors, on disk when this returns.

    Args:
        file: the file; its folder is made.
        tensors: by name, on the CPU and contiguous.
        run: the run's folder, for the message.

    Returns:
        The checksum by which :func:`read_tensors` knows them again.

    Raises:
        RunFolderError: the file cannot be written.
    """
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(exist_ok=True)
        save_file(dict(tensors), part)
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, file)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise RunFolderError(
            f"{file} cannot be written: {error}; make room, then `hybrid-icbs resume {run}`"
        ) from error
    return _checksum(tensors)


def read_tensors(file: Path, checksum: str, remedy: str) -> dict[str, torch.Tensor]:
    """Read what :func:`write_tensors` wrote.

    Args:
        file: the file.
        checksum: what writing returned.
        remedy: what to do without the file, for the message.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{file} cannot be read: {error}; {remedy}") from error
    if _checksum(tensors) != checksum:
        raise RunFolderError(f"{file} is not what the run wrote; {remedy}")
    return tensors


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    return fingerprint({name: tensors[name] for name in sorted(tensors)})
