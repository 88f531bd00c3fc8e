"""Figures of a comparison: gaps, proofs, easy problems, the leaderboard, and infeasible answers."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest

from problems import BestKnown, BlockProblem, instances
from solvers.comparison import curves, measures
from solvers.comparison.facts import Facts
from solvers.comparison.results import Row


def every_state(problem):
    states = np.array(list(itertools.product((0, 1), repeat=problem.n)), np.int8)
    return states[problem.is_feasible(states)]


def facts(best=None, *, random_mean=10.0, tries=0, descents=(), found=None, name="p"):
    return Facts(
        name, "memory", 8, 4, 1, "dense", None, 1.0, "x", random_mean, 1e-12, 10, -1.0, 1.0, False, best, tries,
        tuple(descents), found,
    )  # fmt: skip


def row(energy, hit=0.1, *, problem="p", backend="a", limit=1.0, seed=0, status="ok", **others):
    pairs = () if energy is None else ((hit / 2, energy + 5.0), (hit, energy))
    return Row(problem, backend, limit, seed, status, energy, 1.0, incumbents=pairs, **others)


@pytest.mark.parametrize(
    ("cardinality", "groups"), [(3, None), ([1, 2, 0], [0, 0, 0, 1, 1, 1, 2, 2]), ([2, 2], [0, 1] * 4)]
)
def test_gap_1_is_the_exact_mean_over_all_feasible_states(cardinality, groups):
    for problem in (
        instances.random(8, cardinality, 1, groups=groups),
        instances.random(8, cardinality, 2, rank=3, groups=groups),
    ):
        states = every_state(problem)
        found = Facts.of("p", "memory", problem)
        assert found.random_mean == pytest.approx(float(np.mean(problem.energy(states))), rel=1e-12)
        best = float(np.min(problem.energy(states)))
        assert found.gap(best, best) == 0.0
        assert np.mean([found.gap(float(e), best) for e in problem.energy(states)]) == pytest.approx(1.0)


def test_gaps_do_not_depend_on_offset_and_scale():
    rng = np.random.default_rng(0)
    Q, c = rng.standard_normal((6, 6)), rng.standard_normal(6)
    one, other = BlockProblem(Q, c, 3), BlockProblem(7 * Q, 7 * c, 3, offset=1000.0)
    states = every_state(one)
    gaps = []
    for problem in (one, other):
        energies = problem.energy(states)
        found = Facts.of("p", "memory", problem)
        gaps.append([found.gap(float(energy), float(energies.min())) for energy in energies])
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-9)


def test_facts_hold_the_form_and_the_descents():
    dense, factor = instances.random(20, 10, 1), instances.random(20, 10, 1, rank=4)
    assert (Facts.of("p", "m", dense).form, Facts.of("p", "m", dense).rank) == ("dense", None)
    found = Facts.of("p", "m", factor)
    assert (found.form, found.rank, found.density, found.tries) == ("low-rank", 4, 1.0, 100)
    assert found == Facts.of("p", "m", factor)  # from a seed
    assert min(found.descents) >= min(factor.energy(every_state(factor))) - 1e-9
    sparse = np.zeros((10, 10))
    sparse[0, 1] = sparse[2, 3] = 1.0
    assert Facts.of("p", "m", BlockProblem(sparse, cardinality=2)).density == pytest.approx(4 / 90)


def test_a_problem_is_easy_where_most_descents_end_in_the_best_energy():
    assert facts(tries=4, descents=[0.0, 0.0, 0.0, 1.0]).easy(0.0)
    assert not facts(tries=4, descents=[0.0, 0.0, 1.0, 1.0]).easy(0.0)
    assert not facts().easy(0.0)
    assert facts().descent_rate(0.0) is None
    recorded = facts(BestKnown(0.0), tries=100, found=90)
    assert recorded.easy(0.0)
    assert not recorded.easy(-1.0)  # the record's best was beaten, so those descents did not find the best


def test_a_lower_energy_replaces_the_recorded_best():
    record = BestKnown(-1.0, False, "someone")
    assert measures.standing(facts(record), [row(-0.5)]).best == record
    beaten = measures.standing(facts(record), [row(-0.5), row(-2.0, backend="b", seed=1)]).best
    assert (beaten.energy, beaten.proven, beaten.found_by) == (-2.0, False, "b, in this comparison")
    assert measures.standing(facts(record), [row(-1.0 - 1e-13)]).best == record  # rounding is no improvement


def test_the_best_known_energy_is_never_above_what_plain_descent_found():
    found = measures.standing(facts(tries=2, descents=[-3.0, -1.0]), [row(-2.0)])
    assert (found.best, found.easy) == (BestKnown(-3.0, False, "plain descent"), False)
    assert found.gap(-2.0) > 0.0
    assert (
        measures.standing(facts(tries=1, descents=[-2.0 - 1e-13]), [row(-2.0)]).best.found_by == "a, in this comparison"
    )
    below = measures.standing(facts(BestKnown(-1.0, True, "someone"), tries=1, descents=[-3.0]), [row(-1.0)])
    assert below.contradicted.startswith("plain descent found an energy below the proven optimum on record, -1")


def test_a_problem_on_which_every_solver_failed_is_not_easy():
    failed = [row(None, status="failed"), row(None, seed=1, status="infeasible")]
    assert not measures.standing(facts(tries=2, descents=[-1.0, -1.0]), failed).easy
    assert not measures.standing(facts(BestKnown(0.0), tries=2, found=2), failed).easy
    assert measures.standing(facts(tries=2, descents=[-1.0, -1.0]), [row(-1.0)]).easy


def test_a_newer_record_replaces_the_stored_one():
    old, new = BestKnown(0.0, False, "me"), BestKnown(-1.0, False, "you")
    held = facts(old, tries=2, found=2)
    assert held.renewed(None) is held
    assert held.renewed(BestKnown(1.0, True, "you")) is held
    assert facts().renewed(new).best_known == new
    lower = held.renewed(new)
    assert (lower.best_known, lower.descent_rate(-1.0)) == (new, 0.0)
    assert lower.renewed(old) is lower
    proof = BestKnown(1e-13, True, "you")
    assert (held.renewed(proof).best_known, held.renewed(proof).descent_rate(0.0)) == (proof, 1.0)


def test_a_lower_bound_of_a_solver_proves_the_optimum():
    best = measures.standing(facts(), [row(-2.0), row(-2.0, backend="exact", lower_bound=-2.0)]).best
    assert (best.energy, best.proven) == (-2.0, True)
    assert "proven by exact" in best.found_by
    assert not measures.standing(facts(), [row(-2.0, lower_bound=-3.0)]).best.proven


def test_contradicted_proofs_are_reported():
    below = measures.standing(facts(BestKnown(-1.0, True, "someone")), [row(-2.0)])
    assert "below the proven optimum on record" in below.contradicted
    assert not below.best.proven
    claimed = measures.standing(facts(), [row(-2.0), row(-1.0, backend="b", lower_bound=-1.0)])
    assert "b reports a lower bound of" in claimed.contradicted


def test_infeasible_and_failed_runs_are_counted_and_never_scored():
    rows = [row(-1.0), row(None, seed=1, status="infeasible"), row(None, seed=2, status="failed")]
    found = measures.figures(measures.standing(facts(), rows), rows)
    assert (found.runs, found.feasible, found.successful, found.failed) == (3, 1, 1, 1)
    assert (found.best, found.median, found.best_gap) == (-1.0, None, 0.0)
    assert found.hits == (0.1, math.inf, math.inf)
    mostly = measures.figures(measures.standing(facts(), rows[:1]), [*rows, row(0.0, seed=3), row(2.0, seed=4)])
    assert mostly.median == 2.0  # the third of five, of which two are infeasible
    nothing = measures.figures(measures.standing(facts(), rows[1:]), rows[1:])
    assert (nothing.best, nothing.median_gap, nothing.time.value) == (None, None, math.inf)


def test_the_time_is_that_of_the_first_state_at_the_best_energy():
    rows = [row(-1.0, hit, seed=s) for s, hit in enumerate((0.1, 0.3))]
    found = measures.figures(measures.standing(facts(BestKnown(-1.0, True, "someone")), rows), rows)
    assert found.hits == (0.1, 0.3)
    assert found.time.value == pytest.approx(0.3 * math.log(0.01) / math.log(1 - 2 / 3))
    assert found.proven
    worse = [row(-0.9, seed=0)]
    assert measures.figures(measures.standing(facts(BestKnown(-1.0)), worse), worse).hits == (math.inf,)


def race_of(energies, hits=None, problems=8):
    """Rows of backends with these energies on every problem, and the standings."""
    rows = [
        row(energy, (hits or {}).get(backend, 0.1), problem=f"p{i}", backend=backend, seed=seed)
        for i in range(problems)
        for backend, energy in energies.items()
        for seed in range(3)
    ]
    standings = {
        f"p{i}": measures.standing(facts(BestKnown(0.0), name=f"p{i}"), [r for r in rows if r.problem == f"p{i}"])
        for i in range(problems)
    }
    groups = {}
    for each in rows:
        groups.setdefault((each.problem, each.backend, each.time_limit), []).append(each)
    figures = [measures.figures(standings[key[0]], own) for key, own in groups.items()]
    return figures, standings, groups


def test_the_board_sorts_by_gap_then_time_and_flags_noise():
    figures, standings, _ = race_of({"slow": 0.0, "fast": 0.0, "worse": 1.0}, {"slow": 0.2, "fast": 0.1})
    first, second, third = measures.board(figures, standings)
    assert [first.backend, second.backend, third.backend] == ["fast", "slow", "worse"]
    assert first.quality is None
    assert second.quality.ties == 8
    assert second.quality.noise
    assert (second.speed.losses, second.speed.noise) == (8, False)
    assert (third.quality.losses, third.quality.noise) == (8, False)
    assert (third.gap, third.unreached) == (pytest.approx(0.1), 8)


def board_of(rows, problems):
    """The board of rows on problems whose best known energy is 0 and random mean 10."""
    standings = {
        name: measures.standing(facts(BestKnown(0.0), name=name), [r for r in rows if r.problem == name])
        for name in problems
    }
    groups = {}
    for each in rows:
        groups.setdefault((each.problem, each.backend, each.time_limit), []).append(each)
    figures = [measures.figures(standings[key[0]], own) for key, own in groups.items()]
    return measures.board(figures, standings)


def test_infeasible_backends_rank_below_poor_ones():
    names = [f"p{i}" for i in range(8)]
    rows = [row(12.0, problem=p, backend="bad", seed=s) for p in names for s in range(10)]  # worse than a random state
    rows += [row(None, problem=p, backend="never", status="infeasible") for p in names]
    rows += [row(0.0, problem=p, backend="fluke") for p in names]
    rows += [row(None, problem=p, backend="fluke", seed=s, status="infeasible") for p in names for s in range(1, 10)]
    bad, fluke, never = board_of(rows, names)
    assert [bad.backend, fluke.backend, never.backend] == ["bad", "fluke", "never"]
    assert (bad.unsolved, bad.gap) == (0, pytest.approx(1.2))
    assert (fluke.unsolved, fluke.gap, fluke.successful, never.worst_gap) == (8, None, 8, None)
    assert never.quality.losses == fluke.quality.losses == 8  # as the order has it
    assert not fluke.quality.noise


def test_the_board_sorts_by_problems_then_unsolved_then_gap():
    rows = [row(5.0, problem=p, backend="all") for p in ("p0", "p1")]
    rows += [row(0.0, problem="p0", backend="half"), row(None, problem="p1", backend="half", status="failed")]
    rows += [row(0.0, problem="p0", backend="few")]
    board = board_of(rows, ["p0", "p1"])
    assert [(place.backend, place.problems, place.unsolved) for place in board] == [
        ("all", 2, 0), ("half", 2, 1), ("few", 1, 0),
    ]  # fmt: skip
    assert [place.gap for place in board] == [pytest.approx(0.5), 0.0, 0.0]


def test_easy_problems_count_only_if_all_are_easy():
    figures, standings, _ = race_of({"a": 0.0, "b": 1.0}, problems=3)
    easy = {
        name: measures.Standing(facts(BestKnown(0.0), name=name, tries=2, descents=[0.0, 0.0]), held.best)
        for name, held in standings.items()
    }
    some = {**standings, "p0": easy["p0"]}
    assert measures.counting(some) == ["p1", "p2"]
    assert [place.problems for place in measures.board(figures, some)] == [2, 2]
    assert measures.counting(easy) == ["p0", "p1", "p2"]


def test_p_values_of_pairs_are_corrected_for_all_pairs():
    figures, standings, _ = race_of({"a": 0.0, "b": 1.0, "c": 2.0})
    found = measures.pairs(figures, standings)
    assert [(pair.first, pair.second) for pair in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(pair.quality.wins == 8 for pair in found)
    assert found[0].quality.p == pytest.approx(3 * 2 * 0.5**8)


def test_backends_are_compared_on_common_seeds():
    names = [f"p{i}" for i in range(8)]
    rng = random.Random(0)
    hits = {(p, s): rng.expovariate(1.0) for p in names for s in range(30)}
    rows = [row(0.0, hits[p, s], problem=p, backend="often", seed=s) for p in names for s in range(30)]
    rows += [row(0.0, hits[p, s], problem=p, backend="seldom", seed=s) for p in names for s in range(3)]
    first, second = board_of(rows, names)
    assert first.time != second.time
    for test in (second.quality, second.speed):
        assert (test.wins, test.losses, test.ties) == (0, 0, 8)  # the same runs, however many more there are
    others = [row(1.0, problem=p, backend="other", seed=s) for p in names for s in range(90, 93)]
    last = board_of([*rows, *others], names)[-1]
    assert (last.backend, last.quality.pairs, last.speed.pairs) == ("other", 0, 0)


def test_the_board_has_the_p_values_of_the_pairs():
    figures, standings, _ = race_of({"a": 0.0, "b": 1.0, "c": 2.0}, problems=6)
    pairs = {(pair.first, pair.second): pair for pair in measures.pairs(figures, standings)}
    _, second, third = measures.board(figures, standings)
    assert (second.backend, second.quality) == ("b", pairs["a", "b"].quality.reversed)
    assert (third.backend, third.quality) == ("c", pairs["a", "c"].quality.reversed)
    assert second.quality.noise  # six of six are enough for one pair, not for three


def test_backends_over_the_time_limit_rank_below_those_within():
    rows = [replace(row(0.0, problem="p0", backend="slow"), seconds=3.0), row(1.0, problem="p0", backend="quick")]
    quick, slow = board_of(rows, ["p0"])
    assert (quick.backend, quick.kept, slow.backend, slow.kept) == ("quick", True, "slow", False)


def test_backends_without_answers_rank_below_those_over_the_time_limit():
    rows = [replace(row(0.0, problem="p0", backend="slow"), seconds=3.0)]
    rows += [row(None, problem="p0", backend="broken", seed=s, status="failed") for s in range(3)]
    assert [place.backend for place in board_of(rows, ["p0"])] == ["slow", "broken"]


def test_a_time_limit_with_rows_on_easy_problems_only_has_no_board():
    rows = [row(0.0, problem=p, limit=limit) for p, limit in (("easy", 0.1), ("easy", 1.0), ("hard", 0.1))]
    standings = {
        "easy": measures.standing(facts(BestKnown(0.0), name="easy", tries=2, descents=[0.0, 0.0]), rows[:2]),
        "hard": measures.standing(facts(BestKnown(0.0), name="hard"), rows[2:]),
    }
    figures = [measures.figures(standings[each.problem], [each]) for each in rows]
    assert [place.time_limit for place in measures.board(figures, standings)] == [0.1]


def test_setup_is_the_total_of_the_comparison():
    rows = [replace(row(0.0, problem=p), setup=s) for p, s in (("p0", 4.0), ("p1", 0.5))]
    standings = {
        "p0": measures.standing(facts(BestKnown(0.0), name="p0", tries=2, descents=[0.0, 0.0]), rows[:1]),
        "p1": measures.standing(facts(BestKnown(0.0), name="p1"), rows[1:]),
    }
    figures = [measures.figures(standings[each.problem], [each]) for each in rows]
    (place,) = measures.board(figures, standings)
    assert (place.problems, place.setup) == (1, 4.5)


def test_on_one_problem_runs_are_paired_by_seed():
    first = [row(0.0, 0.1, seed=s) for s in range(6)]
    second = [row(0.0, 0.2, backend="b", seed=s) for s in range(1, 8)]
    held = measures.standing(facts(BestKnown(0.0)), [*first, *second])
    quality, speed = measures.on_one_problem(first, second, held)
    assert (quality.ties, speed.wins, speed.noise) == (5, 5, True)


def test_a_profile_shows_the_fastest_and_the_share_of_solved_problems():
    figures, _, _ = race_of({"slow": 0.0, "fast": 0.0, "never": 1.0}, {"slow": 0.3, "fast": 0.1})
    by_backend = curves.longest(figures, [f"p{i}" for i in range(8)])
    found = {curve.backend: curve for curve in curves.profiles(by_backend)}
    assert (found["fast"].x, found["fast"].y) == ((1.0,), (1.0,))
    assert (found["slow"].x[0], found["slow"].y) == (pytest.approx(3.0), (1.0,))
    assert found["never"].x == ()


def test_a_profile_accepts_times_of_zero():
    figures, _, _ = race_of({"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.1}, problems=1)
    first, second = curves.profiles(curves.longest(figures, ["p0"]))
    assert (first.x, second.x) == ((1.0,), (pytest.approx(1e8 * math.log(0.01) / math.log(1 - 3 / 4)),))


def test_curves_of_targets_and_gaps_follow_the_incumbents():
    figures, standings, groups = race_of({"a": 0.0, "b": 1.0}, {"a": 0.2, "b": 0.2}, problems=2)
    by_backend = curves.longest(figures, standings)
    exact = {c.backend: c for c in curves.reached(by_backend, groups, standings, 0.0)}
    near = {c.backend: c for c in curves.reached(by_backend, groups, standings, 0.1)}
    assert (exact["a"].x, exact["a"].y, exact["b"].x) == ((0.2,), (1.0,), ())
    assert near["b"].y == (1.0,)
    along = {c.backend: c for c in curves.gaps_along_time(by_backend, groups, standings)}
    assert (along["a"].y[0], along["a"].y[-1]) == (pytest.approx(0.5), 0.0)
    assert along["b"].y[-1] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in itertools.pairwise(along["a"].y))
