"""Uncompressed .npz files: written reproducibly, read with every size checked.

numpy.load does not check an archive: a member of a few bytes can decompress to gigabytes, and an object array is a
pickle. Here members must be uncompressed, of plain number types, and of the size that their header says.
"""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from problems.errors import FileFormatError

_HEADER_BYTES = 4096  # limit of an array's header, which has some 120 bytes in practice
_READ = 1 << 24


def write_npz(file: BinaryIO, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays as an archive that numpy.load reads; the same arrays give the same bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, so that the bytes do not depend on the clock
            member.create_system = 3  # "made on Unix", on any system
            with archive.open(member, "w", force_zip64=True) as out:
                little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                np.lib.format.write_array(out, np.ascontiguousarray(little), version=(1, 0), allow_pickle=False)


def read_npz(
    file: BinaryIO, path: Path, expected: Mapping[str, tuple[tuple[str, ...], int]]
) -> dict[str, npt.NDArray[Any]]:
    """Read exactly the expected arrays.

    Args:
        file: open for reading in binary.
        path: its name, for messages.
        expected: the allowed dtypes and the number of axes of each array.

    Raises:
        FileFormatError: the file is not such an archive; the message names the member.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    with _refusing(path, "archive"), zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        wanted = [f"{name}.npy" for name in expected]
        if sorted(info.filename for info in archive.infolist()) != sorted(wanted):
            names = ", ".join(sorted(members))[:200]
            raise FileFormatError(f"{path}: archive: holds {names or 'nothing'}; it must hold {', '.join(wanted)}")
        return {
            name: _read_member(archive, members[f"{name}.npy"], path, name, size, *kind)
            for name, kind in expected.items()
        }


def _read_member(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    path: Path,
    name: str,
    size: int,
    dtypes: tuple[str, ...],
    axes: int,
) -> npt.NDArray[Any]:
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise FileFormatError(f"{path}: {name}: is compressed or encrypted; members must be stored uncompressed")
    if info.file_size != info.compress_size or info.file_size > size:
        raise FileFormatError(f"{path}: {name}: its size is given as {info.file_size} bytes; the file has {size}")
    with _refusing(path, name), archive.open(info) as member:
        dtype, shape, length = _read_header(member, path, name)
        if dtype.str not in [np.dtype(kind).newbyteorder("<").str for kind in dtypes] or len(shape) != axes:
            raise FileFormatError(
                f"{path}: {name}: is {dtype} {list(shape)}; {axes} axes of {' or '.join(dtypes)} are needed"
            )
        if math.prod(shape) * dtype.itemsize != info.file_size - length:
            raise FileFormatError(
                f"{path}: {name}: its shape {list(shape)} does not fit its {info.file_size - length} bytes"
            )
        array: npt.NDArray[Any] = np.empty(shape, dtype)
        _fill(member, array.reshape(-1).view(np.uint8), path, name)
        return array


def _read_header(member: Any, path: Path, name: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """An array's dtype, its shape and the size of its header."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member, max_header_size=_HEADER_BYTES)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(member, max_header_size=_HEADER_BYTES)
    else:
        raise FileFormatError(f"{path}: {name}: array format {version[0]}.{version[1]}; 1.0 and 2.0 are supported")
    if fortran or any(side < 0 for side in shape):
        raise FileFormatError(f"{path}: {name}: must be C-contiguous with sides >= 0; its shape is {shape}")
    return dtype, shape, member.tell()


def _fill(member: Any, into: npt.NDArray[np.uint8], path: Path, name: str) -> None:
    done = 0
    while done < len(into):
        count = member.readinto(into[done : done + _READ])
        if not count:
            raise FileFormatError(f"{path}: {name}: ends after {done} of {len(into)} bytes")
        done += count
    if member.read(1):  # reading to the end also verifies the checksum
        raise FileFormatError(f"{path}: {name}: is longer than its shape")


@contextlib.contextmanager
def _refusing(path: Path, name: str) -> Iterator[None]:
    """Raise any error of zipfile and numpy, which have many for damaged archives, as a FileFormatError."""
    try:
        yield
    except (FileFormatError, MemoryError):
        raise
    except Exception as error:
        raise FileFormatError(f"{path}: {name}: is damaged: {str(error)[:200]}") from error
