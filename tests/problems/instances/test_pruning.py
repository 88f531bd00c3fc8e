"""The seven small pruning blocks with proven optima."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from problems import instances


def test_real_blocks_have_optima_that_no_swap_improves() -> None:
    blocks = instances.pruning()
    assert instances.pruning_names() == blocks.names
    assert len(blocks) >= 6
    for name, problem in zip(blocks.names, blocks, strict=True):
        x = instances.known_optimum(problem)
        assert problem.is_feasible(x), name
        assert problem.best_known.proven
        assert problem.energy(x) == pytest.approx(problem.best_known.energy, rel=1e-12)
        assert problem.energy(problem.random_states(2000, 0)).min() >= problem.energy(x) - 1e-14
        h, ones, zeros = problem.local_fields(x), np.flatnonzero(x), np.flatnonzero(x == 0)
        changes = h[zeros] - h[ones][:, None] - 2 * problem.form.dense()[np.ix_(ones, zeros)]
        assert changes.min() >= -1e-15
        assert 12 <= problem.n <= 28
        assert problem.labels is not None
        assert {"model", "data", "layer", "fingerprint", "density", "samples", "gamma", "rho"} <= set(
            problem.provenance
        )


@pytest.mark.parametrize("name", ["fc3_n12_k6", "fc2_n16_k8", "fc2_n20_k2", "fc2_n20_k18"])
def test_the_optima_of_small_real_blocks_are_those_of_enumeration(name: str) -> None:
    problem = instances.pruning()[name]
    combinations = np.array(list(itertools.combinations(range(problem.n), problem.constraint.total)))
    X = np.zeros((len(combinations), problem.n), np.int8)
    X[np.arange(len(X))[:, None], combinations] = 1
    assert problem.energy(X).min() == pytest.approx(problem.best_known.energy, rel=1e-12)


def test_the_real_blocks_are_small() -> None:
    folder = instances.pruning().folder
    assert sum(path.stat().st_size for path in folder.iterdir()) < 200_000
