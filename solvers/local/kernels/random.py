"""Random numbers for kernels: one 64-bit counter a stream, kept in an array of the caller.

SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): each number is a
mixed counter, so a stream is its counter, and nothing is lost when a kernel stops in the middle.
"""

from __future__ import annotations

import numpy as np

from problems.compiling import compiled, helper

GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""What a counter grows by from one number to the next."""

_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S32, _S40 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32), np.uint64(40)
_UNIT24 = np.float32(2.0**-24)
_LOW24, _ONE = np.uint64((1 << 24) - 1), np.uint64(1)

_FRACTION, _S23 = np.int32((1 << 23) - 1), np.int32(23)  # of a float32: the bits of its fraction, and how many they are
_EXPONENT_OF_1, _EXPONENT_OF_2_24 = np.int32(127), np.int32(127 + 24)
_LN2 = np.float32(0.69314718)
_A1, _A2, _A3, _A4, _A5 = (
    np.float32(a) for a in (0.99949556, -0.49190896, 0.28947478, -0.13606275, 0.03215845)
)  # fmt: skip


@compiled(nogil=True, inline="always")
def mixed(counter):  # type: ignore[no-untyped-def]
    """The 64 random bits of a counter: for loops that keep it themselves, where an array would slow them down."""
    z = counter
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


@compiled(nogil=True, inline="always")
def next64(stream):  # type: ignore[no-untyped-def]
    """The next 64 random bits of a stream, uint64 [1]."""
    stream[0] += GAMMA
    return mixed(stream[0])


@compiled(nogil=True, inline="always")
def share(bits, bound):  # type: ignore[no-untyped-def]
    """An integer of 0 .. bound - 1 by the upper 32 of 64 random bits.

    Its bias, bound / 2^32, is far below what a search could notice.
    """
    return np.int64(((bits >> _S32) * np.uint64(bound)) >> _S32)


@helper(nogil=True)
def below(stream, bound):  # type: ignore[no-untyped-def]
    """The next integer of 0 .. bound - 1 of a stream."""
    return share(next64(stream), bound)


@helper(nogil=True)
def unit(stream):  # type: ignore[no-untyped-def]
    """A float32 of (0, 1]."""
    return np.float32((next64(stream) >> _S40) + _ONE) * _UNIT24


@compiled(nogil=True, inline="always", fastmath=True)
def exponential(bits):  # type: ignore[no-untyped-def]
    """An exponentially distributed float32 of mean 1 by the lower 24 of 64 random bits: -log of a number of (0, 1].

    To 2e-5, without a call or a branch, so that a processor works on many at once. What is uphill by so many
    temperatures or less is accepted: with the chance that Metropolis' rule asks for, and known before the change is.

    Source:
        The logarithm: Abramowitz and Stegun, "Handbook of mathematical functions" (1964), 4.1.43.
    """
    number = np.float32(np.int32(bits & _LOW24) + np.int32(1))  # of 1 .. 2^24, each of which float32 holds
    pattern = number.view(np.int32)
    halvings = np.float32(np.int32(_EXPONENT_OF_2_24 - (pattern >> _S23)))
    t = np.int32((pattern & _FRACTION) | (_EXPONENT_OF_1 << _S23)).view(np.float32) - np.float32(1.0)
    return _LN2 * halvings - t * (_A1 + t * (_A2 + t * (_A3 + t * (_A4 + t * _A5))))
