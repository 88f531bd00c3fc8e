"""The problems of a comparison: valid names, current masks, descents."""

from __future__ import annotations

import os

import numpy as np
import pytest

import problems
from problems import BlockProblem, ProblemError, instances
from solvers import OptionError
from solvers.comparison.facts import Facts
from solvers.comparison.inputs import Given, current_mask, gathered

BLOCK = instances.random(10, 4, 1)


@pytest.mark.parametrize("name", ["a\nb", "a\x00", "a\udcff"])
def test_names_with_control_characters_or_invalid_utf_8_are_refused(name):
    with pytest.raises(ProblemError, match=r"cannot be a problem's name.*rename the problem"):
        gathered({name: BLOCK})


def test_a_file_name_with_invalid_utf_8_is_refused(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff")
    try:
        problems.save(BLOCK, path)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    with pytest.raises(ProblemError, match=r"'a\\udcff' cannot be a problem's name"):
        gathered(tmp_path)


def test_an_exported_instance_keeps_its_descents_and_an_altered_one_does_not(tmp_path):
    name = "mlpnet-picked-n16-k8"
    problems.save_set({name: instances.load(name)}, tmp_path / "set")
    (given,) = gathered(tmp_path / "set")
    found = Facts.of(name, given.origin, given.load(), given.descent)
    known = instances.facts(name).descent
    assert (found.tries, found.found, found.descents) == (known.tries, known.found, ())
    problem = instances.load(name)
    altered = BlockProblem(problem.form.dense(), problem.linear + 1e-3, 8, provenance=problem.provenance)
    assert Facts.of(name, "memory", altered).descents


def test_the_mask_of_an_exported_block_marks_the_pruned_weights():
    block = BlockProblem(BLOCK.form.dense(), BLOCK.linear, 4, provenance={"pruned_now": 3})
    given = Given("b", "here", lambda: block)
    assert current_mask(given, block).tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    own = Given("b", "here", lambda: block, mask=lambda: np.ones(10, np.int8))
    assert current_mask(own, block).sum() == 10
    for wrong in ({}, {"pruned_now": 11}, {"pruned_now": "3"}, {"pruned_now": True}):
        other = BlockProblem(BLOCK.form.dense(), BLOCK.linear, 4, provenance=wrong)
        with pytest.raises(OptionError, match="no current mask on record"):
            current_mask(given, other)


def test_a_comparison_without_problems_is_refused():
    with pytest.raises(OptionError, match="no block problem was given"):
        gathered([])
