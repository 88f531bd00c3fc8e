"""Commands, options, files, links and imports that the documents show exist, and their Python runs."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hybrid_icbs.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/reference/*.md"), ROOT / "benchmarks" / "README.md"]
)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OF_OTHER_PROGRAMS = ("dwave", "pip", "lm_eval", "docker")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


@each_document
def test_files_and_headings_that_are_linked_exist(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]*)\)", document.read_text("utf-8")):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        linked = document.parent / name if name else document
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", linked.read_text("utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


@each_document
def test_commands_have_the_options_that_are_shown(document: Path) -> None:
    for words in commands(document):
        for option in OPTION.findall(" ".join(words)):
            assert option in options_of(words), f"{' '.join(words)}: no {option}"


@each_document
def test_options_that_are_named_in_passing_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`\n]+)`", text):
        if span.split()[0] not in OF_OTHER_PROGRAMS:
            for option in OPTION.findall(span):
                assert option in every_option() or option == "--shm-size", span


@each_document
def test_python_that_is_shown_can_be_read_and_imports_what_exists(document: Path) -> None:
    for code in python(document):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module != "nets":
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), f"{node.module} has no {name.name}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.parent.name == "docs"], ids=lambda path: path.name
)
def test_python_that_is_shown_runs(document: Path, tmp_path: Path) -> None:
    for code in python(document):
        command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{code}\n{done.stderr}"


def test_the_page_of_the_settings_is_up_to_date() -> None:
    pytest.importorskip("sphinx")
    page = runpy.run_path(str(ROOT / "docs" / "conf.py"))["settings_page"]()
    assert (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8") == page, "make docs writes it"


def test_architecture_names_every_package() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for package in ("problems", "solvers", "hybrid_icbs"):
        for file in (ROOT / package).glob("**/__init__.py"):
            assert f"{file.parent.name}/" in text, file.parent


def commands(document: Path) -> Iterator[list[str]]:
    """The commands of this project in a document's blocks of bash, as words."""
    text = document.read_text("utf-8").replace("\\\n", " ")
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in re.findall(r"^((?:hybrid-icbs|python) .*)$", block, re.MULTILINE):
            yield line.partition(" # ")[0].split()


@functools.cache
def help_of(*command: str) -> frozenset[str]:
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, command
    return frozenset(OPTION.findall(shown.stdout))


def options_of(words: list[str]) -> frozenset[str]:
    if words[0] == "python":
        script = ROOT / words[1]
        return frozenset(OPTION.findall(script.read_text("utf-8")))
    groups = {group.typer_instance.info.name for group in app.registered_groups}
    return help_of(*words[1:3]) if words[1] in groups else help_of(words[1])


@functools.cache
def every_option() -> frozenset[str]:
    """Of all commands, and of all scripts in examples/ and benchmarks/."""
    found = {option for command in app.registered_commands for option in help_of(command.callback.__name__)}
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands:
            name = command.name or command.callback.__name__
            found |= help_of(group.typer_instance.info.name, name)
    for script in [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/*.py")]:
        found.update(OPTION.findall(script.read_text("utf-8")))
    return frozenset(found)


def python(document: Path) -> Iterator[str]:
    """A document's blocks of Python."""
    yield from re.findall(r"^```python\n(.*?)^```", document.read_text("utf-8"), re.MULTILINE | re.DOTALL)
