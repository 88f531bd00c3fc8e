"""Invalid arguments of compare are refused before the first solve."""

from __future__ import annotations

import pytest
from races import SMALL, race

import solvers
from solvers import OptionError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backends": []}, "no backend is given"),
        ({"backends": "taboo"}, "no backend 'taboo'; did you mean 'tabu'"),
        ({"backends": ["sa", "sa"]}, "'sa' is given twice"),
        ({"backends": "sa?sweep=3"}, "no option 'sweep'"),
        ({"given": []}, "no block problem was given"),
        ({"given": {"a": 5}}, "a is of type int"),
        ({"given": [5]}, "5 is not a block problem"),
        ({"time_limits": 0}, "time limit 0 must be"),
        ({"time_limits": [0.1, -1.0]}, "time limit -1.0 must be"),
        ({"time_limits": []}, "no time limit"),
        ({"time_limits": [0.1, 0.1]}, "contain a value twice"),
        ({"seeds": 0}, "seeds 0 must be"),
        ({"first_seed": -1}, "first_seed -1 must be"),
        ({"first_seed": 2**63 - 1}, "too large for 2 seeds"),
        ({"threads": 0}, "threads 0 must be"),
        ({"threads": 100_000}, "threads 100000 are more than the [0-9]+ processors"),
        ({"seeds": 100_000_000}, "seeds 100000000 must be at most 100000"),
        ({"start": "warm"}, "start 'warm' must be one of cold, mask"),
        ({"dispatch": "cluster"}, "no dispatch 'cluster'"),
        ({"max_calls": -1}, "max_calls -1 must be"),
        ({"max_charge": -0.5}, "max_charge -0.5 must be"),
        ({"backends": "leap"}, "leap"),
        ({"backends": "auto"}, "backend 'auto' is for prune"),
    ],
)
def test_invalid_arguments_are_refused_before_the_first_solve(settings, message, monkeypatch, tmp_path):
    monkeypatch.setenv("DWAVE_API_TOKEN", "none")
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(tmp_path / "none.conf"))
    (tmp_path / "none.conf").touch()
    with pytest.raises(OptionError, match=message):
        race(**settings)


def test_a_class_of_the_main_module_is_refused(odd):
    local = type("Local", (odd.Guess,), {"__module__": "__main__"})
    with pytest.raises(OptionError, match="cannot be imported by the worker process"):
        race({"a": SMALL["a"]}, [local()])
    with pytest.raises(OptionError, match="cannot be sent to a worker process"):
        race({"a": SMALL["a"]}, [solvers.Decompose("exact", size=4)])


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "report.html").write_text("another's")
    with pytest.raises(OptionError, match=r"holds report\.html but no comparison; use a new folder"):
        race(backends="exact", seeds=1, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
