"""Random numbers for kernels: one 64-bit counter a stream, kept in an array of the caller.

SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): each number is a
mixed counter, so a stream is its counter, and nothing is lost when a kernel stops in the middle.
"""

from __future__ import annotations

import numpy as np

from problems.compiling import compiled

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S32, _S40 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32), np.uint64(40)
_UNIT24 = np.float32(2.0**-24)


@compiled(nogil=True, inline="always")
def next64(stream):  # type: ignore[no-untyped-def]
    """The next 64 random bits of a stream, uint64 [1]."""
    stream[0] += _GAMMA
    z = stream[0]
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


@compiled(nogil=True, inline="always")
def below(stream, bound):  # type: ignore[no-untyped-def]
    """An integer of 0 .. bound - 1; its bias, bound / 2^32, is far below what a search could notice."""
    return np.int64(((next64(stream) >> _S32) * np.uint64(bound)) >> _S32)


@compiled(nogil=True, inline="always")
def unit(stream):  # type: ignore[no-untyped-def]
    """A float32 of (0, 1]."""
    return np.float32((next64(stream) >> _S40) + np.uint64(1)) * _UNIT24
