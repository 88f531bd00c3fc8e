"""Objects taken apart for the way: a small pickle, and its large arrays as bytes that are sent once and shared."""

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
"""Bytes from which an array travels apart from its pickle; copying fewer costs less than mapping them."""


class Packed(NamedTuple):
    """An object taken apart: a small pickle, what stands for its large arrays, and the bytes of both."""

    data: bytes
    parts: list[Any]
    nbytes: int


def pack(obj: Any, sent: SentOnce[Any], pickler: type[pickle.Pickler] = pickle.Pickler) -> Packed:
    """Take an object apart, and send its large arrays; where that fails, none of them stays behind.

    Args:
        obj: what can be pickled.
        sent: takes the bytes of large arrays, and tells what stands for them on the way.
        pickler: what pickles.

    Returns:
        The pickle without the large arrays, what stands for each of them, and the bytes of all in all.

    Raises:
        OptionError: it cannot be pickled.
        SolverError: there is no room for it.
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
    """An object as bytes; a pickle's own errors say little to those who do not know it.

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
    """Put an object together again: its large arrays are read-only views of the parts' bytes, not copies.

    For bytes of this program's own processes only: a pickle from anywhere else could run what it likes.
    """
    return pickle.loads(data, buffers=[memoryview(part).toreadonly() for part in parts])


class SentOnce(Generic[K]):
    """Bytes that are with the workers, each under a key; those of read-only arrays are sent once, however often put.

    Args:
        send: sends bytes to where workers find them, and returns the key.
        drop: takes them away.
    """

    def __init__(self, send: Callable[[memoryview], K], drop: Callable[[K], None]) -> None:
        self._send, self._drop = send, drop
        self._sent: dict[K, _Sent] = {}
        self._by_place: dict[tuple[int, int], K] = {}

    def put(self, raw: memoryview) -> K:
        """Send bytes, unless these are there already."""
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
        """Let go of bytes, one holder's each; those that nobody holds any more, and are taken away."""
        gone = []
        for key in keys:
            sent = self._sent.get(key)
            if sent is None:  # all was let go of before
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
        """Let go of everything."""
        for key, sent in list(self._sent.items()):
            sent.holders = 1
            self.release([key])


@dataclass
class _Sent:
    """Bytes that were sent.

    Attributes:
        source: what they were copied from, kept alive so that its place means these bytes and no others.
        place: address and length.
        holders: how many handles hold them.
    """

    source: memoryview
    place: tuple[int, int]
    holders: int = 1


class SentHandle(Handle[T]):
    """The handle of what was sent, on this side; how it travels is its subclasses' matter.

    Args:
        obj: what was sent.
        packed: as it was sent.
        released: called when it is let go of.
    """

    def __init__(self, obj: T, packed: Packed, released: Callable[[list[Any]], object]) -> None:
        self.nbytes = packed.nbytes
        self._obj: T | None = obj
        self._packed, self._released = packed, released

    def get(self) -> T:
        """The thing itself; a task gets its worker's copy."""
        if self._obj is None:
            raise SolverError("the handle was released; share the object again")
        return self._obj

    def release(self) -> None:
        """Take the copy away from the workers."""
        if self._obj is not None:
            self._obj = None
            self._released(list(self._packed.parts))
            self._packed.parts.clear()


def segments() -> SentOnce[str]:
    """Shared memory of this process for its workers, by name."""
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
    """Segments of another process, mapped into this one once each."""

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
        """Let go of segments; of those that an array still stands on, as soon as it is gone."""
        self._leaving += [self._memory.pop(name) for name in names if name in self._memory]
        waiting, self._leaving = self._leaving, []
        for memory in waiting:
            try:
                memory.close()
            except BufferError:
                self._leaving.append(memory)


def _allocated(size: int) -> shared_memory.SharedMemory:
    """A new segment whose memory is really there: where it is not, writing would kill the process, not raise."""
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
    """The file of a segment, where the system shows it as one."""
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
