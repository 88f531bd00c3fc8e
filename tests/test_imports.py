"""The structure of the code: imports run one way, nothing is imported in a circle, and packages are light to import."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("problems", "solvers", "hybrid_icbs")
"""From the lowest to the highest; each may import itself and those before it."""
FOLDERS = {*PACKAGES, "benchmarks", "examples", "tests"}
MOST_MODULES = 14

ALL_NAMES = "import {0}; [getattr({0}, name) for name in {0}.__all__]"
HEAVY = {"qiskit", "dwave.system", "transformers", "matplotlib", "numba", "triton"}


@dataclass(frozen=True)
class Import:
    """One imported name: the file that imports it, the module it comes from, and whether this happens at run time."""

    file: Path
    module: str
    name: str
    at_run_time: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)} imports {self.name or 'all'} of {self.module}"


def imports(file: Path) -> Iterator[Import]:
    """All imports of a file: at its top, inside functions, under TYPE_CHECKING, and by a constant import_module
    name."""

    def walk(node: ast.AST, at_run_time: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from walk(child, False)
            for child in node.orelse:
                yield from walk(child, at_run_time)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, alias.name, "", at_run_time)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the direction"
            for alias in node.names:
                yield Import(file, node.module or "", alias.name, at_run_time)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            for argument in node.args:
                if isinstance(argument, ast.Constant):
                    yield Import(file, str(argument.value), "", at_run_time)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_run_time)

    yield from walk(ast.parse(file.read_text("utf-8")), True)


def files_of(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, folder
    return found


def target(one: Import, home: Path) -> Path | None:
    """The file that an import loads: `home` is where absolute imports start; None for other people's packages."""
    parts = one.module.split(".")
    for path in (home.joinpath(*parts, one.name) if one.name else None, home.joinpath(*parts)):
        for file in () if path is None else (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


def graph(folders: tuple[str, ...], home: Path) -> dict[Path, set[Path]]:
    """Which files each file imports at run time."""
    found: dict[Path, set[Path]] = {}
    for file in (file for folder in folders for file in files_of(folder)):
        loads = {target(one, home) for one in imports(file) if one.at_run_time}
        found[file] = {other for other in loads if other is not None and ROOT in other.parents}
    return found


def circle(edges: Mapping[Path, set[Path]]) -> list[Path]:
    """Some circle of a graph, its first node again at its end; empty where there is none."""
    done: set[Path] = set()

    def search(node: Path, path: list[Path]) -> list[Path]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for other in sorted(edges.get(node, ())):
            found = search(other, [*path, node])
            if found:
                return found
        done.add(node)
        return []

    return next(filter(None, (search(node, []) for node in sorted(edges))), [])


def within(edges: Mapping[Path, set[Path]], folder: Path) -> dict[Path, set[Path]]:
    """The graph of one folder: its own modules, and each of its subfolders as one node."""

    def node(file: Path) -> Path | None:
        return folder / file.relative_to(folder).parts[0] if folder in file.parents else None

    found: dict[Path, set[Path]] = {}
    for file, loads in edges.items():
        one = node(file)
        if one is not None:
            others = {other for load in loads if (other := node(load)) is not None and other != one}
            found.setdefault(one, set()).update(others)
    return found


def test_no_files_import_each_other_in_a_circle():
    found = circle(graph(PACKAGES, ROOT)) or circle(graph(("benchmarks",), ROOT / "benchmarks"))
    assert not found, " -> ".join(str(file.relative_to(ROOT)) for file in found)


def test_no_folders_import_each_other_in_a_circle():
    edges = graph(PACKAGES, ROOT)
    for folder in sorted({ROOT, *(parent for file in edges for parent in file.parents if ROOT in parent.parents)}):
        found = circle(within(edges, folder))
        assert not found, f"in {folder.relative_to(ROOT)}: " + " -> ".join(node.name for node in found)


def test_a_circle_is_found(tmp_path):
    a, b, c, d = (tmp_path / name for name in "abcd")
    assert circle({a: {b}, b: {c}, c: {d}, d: {b}}) == [b, c, d, b]
    assert circle({a: {a}}) == [a, a]
    assert circle({a: {b, c}, b: {d}, c: {d}, d: set()}) == []
    inside = {a / "x.py": {b / "y.py"}, b / "z.py": {a / "w.py"}}
    assert circle(inside) == []
    assert circle(within(inside, tmp_path)) == [a, b, a]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_those_below_them(package):
    above = FOLDERS - set(PACKAGES[: PACKAGES.index(package) + 1])
    wrong = [str(one) for file in files_of(package) for one in imports(file) if one.module.partition(".")[0] in above]
    assert not wrong, "\n".join(wrong)


def test_no_private_name_is_imported_from_another_file():
    wrong = [
        str(one)
        for folder in FOLDERS
        for file in files_of(folder)
        for one in imports(file)
        if any(part.startswith("_") and not part.startswith("__") for part in (*one.module.split("."), one.name))
        and one.module.partition(".")[0] in PACKAGES
    ]
    assert not wrong, "\n".join(wrong)


def test_folders_stay_small():
    folders = {file.parent for package in PACKAGES for file in files_of(package)}
    large = {
        str(folder.relative_to(ROOT)): count
        for folder in folders
        if (count := len(list(folder.glob("*.py")))) > MOST_MODULES
    }
    assert not large, f"more than {MOST_MODULES} modules: {large}"


def test_problems_imports_numpy_and_dimod_numba_in_one_file_and_nothing_else_from_outside():
    for file in files_of("problems"):
        allowed = {"problems", "numpy", "numba" if file.name == "compiling.py" else "dimod"}
        others = {one.module.partition(".")[0] for one in imports(file)} - set(sys.stdlib_module_names) - allowed
        assert not others, f"{file.relative_to(ROOT)} imports {', '.join(sorted(others))}"


@pytest.mark.parametrize("folder", ["benchmarks", "examples"])
def test_scripts_use_only_what_the_packages_have(folder):
    for file in sorted((ROOT / folder).glob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        modules = {}
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] not in PACKAGES:
                continue
            for alias in node.names:
                try:  # a module of a package, or else a name in a module
                    modules[alias.asname or alias.name] = importlib.import_module(f"{node.module}.{alias.name}")
                except ModuleNotFoundError as error:
                    if (error.name or "").partition(".")[0] not in PACKAGES:
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


def loaded_by(code: str) -> set[str]:
    """Modules that a fresh interpreter holds after some code."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
