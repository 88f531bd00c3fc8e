"""Objects split for transport: a small pickle, and large arrays as bytes that are sent once and shared."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import shared_memory
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from solvers.dispatch.base import Handle
from solvers.errors import OptionError, SolverError

K = TypeVar("K")
T = TypeVar("T")

LEAST_SHARED = 1 << 16
"""Bytes from which an array is sent apart from its pickle; copying fewer costs less than mapping them."""


class Packed(NamedTuple):
    """An object split: a small pickle, a key for each large array, and the bytes of both."""

    data: bytes
    parts: list[Any]
    nbytes: int


def pack(obj: Any, sent: SentOnce[Any], pickler: type[pickle.Pickler] = pickle.Pickler) -> Packed:
    """Split an object and send its large arrays; if that fails, none of them stays with the workers.

    Args:
        obj: an object that can be pickled.
        sent: sends the bytes of large arrays and returns a key for each.
        pickler: the pickler's class.

    Returns:
        The pickle without the large arrays, their keys, and the total size in bytes.

    Raises:
        OptionError: it cannot be pickled.
        SolverError: shared memory has no room for it.
    """
    parts: list[Any] = []
    size = 0

    def apart(buffer: pickle.PickleBuffer) -> bool:
        nonlocal size
        raw = buffer.raw()
        if raw.nbytes < LEAST_SHARED:
            return True  # stays in the pickle
        parts.append(sent.put(raw))
        size += raw.nbytes
        return False

    try:
        data = pickled(obj, apart, pickler)
    except BaseException:
        sent.release(parts)
        raise
    return Packed(data, parts, size + len(data))


def pickled(
    obj: Any,
    apart: Callable[[pickle.PickleBuffer], Any] | None = None,
    pickler: type[pickle.Pickler] = pickle.Pickler,
) -> bytes:
    """Pickle an object, with errors that say what to change.

    Raises:
        OptionError: it cannot be pickled.
    """
    stream = io.BytesIO()
    try:
        pickler(stream, protocol=5, buffer_callback=apart).dump(obj)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise OptionError(
            f"{_called(obj)} cannot be sent to another process: {error}. Functions and classes must be those of a "
            "module, not lambdas or local ones; dispatch 'threads' sends nothing"
        ) from error
    return stream.getvalue()


def unpack(data: bytes, parts: Sequence[Any]) -> Any:
    """Rebuild an object; its large arrays are read-only views of the parts' bytes, not copies.

    Only for bytes from this program's own processes: a pickle can run any code.
    """
    return pickle.loads(data, buffers=[memoryview(part).toreadonly() for part in parts])


class SentOnce(Generic[K]):
    """Bytes held by the workers, each under a key; those of a read-only array are sent once, however often put.

    Args:
        send: sends bytes to the workers and returns their key.
        drop: frees the bytes of a key.
    """

    def __init__(self, send: Callable[[memoryview], K], drop: Callable[[K], None]) -> None:
        self._send, self._drop = send, drop
        self._sent: dict[K, _Sent] = {}
        self._by_place: dict[tuple[int, int], K] = {}

    def put(self, raw: memoryview) -> K:
        """Send bytes unless the workers have them; return their key."""
        place = (np.frombuffer(raw, np.uint8).ctypes.data, raw.nbytes)
        if raw.readonly and place in self._by_place:
            key = self._by_place[place]
            self._sent[key].holders += 1
            return key
        key = self._send(raw)
        self._sent[key] = _Sent(raw, place)
        if raw.readonly:
            self._by_place[place] = key
        return key

    def release(self, keys: Sequence[K]) -> list[K]:
        """Remove one holder of each key; return the keys without holders, whose bytes were freed."""
        gone = []
        for key in keys:
            sent = self._sent.get(key)
            if sent is None:  # freed by `clear`
                continue
            sent.holders -= 1
            if not sent.holders:
                del self._sent[key]
                if self._by_place.get(sent.place) == key:
                    del self._by_place[sent.place]
                self._drop(key)
                gone.append(key)
        return gone

    def clear(self) -> None:
        """Free all bytes."""
        for key, sent in list(self._sent.items()):
            sent.holders = 1
            self.release([key])


@dataclass
class _Sent:
    """Bytes that were sent.

    Attributes:
        source: the memory they were copied from, kept alive so that its address is not used again.
        place: address and length of it.
        holders: number of handles that hold them.
    """

    source: memoryview
    place: tuple[int, int]
    holders: int = 1


class SentHandle(Handle[T]):
    """Handle of a sent object, in the process that sent it; subclasses define how it is pickled.

    Args:
        obj: the object.
        packed: the object as it was sent.
        released: called with the keys of its arrays when it is released.
    """

    def __init__(self, obj: T, packed: Packed, released: Callable[[list[Any]], object]) -> None:
        self.nbytes = packed.nbytes
        self._obj: T | None = obj
        self._packed, self._released = packed, released

    def get(self) -> T:
        """The object itself; a task gets its worker's copy."""
        if self._obj is None:
            raise SolverError("the handle was released; share the object again")
        return self._obj

    def release(self) -> None:
        """Free the workers' copy."""
        if self._obj is not None:
            self._obj = None
            self._released(list(self._packed.parts))
            self._packed.parts.clear()


