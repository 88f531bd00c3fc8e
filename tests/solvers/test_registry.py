"""Backends are found by name, ours and other people's, and options are read as what they are."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from problems import BlockProblem
from solvers import OptionError, Solver, available, backends, get_solver, solve
from solvers.exact import Exact
from solvers.registry import BUILT_IN, ENTRY_POINTS, parse, solver_class

PROBLEM = BlockProblem(np.arange(16.0).reshape(4, 4), cardinality=2)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_backend_of_ours_is_a_solver_of_that_name(name):
    cls = solver_class(name)
    assert issubclass(cls, Solver)
    assert cls.name == name
    assert name in backends()
    assert bool(available(name)) in (True, False)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("tabu", ("tabu", {})),
        (" sa?restarts=8 ", ("sa", {"restarts": "8"})),
        ("a?b=1&c=x=y&d=", ("a", {"b": "1", "c": "x=y", "d": ""})),
        ("dimod:package.Sampler?n=1", ("dimod:package.Sampler", {"n": "1"})),
    ],
)
def test_text_is_taken_apart(text, parsed):
    assert parse(text) == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exact?max_nodes", "'max_nodes' must be key=value"),
        ("exact?=3", "'=3' must be key=value"),
        ("exact?max_nodes=1&max_nodes=2", "gives 'max_nodes' twice"),
        ("exakt", "no backend 'exakt'; did you mean 'exact'"),
        ("zzzz", "no backend 'zzzz'. Known: .*exact"),
        ("ocean-tabo", "did you mean 'ocean-tabu'"),
        ("exact?max_node=1", "exact has no option 'max_node'; did you mean 'max_nodes'"),
        ("exact?max_nodes=1.5", "max_nodes='1.5' must be int"),
        ("exact?name=x", "no option 'name'"),
    ],
)
def test_text_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(OptionError, match=message):
        get_solver(text)


def test_text_becomes_the_types_that_settings_have():
    tabu = get_solver("ocean-tabu?num_restarts=3&tenure=none&penalty=0.5&polish=False")
    assert (tabu.num_restarts, tabu.tenure, tabu.penalty, tabu.polish) == (3, None, 0.5, False)
    assert get_solver("ocean-tabu?penalty=sufficient&tenure=4").tenure == 4
    assert get_solver("exact?method=branch").method == "branch"


def test_options_stand_over_those_in_the_text():
    assert get_solver("exact?max_nodes=5", max_nodes=7) == Exact(max_nodes=7)


def test_a_solver_is_its_own_name():
    solver = Exact(max_nodes=3)
    assert get_solver(solver) is solver
    with pytest.raises(OptionError, match=r"options \['max_nodes'\] were given with a solver"):
        get_solver(solver, max_nodes=4)
    with pytest.raises(OptionError, match="backend 3 must be a name"):
        get_solver(3)


def test_solve_hands_everything_on():
    answer = solve(PROBLEM, "exact", seed=5, target=1e9, max_nodes=9)
    assert answer.info["seed"] == 5
    assert answer.info["ended_by"] == "target"


def test_a_backend_that_nobody_knows_is_not_available_but_an_error():
    with pytest.raises(OptionError, match="no backend"):
        available("nobody")


THIRD_PARTY = """
    from dataclasses import dataclass
    from typing import ClassVar
    from solvers import Estimate, Outcome, Solver

    @dataclass(frozen=True)
    class Coin(Solver):
        "A random state."
        throws: int = 1
        name: ClassVar[str] = "coin"

        def estimate(self, problem):
            return Estimate(1e-6)

        def _search(self, problem, run):
            return Outcome(problem.random_states(self.throws, run.generator()))

    def not_a_class():
        pass
"""


@pytest.fixture
def installed(tmp_path):
    """A folder with somebody's distribution that names a solver, and two that are broken."""
    (tmp_path / "coin_solver.py").write_text(textwrap.dedent(THIRD_PARTY))
    info = tmp_path / "coin_solver-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: coin-solver\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{ENTRY_POINTS}]\ncoin = coin_solver:Coin\nlost = no_such_module:Solver\nodd = coin_solver:not_a_class\n"
    )
    return tmp_path


def in_child(program, path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


def test_an_installed_solver_of_somebody_else_is_a_backend(installed):
    out = in_child(
        """
        from problems import BlockProblem
        from solvers import OptionError, available, backends, get_solver, solve
        print("coin" in backends(), bool(available("coin")))
        answer = solve(BlockProblem([[0, 1], [0, 0]], cardinality=1), "coin?throws=3", seed=1)
        print(answer.info["backend"], len(answer) in (1, 2))
        for name in ("lost", "odd", "coyn"):
            try:
                get_solver(name)
            except OptionError as error:
                print(error)
        """,
        installed,
    )
    assert out[:2] == ["True True", "coin True"]
    assert "backend 'lost' (no_such_module:Solver) does not load: No module named 'no_such_module'" in out[2]
    assert "backend 'odd' (coin_solver:not_a_class) is not a subclass of solvers.Solver" in out[3]
    assert "did you mean 'coin'" in out[4]


def test_somebody_elses_solver_does_not_hide_ours(monkeypatch):
    point = importlib.metadata.EntryPoint("exact", "elsewhere:Exact", ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == ENTRY_POINTS else [])
    assert solver_class("exact") is Exact
    assert backends().count("exact") == 1


def test_importing_solvers_loads_no_toolkit(tmp_path):
    out = in_child(
        """
        import sys
        import solvers
        import solvers.testing
        heavy = ("numba", "torch", "scipy", "qiskit", "dwave.samplers", "dwave.system", "transformers", "matplotlib")
        print([name for name in heavy if name in sys.modules])
        """,
        tmp_path,
    )
    assert out[0] == "[]"
