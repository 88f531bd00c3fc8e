"""The report: true, self-contained, readable by everyone, and the same from a result as from a folder."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from torch import nn

import solvers
from hybrid_icbs import Config, Pruner, RunFolderError, prune
from hybrid_icbs.report import plots
from hybrid_icbs.report.page import page, render, write_report
from hybrid_icbs.report.record import LayerRecord, RunRecord

VOID = {"meta", "br", "path", "use", "rect", "image", "line"}


class Page(HTMLParser):
    """A page taken apart; complains of tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.ids = [], [], [], Counter()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids.update(value for key, value in attrs if key == "id")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids.update(value for key, value in attrs if key == "id")

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    from hybrid_icbs.digits import digits_classifier, load_digits

    out = tmp_path_factory.mktemp("report") / "a run"
    return prune(
        digits_classifier(epochs=5), load_digits(), density=0.05, backend="sa?restarts=1&sweeps=20", steps=6,
        round_size=2, block_size=256, out=out, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def record(result):
    return RunRecord.of(result)


def test_the_page_tells_what_the_run_came_to(result):
    words = Page(render(result)).words()
    assert "a run" in words
    assert "4,224 of 84,480 weights kept in 3 layers, 6 blocks" in words
    for key in ("start", "result"):
        assert f"{result.scores[key]['loss']:.4g}" in words
        assert f"{result.scores[key]['accuracy']:.2%}" in words
    for name, mask in result.masks.items():
        assert f"{name} " in words
        assert f"{int(mask.sum()):,}" in words
    assert "Unfinished" not in words


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing(result):
    text = render(result)
    for tag, attributes in Page(text).tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", text))


def test_every_plot_has_words_for_those_who_cannot_see_it(result):
    tags = Page(render(result)).tags
    labels = [a["aria-label"] for tag, a in tags if a.get("role") == "img"]
    drawings = [a for tag, a in tags if tag == "svg"]
    assert len(labels) == len(drawings) == 4
    assert all(len(label) > 40 for label in labels)
    assert all(a["aria-hidden"] == "true" for a in drawings)


def test_plots_take_the_pages_text_colour_so_that_they_are_seen_in_the_dark(record):
    for plot in plots.draw(record):
        svg = plot.svg()
        assert "currentColor" in svg
        assert not re.search(r"fill: ?#(000000|010203|fff)", svg)


def test_the_plots_of_one_page_share_no_ids(result):
    doubled = [name for name, count in Page(render(result)).ids.items() if count > 1]
    assert doubled == []


def test_the_same_run_gives_the_same_page(result):
    assert render(result) == render(result)


def test_names_are_text_and_never_markup(result):
    hostile = "<script>alert(1)</script>\"'&amp;"
    record = RunRecord.of(result)
    layers = tuple(replace(layer, name=hostile) for layer in record.layers)
    text = page(replace(record, name=hostile, backend=hostile, layers=layers, versions={hostile: hostile}))
    assert "<script" not in text
    parsed = Page(text)
    assert hostile in parsed.words()


def test_the_folder_gives_the_same_page_as_the_result(result):
    assert write_report(result.out).read_text("utf-8") == render(result)


@pytest.mark.parametrize("guard", ["refuse", "off"])
def test_an_unfinished_run_is_told_from_its_journal(tmp_path, classifier, digits, guard):
    config = Config.of(density=0.1, steps=8, block_size=128, guard=guard, backend="sa")
    pruner = Pruner(classifier, digits, config, out=tmp_path / "run")
    for _ in range(3):
        for problem in pruner.ask():
            pruner.tell(problem, solvers.solve(problem, "sa?restarts=1&sweeps=10", seed=0))
    pruner.ask()
    pruner.close()
    record = RunRecord.read(tmp_path / "run")
    assert [layer.kept for layer in record.layers] == [pruner.masks.kept(name) for name in pruner.masks]
    assert record.history == pruner.history
    assert "Unfinished: 3 of 8 steps" in Page(page(record)).words()
    if guard == "refuse":
        assert record.scores["result"]["loss"] == pruner.guard_loss
        assert record.scores["dense"]["loss"] < record.scores["start"]["loss"]


def test_a_run_without_a_guard_says_that_no_loss_was_measured(classifier, digits):
    result = prune(classifier, digits, density=0.1, backend="sa", steps=2, block_size=64, guard="off", progress=False)
    text = render(result)
    assert "No loss was measured" in text
    assert [plot.name for plot in plots.draw(RunRecord.of(result))] == ["density", "seconds"]


def test_a_run_of_no_steps_has_a_page(classifier, digits):
    result = prune(classifier, digits, density=0.1, steps=0, progress=False)
    assert "0 blocks solved by no solver yet" in Page(render(result)).words()


def test_rounds_add_up_their_blocks(record):
    assert [each.step for each in record.rounds] == [2, 4, 6]
    for number, each in enumerate(record.rounds):
        rows = [row for row in record.history if row["round"] == number]
        assert each.predicted == sum(row["predicted"] for row in rows)
        assert each.seconds["solve"] == rows[0]["seconds_solve"]


def rows(count, after=lambda step: 1.0 / (step + 1), accepted=lambda step: step % 3 != 2):
    losses = [1.0]
    for step in range(count):
        loss = after(step)
        yield {
            "step": step + 1, "round": step, "predicted": -0.1 / (step + 1), "loss_before": losses[-1],
            "loss_after": loss, "accepted": accepted(step), "seconds_solve": 0.1, "seconds_guard": 0.2,
        }  # fmt: skip
        losses.append(loss if accepted(step) else losses[-1])


def test_a_long_run_of_a_deep_model_is_drawn_in_a_page_of_moderate_size(record):
    layers = tuple(LayerRecord(f"blocks.{n}.weight", (64, 64), 400 + n, 0.1) for n in range(200))
    long = replace(record, layers=layers, history=list(rows(3000)))
    assert len(plots.draw(long)) == 4
    assert len(page(long)) < 1_500_000


@pytest.mark.parametrize("after", [float("nan"), float("inf"), 1e30, 0.0, -5.0])
def test_losses_that_went_astray_do_not_spoil_the_page(record, after):
    astray = list(rows(6, after=lambda step: after if step == 2 else 0.5))
    assert Page(page(replace(record, history=astray))).words()


@pytest.mark.parametrize("dense", [0.0, 0.3, 1.0, 1.2, 50.0])
@pytest.mark.parametrize("fall", [0.0, 1e-9, 0.02, 0.99])
def test_the_path_is_drawn_wherever_the_dense_loss_lies(record, dense, fall):
    steady = list(rows(3, after=lambda step: 1.0 - fall, accepted=lambda step: True))
    scores = {**record.scores, "dense": {"loss": dense, "accuracy": None}}
    assert Page(page(replace(record, history=steady, scores=scores))).words()


def test_a_place_that_cannot_be_written_is_a_clear_error(result, tmp_path):
    with pytest.raises(RunFolderError, match="cannot be written"):
        result.report(tmp_path / "nowhere" / "page.html")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_report(result.out, tmp_path / "nowhere" / "page.html")


def test_a_model_of_one_layer_has_a_page(digits):
    result = prune(nn.Linear(64, 10), digits, density=0.3, backend="sa", steps=1, block_size=32, progress=False)
    assert "in 1 layer," in Page(render(result)).words()
