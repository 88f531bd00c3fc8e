"""Kernels that other kernels call by address."""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
import pytest

from solvers.local.kernels.separate import read_only, separate
from solvers.local.kernels.structures import Doubles, Matrix


class Pair(NamedTuple):
    values: Doubles
    factor: int


@separate(nb.types.Tuple((nb.int64, nb.float64)), Pair, float, nogil=True)
def scaled(pair, share):
    total = 0.0
    for i in range(len(pair.values)):
        pair.values[i] *= pair.factor
        total += share * pair.values[i]
    return len(pair.values), total


@separate(nb.float64, Matrix, nogil=True)
def first(matrix):
    return np.float64(matrix[0, 0])


_scaled_at, _first_at = scaled.at, first.at


@nb.njit
def twice(address, pair):
    _scaled_at(address, pair, 1.0)
    return _scaled_at(address, pair, 0.5)


@nb.njit
def first_of_new(address):
    return _first_at(address, read_only(np.full((2, 2), np.float32(7.0))))


def test_a_kernel_called_by_address_does_what_it_does_called_from_python():
    called, compiled = np.arange(4.0), np.arange(4.0)
    scaled(Pair(called, 3), 1.0)
    expected = scaled(Pair(called, 3), 0.5)
    assert twice(scaled.address, Pair(compiled, 3)) == expected == (4, 27.0)
    assert np.array_equal(called, compiled)


def test_a_new_array_is_passed_as_a_read_only_one():
    assert first_of_new(first.address) == 7.0


def test_arguments_of_other_types_are_refused_when_the_caller_is_compiled():
    with pytest.raises(nb.core.errors.TypingError, match=r"float32.* is not .*float64"):
        twice(scaled.address, Pair(np.zeros(4, np.float32), 3))


def test_a_kernel_that_returns_another_type_than_declared_is_refused():
    @separate(nb.int64, Doubles)
    def half(values):
        return 0.5 * values[0]

    with pytest.raises(TypeError, match="half returns float64, not"):
        _ = half.address
