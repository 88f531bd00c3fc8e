"""The fused kernel of `tabu` under Triton's interpreter; `test_tabu_triton.py` runs this file in a process of its own.

The interpreter takes some ten milliseconds a step: searches are short here.
"""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
import torch

import solvers.run
from problems import BlockProblem
from solvers import UnavailableError, get_solver
from solvers.local.arrays import dense_arrays
from solvers.local.batched import tabu_triton
from solvers.local.kernels import structures, tabu
from solvers.local.tabu import TabuSearch
from solvers.testing import conformance_checks

assert os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1 before Triton is imported"

SHORT = {"population": 2, "offspring": 3, "iterations": 3}


def block(n: int, seed: int, whole: bool = False) -> BlockProblem:
    """A dense problem; with whole coefficients, which float32 adds up without rounding and which often tie."""
    rng = np.random.default_rng(seed)
    Q, c = rng.normal(size=(n, n)), rng.normal(size=n)
    return BlockProblem(*((np.round(2 * Q), np.round(2 * c)) if whole else (Q, c)), int(rng.integers(n // 4, n - 2)))


class Searches:
    """The tensors that the kernel keeps up for some searches of each of some problems of one size."""

    def __init__(self, listed: list[BlockProblem], searches: int) -> None:
        self.arrays = [dense_arrays(problem) for problem in listed]
        n, shape = listed[0].n, (len(listed), searches)
        wide = tabu_triton.width(n)
        rng = np.random.default_rng(n)
        self.x = np.array([problem.random_states(searches, 1) for problem in listed]).astype(bool)
        self.streams = rng.integers(-(2**63), 2**63, shape)
        self.Q, self.fields = np.zeros((len(listed), n, wide), np.float32), np.zeros((*shape, wide), np.float32)
        self.energy = np.zeros(shape)
        for p, arrays in enumerate(self.arrays):
            self.Q[p, :, :n] = arrays.matrix
            fields = arrays.single + self.x[p] @ arrays.matrix.astype(np.float64)
            self.fields[p, :, :n] = fields
            self.energy[p] = 0.5 * ((fields + arrays.single) * self.x[p]).sum(axis=-1)
        self.rests = np.full((*shape, wide), tabu_triton.NEVER, np.int32)
        self.rests[..., :n] = np.where(self.x, 0, -1)
        self.least = 1e-6 * np.abs(self.fields).max(axis=-1).astype(np.float64)
        self.offspring_x = (self.rests >= 0).astype(np.uint8)
        self.offspring, self.found_at = self.energy.copy(), np.zeros(shape, np.int32)
        self.tenures = np.array([arrays.groups.tenures for arrays in self.arrays], np.int32)

    def advance(self, *, stops: list[int], patience: int) -> Searches:
        """Take steps in several launches; `self` stays as it is."""
        names = [
            "Q",
            "fields",
            "rests",
            "offspring_x",
            "energy",
            "offspring",
            "found_at",
            "least",
            "streams",
            "tenures",
        ]
        sent = {name: torch.from_numpy(getattr(self, name).copy()) for name in names}
        for begin, end in itertools.pairwise(stops):
            tabu_triton.take_steps(*sent.values(), begin, end, patience)
        after = Searches.__new__(Searches)
        for name, tensor in sent.items():
            setattr(after, name, tensor.numpy())
        return after


def mixed(z: int) -> int:
    word = 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % word
    z = (z ^ z >> 27) * 0x94D049BB133111EB % word
    return z ^ z >> 31


def by_hand(s: Searches, p: int, m: int, steps: int, patience: int):
    """The same search in plain numpy: its fields, state, free_at, energy, best energy, state and step."""
    Q, n = s.arrays[p].matrix, len(s.arrays[p].matrix)
    fields, x = s.fields[p, m, :n].copy(), s.x[p, m].copy()
    free_at = np.ones(n, int)
    energy = best = s.energy[p, m]
    best_x, found = x.copy(), 0
    stay, stay_spread, away, away_spread = map(int, s.tenures[p])
    for t in range(1, steps + 1):
        if t - 1 - found >= patience:
            break
        bits = mixed((int(s.streams[p, m]) + t * 0x9E3779B97F4A7C15) % 2**64)
        flip = bits & 0xFFFF & (tabu_triton.block(n) - 1)
        ones = [i for i in range(n) if x[i] and free_at[i] <= t]
        zeros = [j for j in range(n) if not x[j] and free_at[j] <= t]
        if not ones or not zeros:
            continue
        out = min(ones, key=lambda i: (-fields[i], i ^ flip))
        into = min(zeros, key=lambda j: (fields[j] - Q[out, j], j ^ flip))
        energy += float(fields[into] - Q[out, into]) - float(fields[out])
        fields += Q[into] - Q[out]
        x[out], x[into] = False, True
        free_at[out] = t + away + ((bits >> 16 & 0xFFFF) * away_spread >> 16)
        free_at[into] = t + stay + ((bits >> 32 & 0xFFFF) * stay_spread >> 16)
        if energy < best - s.least[p, m]:
            best, best_x, found = energy, x.copy(), t
    return fields, x, free_at, energy, best, best_x, found


@pytest.mark.parametrize(("n", "whole"), [(16, True), (33, False), (50, True)])
def test_the_kernel_takes_the_steps_of_a_plain_reference(n, whole):
    searches, patience, steps = Searches([block(n, seed, whole) for seed in range(2)], 2), 9, 30
    after = searches.advance(stops=[0, 7, 8, steps], patience=patience)
    for p in range(2):
        for m in range(2):
            fields, x, free_at, energy, best, best_x, found = by_hand(searches, p, m, steps, patience)
            assert (after.fields[p, m, :n] == fields).all()
            assert (after.rests[p, m, :n] == np.where(x, free_at - 1, -free_at)).all()
            assert (after.energy[p, m], after.offspring[p, m], after.found_at[p, m]) == (energy, best, found)
            assert (after.offspring_x[p, m, :n] == best_x).all()
            assert found > 1, "a search that finds nothing shows nothing"
    assert (after.fields[..., n:] == 0).all()
    assert (after.rests[..., n:] == tabu_triton.NEVER).all()


def test_the_kernel_takes_the_steps_of_the_compiled_one():
    n, steps, patience = 100, 40, 1000
    searches = Searches([block(n, 4, whole=True)], 1)  # without rounding, and ties in one block of the compiled kernel
    arrays = searches.arrays[0]
    x, offspring_x = searches.x[0, 0].astype(np.uint8), searches.x[0, 0].astype(np.uint8)
    fields, stream = searches.fields[0, 0, :n].copy(), searches.streams[0].view(np.uint64)
    leave_at = np.where(x, 0, tabu.NEVER).astype(np.int32)
    enter_at = np.where(x, tabu.NEVER, 0).astype(np.int32)
    clock, account = np.zeros(2, np.int64), np.zeros(4)
    tabu.begin_search(fields, searches.energy[0, 0], clock, account)
    state = structures.State(x, fields, np.zeros(n, np.int32), np.zeros(n, np.int32))
    search = structures.Search(leave_at, enter_at, offspring_x, arrays.groups.tenures.copy(), clock, account)
    tabu.tabu_matrix(arrays.matrix, state, search, patience, -np.inf, stream.copy(), steps)
    after = searches.advance(stops=[0, steps], patience=patience)
    assert (after.fields[0, 0, :n] == fields).all()
    assert ((after.rests[0, 0, :n] >= 0) == x).all()
    assert (after.offspring_x[0, 0, :n] == offspring_x).all()
    assert (after.offspring[0, 0], after.found_at[0, 0]) == (account[tabu.BEST], clock[1])


def test_a_search_out_of_patience_stays_as_it_is():
    searches = Searches([block(20, 0)], 2)
    after = searches.advance(stops=[0, 200], patience=4)
    later = searches.advance(stops=[0, 200, 260], patience=4)
    assert (after.found_at < 100).all()
    assert (after.fields == later.fields).all()
    assert (after.energy == later.energy).all()


def rows(answers):
    return [answer.record.sample.tolist() for answer in answers]


def test_both_forms_give_one_answer_for_a_batch_and_for_each_problem(monkeypatch):
    listed = [block(21, seed) for seed in range(3)]
    fused = TabuSearch(**SHORT, restarts=2, engine="triton")
    plain = TabuSearch(**SHORT, restarts=2, engine="torch")
    together = fused.solve_many(listed, seed=3)
    assert {a.info["engine"] for a in together} == {"triton"}
    assert rows(together) == rows(plain.solve_many(listed, seed=3))
    monkeypatch.setattr(solvers.run, "CHUNK_SECONDS", 1e-9)
    assert rows([fused.solve(listed[1], seed=4)]) == rows(together[1:2])


def test_groups_and_large_problems_go_to_the_plain_form_and_the_record_says_so(monkeypatch):
    fused = TabuSearch(**SHORT, engine="triton")
    rng = np.random.default_rng(0)
    grouped = BlockProblem(rng.normal(size=(12, 12)), None, 2, groups=np.arange(12) // 4)
    assert fused.solve(grouped, seed=0).info["engine"] == "torch"
    monkeypatch.setattr(tabu_triton, "LARGEST", 16)
    answers = fused.solve_many([block(16, 0), block(17, 0)], seed=0)
    assert [a.info["engine"] for a in answers] == ["triton", "torch"]


def test_a_kernel_that_does_not_compile_names_the_way_without(monkeypatch):
    def without_a_compiler(n: int, device: str) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(tabu_triton, "make_ready", without_a_compiler)
    with pytest.raises(UnavailableError, match=r"for n = 19: Failed to find C compiler; engine='torch' does the same"):
        TabuSearch(**SHORT, engine="triton").solve(block(19, 0), seed=0)


def test_low_rank_problems_are_made_dense():
    rng = np.random.default_rng(0)
    problem = BlockProblem.low_rank(rng.normal(size=(18, 3)), rng.normal(size=18), 7)
    fused, plain = (TabuSearch(**SHORT, engine=engine).solve(problem, seed=1) for engine in ("triton", "torch"))
    assert fused.info["engine"] == "triton"
    assert rows([fused]) == rows([plain])
    assert fused.first.energy == problem.energy(fused.record.sample[0])


# The torch form passes the whole kit in test_tabu_torch.py and gives the same answers; these would take a minute here.
TOLD_ALREADY = ("answers with", "reports", "starts from", "finds the optimum", "finds it whatever", "repeats itself")


@pytest.mark.parametrize(
    "check", [check for check in conformance_checks() if not str(check).startswith(TOLD_ALREADY)], ids=str
)
def test_the_engine_keeps_the_contract(check):
    reason = check(lambda: get_solver("tabu?engine=triton&population=2&offspring=4&iterations=3"))
    if reason is not None:
        pytest.skip(reason)
