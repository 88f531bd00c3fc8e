"""The random numbers of :mod:`solvers.local.kernels.random` as torch tensors: many streams at once, on any device.

Number t of a stream is a mix of the stream's start and t, so nothing is drawn in order and nothing crosses to the
device. Tensors are int64, as torch computes little in uint64: sums and products wrap all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def _signed(word: int) -> int:
    word %= 1 << 64
    return word - (1 << 64) if word >> 63 else word


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def numbers(streams: torch.Tensor, which: torch.Tensor | int) -> torch.Tensor:
    """64 random bits: the numbers `which` of `streams`, both int64 and broadcast against one another."""
    z = streams + (_signed(which * _GAMMA) if isinstance(which, int) else which * _GAMMA)
    z ^= _shifted(z, 30)
    z *= _MIX1
    z ^= _shifted(z, 27)
    z *= _MIX2
    z ^= _shifted(z, 31)
    return z


def units(bits: torch.Tensor) -> torch.Tensor:
    """Float32 numbers of [0, 1) from the upper 24 bits."""
    return _shifted(bits, 40).float() * 2.0**-24


def below(bits: torch.Tensor, bound: int) -> torch.Tensor:
    """Integers of 0 .. bound - 1 from the upper 32 bits, int64."""
    return (_shifted(bits, 32) * bound) >> 32


def _shifted(z: torch.Tensor, by: int) -> torch.Tensor:
    """Shift to the right, zeros coming in: torch's own shift of int64 copies the sign."""
    return (z >> by) & ((1 << (64 - by)) - 1)
