"""The page of a race in a real browser: it shows, sorts, filters, fits a narrow screen and loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from browser import Browser
from typer.testing import CliRunner

import problems
from hybrid_icbs.cli.app import app
from problems import instances
from solvers.comparison.page import render

pytestmark = pytest.mark.skipif(browser.found() is None, reason="no Chromium here; apt install chromium")

BACKENDS = "sa?restarts=1&sweeps=3,exact,qaoa?reps=1&shots=20&iterations=2"

NAME = "<b>a & \"b\" 'c'</b>"
"""Of a problem: what is shown must be text, whatever it looks like."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A race by the command, on problems of which some are easy and some are not."""
    base = tmp_path_factory.mktemp("race")
    blocks = {f"hard{i}": instances.random(60, 30, i) for i in (1, 2)}
    blocks["easy"] = instances.planted(8, 4, 1, rank=3)
    blocks["tiny-with-quite-a-long-name-as-blocks-of-layers-have-0001"] = instances.random(9, 4, 3)
    problems.save_set(blocks, base / "blocks")
    done = CliRunner().invoke(
        app,
        ["compare", str(base / "blocks"), "--backends", BACKENDS,
         "--time-limit", "0.01,0.05", "--seeds", "3", "--out", str(base / "out"), "--quiet"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return base / "out"


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


VALUES = "[...document.querySelectorAll('#results tbody tr')].map(row => row.cells[6].dataset.value)"
CHANGE = "(() => {{ const e = document.getElementById('{}'); e.{} = {}; e.dispatchEvent(new Event('input')) }})()"
COLUMN = "[...document.querySelectorAll('#results tbody tr:not([hidden])')].map(row => row.cells[{}].textContent)"


def column(window, at):
    return window.run(COLUMN.format(at))


def click(window, head):
    window.run(f"[...document.querySelectorAll('#results th button')].find(b => b.textContent === '{head}').click()")


def test_everything_is_there_and_nothing_complains(folder, window):
    window.open(folder / "report.html")
    assert window.run("document.title").startswith("3 solvers on 4 block problems")
    heads = window.run("[...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert heads == [
        "Leaderboard", "Curves", "Pair by pair", "Results", "Samples before and after repair", "Problems",
        "Solvers", "Protocol",
    ]  # fmt: skip
    assert window.run("document.querySelectorAll('#results tbody tr').length") == 4 * 3 * 2
    assert window.run("document.querySelectorAll('figure svg').length") >= 3 + 3  # curves, all targets but one hidden
    paths = window.run("[...document.querySelectorAll('svg .line')].map(line => line.getAttribute('d'))")
    assert paths
    assert all(path.startswith("M") and "nan" not in path and "inf" not in path for path in paths)
    text = window.run("document.body.innerText")
    for expected in (
        "leads:",
        "noise",
        "easy",
        "proven",
        "density of Q",
        "cold: each solver finds its own first state",
    ):
        assert expected in text or expected in window.run("document.body.textContent"), expected
    assert window.complaints == []


def test_the_table_sorts_by_number_and_by_word_both_ways(folder, window):
    window.open(folder / "report.html")
    click(window, "best energy")
    values = [float(value or "inf") for value in window.run(VALUES)]
    assert values == sorted(values)
    assert len(set(values)) > 2
    click(window, "best energy")
    falling = [float(value or "-inf") for value in window.run(VALUES)]
    assert falling == sorted(falling, reverse=True)
    assert window.run("document.querySelector('#results th[aria-sort]').getAttribute('aria-sort')") == "descending"
    click(window, "problem")
    assert column(window, 0) == sorted(column(window, 0))
    assert window.complaints == []


def test_the_table_filters_by_words_solver_and_difficulty(folder, window):
    window.open(folder / "report.html")
    window.run(CHANGE.format("filter", "value", "'HARD1 exact'"))
    assert set(column(window, 0)) == {"hard1"}
    assert set(column(window, 1)) == {"exact"}
    assert window.run("document.getElementById('shown').textContent") == "2 of 24 rows"
    window.run(CHANGE.format("filter", "value", "''"))
    window.run(CHANGE.format("backend", "value", "'exact'"))
    assert set(column(window, 1)) == {"exact"}
    assert len(column(window, 1)) == 8
    window.run(CHANGE.format("hard", "checked", "true"))
    assert "easy" not in column(window, 0)
    assert set(column(window, 0)) <= {"hard1", "hard2", "tiny-with-quite-a-long-name-as-blocks-of-layers-have-0001"}
    assert window.complaints == []


def test_the_target_of_the_curves_can_be_chosen(folder, window):
    window.open(folder / "report.html")
    shown = "[...document.querySelectorAll('[data-target]')].filter(d => !d.hidden).map(d => d.dataset.target)"
    assert window.run(shown) == ["0"]
    window.run(CHANGE.format("target", "value", "'0.01'"))
    assert window.run(shown) == ["0.01"]


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_any_screen_in_light_and_dark(folder, window, width, dark):
    window.open(folder / "report.html", width, dark=dark)
    window.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert window.run("document.documentElement.scrollWidth") <= width
    # What is wider than the screen scrolls by itself.
    wide = window.run("[...document.querySelectorAll('.wide')].map(e => [e.clientWidth, e.scrollWidth])")
    assert all(client <= width for client, _ in wide)
    if width == 360:
        assert any(scroll > client for client, scroll in wide)
    paper, ink = window.run(
        "(() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color] })()"
    )
    shades = [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]
    assert (shades[0] < shades[1]) == dark
    assert abs(shades[0] - shades[1]) > 400
    assert window.complaints == []


def test_names_are_shown_as_they_are(tmp_path, window):
    import solvers

    done = solvers.compare({NAME: instances.random(9, 4, 3)}, "exact", time_limits=None, seeds=1)
    (tmp_path / "page.html").write_text(render(done), "utf-8")
    window.open(tmp_path / "page.html")
    assert column(window, 0) == [NAME]
    assert window.complaints == []


def test_without_scripts_everything_can_still_be_read(folder):
    text = (folder / "report.html").read_text("utf-8")
    before_script = text.partition("<script>")[0]
    assert before_script.count("<tr") > 24
    assert "http://" not in text
    assert "https://" not in text
    assert 'src="' not in text
