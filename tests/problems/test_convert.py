from __future__ import annotations

import itertools

import dimod
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import BlockProblem, ProblemError

some = settings(max_examples=60, deadline=None, derandomize=True)
problems = st.from_type(BlockProblem)
penalties = st.sampled_from([None, 0.0, 2.5, "sufficient", "measured"])


def every_state(n: int) -> np.ndarray:
    return np.array(list(itertools.product((0, 1), repeat=n)), np.int8)


def tolerance(problem: BlockProblem, strength: float = 0.0) -> float:
    return 1e-12 * (1.0 + float(np.abs(problem.energy(every_state(problem.n))).max()) + strength * problem.n**2)


def violation(problem: BlockProblem, X: np.ndarray) -> np.ndarray:
    return ((problem.constraint.counted(X) - problem.constraint.counts) ** 2).sum(axis=1)


def same(one: BlockProblem, other: BlockProblem) -> bool:
    """Whether two dense problems have the same numbers to the bit."""
    return (
        np.array_equal(one.form.matrix, other.form.matrix)
        and np.array_equal(one.linear, other.linear)
        and one.offset == other.offset
        and np.array_equal(one.constraint.counts, other.constraint.counts)
        and np.array_equal(one.constraint.groups, other.constraint.groups)
    )


# Energies agree


@some
@given(problems, penalties)
def test_the_energy_of_the_bqm_is_the_energy_plus_the_penalty(
    problem: BlockProblem, penalty: float | str | None
) -> None:
    X = every_state(problem.n)
    bqm = problem.to_bqm(penalty)
    strength = penalty
    if isinstance(penalty, str):
        from problems.penalty import penalty as found

        strength = found(problem, penalty)
    expected = problem.energy(X) + (strength or 0.0) * violation(problem, X)
    assert list(bqm.variables) == list(range(problem.n))
    assert bqm.vartype is dimod.BINARY
    assert np.allclose(bqm.energies(X), expected, rtol=0, atol=tolerance(problem, strength or 0.0))


@some
@given(problems, penalties)
def test_the_ising_energy_is_that_of_the_bqm(problem: BlockProblem, penalty: float | str | None) -> None:
    X = every_state(problem.n)
    bqm = problem.to_bqm(penalty)
    h, J, offset = problem.to_ising(penalty)
    assert list(h) == list(range(problem.n))
    assert all(i < j and value != 0.0 for (i, j), value in J.items())
    assert all(type(value) is float for value in [*h.values(), *J.values(), offset])
    ising = dimod.BinaryQuadraticModel.from_ising(h, J, offset)
    largest = max(abs(b) for b in [*bqm.linear.values(), *bqm.quadratic.values(), bqm.offset, 1.0])
    assert np.allclose(ising.energies(2 * X - 1), bqm.energies(X), rtol=0, atol=1e-12 * largest * problem.n**2)


