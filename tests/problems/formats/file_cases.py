"""Helpers of the tests of files: blocks with all attributes, and comparison of blocks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dimod
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from problems import (
    BestKnown,
    BlockProblem,
    Labels,
    ScaledForm,
)

GOLDEN = Path(__file__).parent / "golden"
problems = st.from_type(BlockProblem)
some = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def assert_same(one: BlockProblem, other: BlockProblem) -> None:
    """Assert that all numbers agree to the bit and all else is equal; a scaled problem is read as dense."""
    one, other = (p.to_dense() if isinstance(p.form, ScaledForm) else p for p in (one, other))
    assert type(one.form) is type(other.form)
    assert one.form.dtype == other.form.dtype
    for a, b in (
        (one.form.factor, other.form.factor) if one.is_low_rank else (one.form.matrix, other.form.matrix),
        (one.linear, other.linear),
        (one.constraint.counts, other.constraint.counts),
        (one.constraint.groups, other.constraint.groups),
    ):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    assert one.offset == other.offset
    assert one.provenance == other.provenance
    assert one.best_known == other.best_known
    assert (one.labels is None) == (other.labels is None)
    if one.labels is not None and other.labels is not None:
        assert np.array_equal(one.labels.parameter, other.labels.parameter)
        assert np.array_equal(one.labels.index, other.labels.index)


def full(form: str = "dense", n: int = 6) -> BlockProblem:
    """A problem with all optional attributes."""
    rng = np.random.default_rng(1)
    arguments = {
        "offset": 0.1, "groups": np.arange(n) % 2, "labels": Labels(np.arange(n), np.arange(n) * 10**10),
        "provenance": {"layer": "fc1", "step": 3, "nested": {"a": [1, 2.5, None, True]}, "text": "Größe ✓"},
        "best_known": BestKnown(-1.0 / 3.0, False, "someone"),
    }  # fmt: skip
    if form == "dense":
        return BlockProblem(rng.standard_normal((n, n)), rng.standard_normal(n), [1, 2], **arguments)
    return BlockProblem.low_rank(
        rng.standard_normal((n, 3)).astype(np.float32), rng.standard_normal(n), [1, 2], **arguments
    )


def dimod_bytes(bqm: dimod.BinaryQuadraticModel, version: int = 2) -> bytes:
    with bqm.to_file(version=version) as file:
        return file.read()


forms = pytest.mark.parametrize("form", ["dense", "low-rank"])


@contextmanager
def little_memory(limit: int = 8 << 20) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()
