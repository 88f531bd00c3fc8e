"""The hypothesis strategy of block problems: `st.from_type(BlockProblem)`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from problems import BlockProblem


@st.composite
def block_problems(draw: st.DrawFn) -> BlockProblem:
    """Problems of 1 to 9 variables in every form, with or without groups, of integer, wide or sparse numbers."""
    n = draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from(["normal", "whole", "wide", "positive", "negative", "sparse"]))

    def numbers(*shape: int) -> np.ndarray:
        values = rng.standard_normal(shape)
        return {
            "normal": values, "whole": np.round(3 * values), "wide": values * 10.0 ** rng.integers(-6, 6, shape),
            "positive": np.abs(values), "negative": -np.abs(values), "sparse": values * (rng.random(shape) < 0.3),
        }[spread]  # fmt: skip

    if draw(st.booleans()):
        groups = rng.integers(0, draw(st.integers(1, n)), n)
        cardinality = [int(rng.integers(0, size + 1)) for size in np.bincount(groups)]
    else:
        groups, cardinality = None, draw(st.integers(0, n))
    linear = numbers(n) * draw(st.sampled_from([0.0, 1.0, 10.0]))
    offset = draw(st.sampled_from([0.0, -2.5, 1e3]))
    form = draw(st.sampled_from(["dense", "low-rank", "scaled"]))
    if form == "scaled":
        matrix = numbers(n, n)
        return BlockProblem.scaled(
            matrix + matrix.T, numbers(n), linear, cardinality, offset=offset, groups=groups
        )  # fmt: skip
    if form == "dense":
        return BlockProblem(numbers(n, n), linear, cardinality, offset=offset, groups=groups)
    return BlockProblem.low_rank(numbers(n, draw(st.integers(0, 4))), linear, cardinality, offset=offset, groups=groups)


st.register_type_strategy(BlockProblem, block_problems())


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