@some
@given(problems)
def test_the_cqm_has_the_objective_and_the_feasible_states(problem: BlockProblem) -> None:
    cqm = problem.to_cqm()
    assert list(cqm.variables) == list(range(problem.n))
    X = every_state(problem.n)
    assert np.allclose(
        cqm.objective.energies((X, range(problem.n))), problem.energy(X), rtol=0, atol=tolerance(problem)
    )
    for x in X[:: max(1, len(X) // 32)]:
        assert cqm.check_feasible(dict(enumerate(x.tolist()))) == problem.is_feasible(x)


def test_each_group_gives_one_equality() -> None:
    problem = BlockProblem(np.ones((5, 5)), None, [1, 2], groups=[0, 1, 0, 1, 1])
    cqm = problem.to_cqm()
    assert list(cqm.constraints) == ["cardinality_0", "cardinality_1"]
    assert [(sorted(c.lhs.variables), c.rhs) for c in cqm.constraints.values()] == [([0, 2], 1), ([1, 3, 4], 2)]
    assert list(BlockProblem(np.ones((3, 3)), None, 1).to_cqm().constraints) == ["cardinality"]


# Round trips


@some
@given(problems)
def test_a_bqm_converts_back_to_the_bit(problem: BlockProblem) -> None:
    dense = problem.to_dense()
    assert same(BlockProblem.from_bqm(dense.to_bqm(), problem.cardinality, problem.groups), dense)


@some
@given(problems)
def test_a_cqm_converts_back_to_the_bit(problem: BlockProblem) -> None:
    dense = problem.to_dense()
    back = BlockProblem.from_cqm(dense.to_cqm())
    if problem.groups is None:
        assert same(back, dense)
        return
    # Groups without variables have no equality, so the others are renumbered in order.
    used = np.flatnonzero(problem.constraint.sizes)
    renumbered = np.searchsorted(used, problem.groups)
    counts = problem.constraint.counts[used]
    again = BlockProblem(dense.form.matrix, dense.linear, counts, offset=dense.offset, groups=renumbered)
    assert same(back, again)


def test_extreme_coefficients_convert_back_to_the_bit() -> None:
    Q = [[0.0, 8e307, 5e-324], [8e307, 0.0, -1e-310], [5e-324, -1e-310, 0.0]]
    problem = BlockProblem(Q, [1e-320, -1e308, 0.1], 1)
    assert same(BlockProblem.from_bqm(problem.to_bqm(), 1), problem)


def test_float32_coefficients_convert_back_to_the_bit(rng: np.random.Generator) -> None:
    problem = BlockProblem(rng.standard_normal((6, 6)).astype(np.float32), None, 2)
    assert np.array_equal(BlockProblem.from_bqm(problem.to_bqm(), 2).form.matrix, problem.form.matrix)


def test_zero_couplings_are_no_interactions() -> None:
    bqm = BlockProblem([[0, 1, 0], [0, 0, 0], [0, 0, 0]], None, 1).to_bqm()
    assert bqm.num_interactions == 1
    assert bqm.num_variables == 3


@some
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_in_spin_models_plus_one_is_one(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    h = dict(enumerate(rng.standard_normal(n)))
    J = {pair: float(rng.standard_normal()) for pair in itertools.combinations(range(n), 2)}
    bqm = dimod.BinaryQuadraticModel.from_ising(h, J, 0.5)
    X = every_state(n)
    assert np.allclose(BlockProblem.from_bqm(bqm, 1).energy(X), bqm.energies(2 * X - 1), rtol=1e-12, atol=1e-12)


def test_other_labels_are_numbered_in_the_order_of_the_model() -> None:
    bqm = dimod.BinaryQuadraticModel({"z": 1.0, ("a", 3): 2.0, "m": 3.0}, {("z", "m"): 8.0}, 0.0, "BINARY")
    problem = BlockProblem.from_bqm(bqm, 1)
    order = list(bqm.variables)
    assert problem.linear.tolist() == [bqm.linear[v] for v in order]
    assert problem.form.matrix[order.index("z"), order.index("m")] == 4.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64, object])
def test_models_of_every_dtype_are_converted(dtype: type) -> None:
    bqm = dimod.BinaryQuadraticModel({0: 1.5, 1: 0.0}, {(0, 1): -0.5}, 2.0, "BINARY", dtype=dtype)
    problem = BlockProblem.from_bqm(bqm, 1)
    assert problem.energy([[1, 0], [1, 1]]).tolist() == [3.5, 3.0]


# Errors


@pytest.mark.parametrize("penalty", [-1.0, np.nan, np.inf, "large", [1.0, 2.0], object()])
def test_an_invalid_penalty_is_refused(penalty: object) -> None:
    problem = BlockProblem(np.ones((3, 3)), None, 1)
    with pytest.raises(ProblemError, match=r"penalty .*sufficient"):
        problem.to_bqm(penalty)


def test_coefficients_that_overflow_when_doubled_are_refused() -> None:
    with pytest.raises(ProblemError, match="double"):
        BlockProblem([[0.0, 1.7e308], [1.7e308, 0.0]], None, 1).to_bqm()


def test_a_bqm_with_a_bias_that_is_not_finite_is_refused() -> None:
    bqm = dimod.BinaryQuadraticModel({0: np.nan}, {(0, 1): 1.0}, 0.0, "BINARY")
    with pytest.raises(ProblemError, match=r"linear\[0\] is nan"):
        BlockProblem.from_bqm(bqm, 1)


def cqm_with(*constraints: tuple[object, str], vartype: str = "BINARY") -> dimod.ConstrainedQuadraticModel:
    cqm = dimod.ConstrainedQuadraticModel()
    cqm.add_variables(vartype, ["a", "b", "c"])
    cqm.set_objective(dimod.QuadraticModel({"a": 1.0}, {}, 0.0, {"a": vartype}))
    for build, label in constraints:
        build(cqm, label)
    return cqm


def equality(terms: list, rhs: float = 1, sense: str = "==", **options: object) -> object:
    return lambda cqm, label: cqm.add_constraint_from_iterable(terms, sense, rhs=rhs, label=label, **options)


all_three = [("a", 1), ("b", 1), ("c", 1)]


@pytest.mark.parametrize(
    ("cqm", "message"),
    [
        (lambda: cqm_with((equality(all_three, sense="<="), "most")), "'most' is an inequality"),
        (lambda: cqm_with((equality([("a", 1), ("b", 2), ("c", 1)]), "w")), "'w'.*'b' is 2.0"),
        (lambda: cqm_with((equality(all_three, rhs=1.5), "half")), "'half' demands 1.5"),
        (lambda: cqm_with((equality(all_three, rhs=4), "four")), "'four' demands 4.0 ones of 3"),
        (lambda: cqm_with((equality(all_three, rhs=-1), "minus")), "'minus' demands -1.0"),
        (lambda: cqm_with((equality([("a", "b", 1), ("c", 1)]), "pair")), "'pair' is quadratic"),
        (lambda: cqm_with((equality(all_three, weight=3.0), "soft")), "'soft' is soft"),
        (lambda: cqm_with((equality(all_three[:2]), "ab")), "'c' is in no constraint"),
        (lambda: cqm_with((equality(all_three[:2]), "ab"), (equality(all_three[1:]), "bc")), "'bc'.*'b'.*another"),
        (lambda: cqm_with(), "no constraint"),
        (lambda: cqm_with((equality(all_three), "k"), vartype="INTEGER"), "'a' is INTEGER"),
        (lambda: cqm_with((equality(all_three), "k"), vartype="SPIN"), "'a' is SPIN"),
    ],
)  # fmt: skip
def test_a_cqm_with_other_constraints_is_refused_by_name(cqm: object, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        BlockProblem.from_cqm(cqm())


def test_labels_and_constants_of_a_cqm_are_converted() -> None:
    cqm = dimod.ConstrainedQuadraticModel()
    a, b, c, d = dimod.Binaries(["a", "b", "c", "d"])
    cqm.set_objective(2 * a * d - b + 7)
    cqm.add_constraint(a + c - 1 == 0, label="left")
    cqm.add_discrete(["b", "d"], label="right")
    problem = BlockProblem.from_cqm(cqm)
    order = list(cqm.variables)
    x = np.array([{"a": 1, "b": 0, "c": 0, "d": 1}[v] for v in order])
    assert problem.energy(x) == 9.0
    assert problem.cardinality.tolist() == [1, 1]
    assert problem.is_feasible(x)