def segments() -> SentOnce[str]:
    """Shared memory segments of this process for its workers, by name."""
    memory: dict[str, shared_memory.SharedMemory] = {}

    def send(raw: memoryview) -> str:
        segment = _allocated(raw.nbytes)
        segment.buf[: raw.nbytes] = raw  # type: ignore[index]
        memory[segment.name] = segment
        return segment.name

    def drop(name: str) -> None:
        segment = memory.pop(name)
        segment.close()
        segment.unlink()

    return SentOnce(send, drop)


class Attached:
    """Segments of another process, each mapped into this one once."""

    def __init__(self) -> None:
        self._memory: dict[str, shared_memory.SharedMemory] = {}
        self._leaving: list[shared_memory.SharedMemory] = []

    def view(self, name: str) -> memoryview:
        """The bytes of a segment."""
        if name not in self._memory:
            self._memory[name] = shared_memory.SharedMemory(name)
        buffer = self._memory[name].buf
        assert buffer is not None
        return buffer

    def forget(self, names: Sequence[str]) -> None:
        """Unmap segments; one that an array still uses is unmapped once the array is gone."""
        self._leaving += [self._memory.pop(name) for name in names if name in self._memory]
        waiting, self._leaving = self._leaving, []
        for memory in waiting:
            try:
                memory.close()
            except BufferError:
                self._leaving.append(memory)


def _allocated(size: int) -> shared_memory.SharedMemory:
    """Create a segment with its memory allocated; without memory, writing would kill the process, not raise."""
    memory = shared_memory.SharedMemory(f"icbs_{os.getpid()}_{secrets.token_hex(6)}", create=True, size=size)
    try:
        with _file_of(memory.name) as file:
            if file is not None:
                os.posix_fallocate(file, 0, size)
    except OSError as error:
        memory.close()
        memory.unlink()
        raise SolverError(
            f"shared memory has no room for {size / 1e6:.0f} MB ({error.strerror}); make /dev/shm larger (of a "
            "container: --shm-size), or use dispatch 'threads', which shares this process's memory"
        ) from error
    return memory


@contextlib.contextmanager
def _file_of(name: str) -> Iterator[int | None]:
    """The file descriptor of a segment, or None where the system has no file for it."""
    path = f"/dev/shm/{name}"
    if not os.path.exists(path):
        yield None
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _called(obj: Any) -> str:
    named = obj[0] if isinstance(obj, tuple) and obj and callable(obj[0]) else obj
    return getattr(named, "__qualname__", None) or f"a {type(named).__name__}"
