"""The house's one direction, hybrid_icbs -> solvers -> problems, and packages that are light to import."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOUSE = {"problems", "solvers", "hybrid_icbs", "benchmarks", "examples", "tests"}
MAY_IMPORT = {
    "problems": {"problems"},
    "solvers": {"solvers", "problems"},
    "hybrid_icbs": {"hybrid_icbs", "solvers", "problems"},
}

ALL_NAMES = "import {0}; [getattr({0}, name) for name in {0}.__all__]"
HEAVY = {"qiskit", "dwave.system", "transformers", "matplotlib", "numba", "triton"}


def imported(file):
    """Top-level packages that a file imports anywhere, inside functions and by name in text (importlib) too."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the direction"
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(a.value).partition(".")[0] for a in node.args if isinstance(a, ast.Constant))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_in_one_direction(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        wrong = set(imported(file)) & HOUSE - MAY_IMPORT[package]
        assert not wrong, f"{file.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_problems_imports_numpy_and_dimod_numba_in_one_file_and_nothing_else_from_outside():
    for file in (ROOT / "problems").rglob("*.py"):
        allowed = {"problems", "numpy", "numba" if file.name == "compiling.py" else "dimod"}
        others = set(imported(file)) - set(sys.stdlib_module_names) - allowed
        assert not others, f"{file.relative_to(ROOT)} imports {', '.join(sorted(others))}"


@pytest.mark.parametrize("folder", ["benchmarks", "examples"])
def test_scripts_use_only_what_the_packages_have(folder):
    for file in sorted((ROOT / folder).glob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        modules = {}
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] not in MAY_IMPORT:
                continue
            for alias in node.names:
                try:  # a module of a package, or else a name in a module
                    modules[alias.asname or alias.name] = importlib.import_module(f"{node.module}.{alias.name}")
                except ModuleNotFoundError as error:
                    if (error.name or "").partition(".")[0] not in MAY_IMPORT:
                        continue  # a toolkit that need not be there
                    module = importlib.import_module(node.module)
                    assert hasattr(module, alias.name), f"{file.name} imports {node.module}.{alias.name}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                module = modules[node.value.id]
                assert hasattr(module, node.attr), f"{file.name} uses {module.__name__}.{node.attr}"


@pytest.mark.parametrize(
    ("package", "absent"), [("problems", HEAVY | {"torch"}), ("solvers", HEAVY | {"torch"}), ("hybrid_icbs", HEAVY)]
)
def test_importing_a_package_with_all_its_names_loads_nothing_heavy(package, absent):
    assert loaded_by(ALL_NAMES.format(package)) & absent == set()


def test_help_comes_without_torch():
    code = "from typer.testing import CliRunner; from hybrid_icbs.cli.app import app; "
    code += "assert CliRunner().invoke(app, ['prune', '--help']).exit_code == 0"
    assert loaded_by(code) & (HEAVY | {"torch", "numpy"}) == set()


def loaded_by(code):
    """Modules that a fresh interpreter holds after some code."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
