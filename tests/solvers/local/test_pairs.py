"""Descents among all pairs: where they end, their lists of large couplings, the order in which they read rows."""

from __future__ import annotations

import numpy as np
import pytest
from searches import Search

from solvers.local.kernels import pairs, tabu


def test_a_descent_among_pairs_ends_where_no_swap_improves():
    search = Search()
    before = search.problem.energy(search.x)
    search.descend(1 << 40)
    assert search.scan[pairs.QUIET] == len(search.x)
    assert search.problem.energy(search.x) < before
    changes = [
        search.problem.swap_change(search.x, np.full(60, i), np.flatnonzero(search.x == 0))
        for i in np.flatnonzero(search.x)
    ]
    assert np.min(changes) > -1e-4 * np.abs(search.fields).max()
    energy = search.arrays.energy(search.account[tabu.PRESENT])
    assert energy == pytest.approx(search.problem.energy(search.x), rel=1e-5)
    assert np.array_equal(search.leave_at == tabu.NEVER, search.x == 0)
    assert np.array_equal(search.enter_at == tabu.NEVER, search.x == 1)


def test_a_descent_in_many_calls_equals_one_in_a_single_call():
    whole, pieces = Search(), Search()
    whole.descend(1 << 40)
    while pieces.scan[pairs.QUIET] < len(pieces.x):
        pieces.descend(1)
    assert np.array_equal(whole.x, pieces.x)
    assert whole.account[tabu.PRESENT] == pieces.account[tabu.PRESENT]


def test_a_descent_returns_when_the_target_is_reached():
    far = Search()
    far.descend(1 << 40)
    begun, ended = Search(), far.account[tabu.PRESENT]
    target = 0.5 * (begun.account[tabu.PRESENT] + ended)
    begun.descend(1 << 40, target)
    assert ended < begun.account[tabu.PRESENT] <= target


def test_lists_of_strong_couplings_change_nothing_but_the_work():
    plain, listed = Search(200, seed=4), Search(200, seed=4, listed=12)
    for seed in range(60):
        start = plain.problem.random_states(1, seed)[0].astype(np.uint8)
        for search in (plain, listed):
            search.begin(start)
            search.descend(1 << 40)
        assert np.array_equal(plain.x, listed.x)
        assert plain.account[tabu.PRESENT] == listed.account[tabu.PRESENT]
    made = listed.reach[pairs.REST] < tabu.LARGE
    assert made.sum() > 50
    assert listed.looks.sum() < 0.7 * plain.looks.sum()
    matrix = plain.arrays.matrix
    for i in np.flatnonzero(made):
        above = np.flatnonzero(matrix[i] > listed.reach[pairs.REST, i])
        found = listed.strong[i] > -tabu.LARGE
        assert sorted(listed.near[i, found]) == list(above)
        assert np.array_equal(listed.strong[i, found], np.sort(matrix[i, above])[::-1])


def test_a_search_returns_to_its_best_state():
    search = Search()
    best, fields = search.x.copy(), search.fields.copy()
    search.descend(1 << 40)
    moved = int((search.x != best).sum()) // 2
    swaps = pairs.take_back(search.arrays.matrix, search.state, search.search._replace(best_x=best), np.int32(3))
    assert swaps == moved > 0
    assert np.array_equal(search.x, best)
    np.testing.assert_allclose(search.fields, fields, rtol=1e-3, atol=1e-4)
    assert np.array_equal(search.leave_at == tabu.NEVER, search.x == 0)


@pytest.mark.parametrize("n", [16, 17, 40, 100, 1000, 2048])
@pytest.mark.parametrize("kind", ["all different", "many equal", "mostly zero", "negative"])
def test_the_largest_couplings_of_a_row_are_listed_in_order(n, kind):
    rng = np.random.default_rng(n)
    row = rng.normal(size=n).astype(np.float32)
    if kind == "many equal":
        row = rng.integers(0, 4, n).astype(np.float32)
    elif kind == "mostly zero":
        row *= rng.random(n) < 0.05
    elif kind == "negative":
        row = -np.abs(row)
    near, strong = np.empty(n // pairs.ONE_LISTED_OF, np.uint32), np.empty(n // pairs.ONE_LISTED_OF, np.float32)
    rest = pairs.list_largest(row, row.max(), near, strong)
    found = strong > -tabu.LARGE
    assert np.array_equal(strong[found], row[near[found]])
    assert len(set(near[found].tolist())) == found.sum() == np.count_nonzero(row > rest)
    assert np.all(np.diff(strong) <= 0)
    if kind == "all different" and n >= 100:
        assert found.sum() >= 0.5 * len(near)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 10, 64, 144, 1000, 1024, 2310])
def test_strides_visit_all_variables(n):
    stride = int(pairs.stride(np.uint64(n)))
    assert stride < n
    assert len({i * stride % n for i in range(n)}) == n
