"""Guards of the house: who imports whom, what is packaged, and that the documentation inside the code runs."""

from __future__ import annotations

import ast
import doctest
import graphlib
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))

# Which rooms a room may import. Examples and tests may use the public names of all of them.
ARROWS = {
    "geo": set(),
    "kernels": {"geo"},
    "datasets": {"geo"},
    "pointcloud": {"geo", "kernels"},
    "detection": {"geo", "kernels"},
    "mental": {"geo", "kernels"},
    "cli": {"geo", "kernels", "datasets", "pointcloud", "detection", "mental"},
}
ROOMS = sorted(ARROWS)
IMPORT_NAMES = {"kiss-matcher": "kiss_matcher", "pillow": "PIL", "small-gicp": "small_gicp"}
NAMED_TUPLE_METHODS = {"_asdict", "_fields", "_make", "_replace"}  # public, the underscore only avoids field names
ONE_FILE_ONLY = ("open3d", "viser")
# Triton kernels are decorated as their file is loaded, so these files import it at the top; nobody loads them unasked.
TRITON_FILES = "kernels/triton_*.py"
TRITON_MODULES = {"rotaware.kernels.triton_available"}  # of these files, those that do without Triton
LONGEST_FILE, LONGEST_INIT = 500, 130


@dataclass(frozen=True)
class Import:
    """One imported name: `from module import name`, or `import module` with `name` None."""

    module: str
    name: str | None
    alias: str
    line: int
    lazy: bool  # inside a function, a `try` or `if TYPE_CHECKING`


def python_files(*folders: str) -> list[str]:
    found = [path for folder in folders for path in sorted((CHECKOUT / folder).rglob("*.py"))]
    return [path.relative_to(CHECKOUT).as_posix() for path in found]


def module_name(file: str) -> str:
    return "rotaware." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


FILES = python_files(*ROOMS)
USER_FILES = python_files("examples", "tests")
MODULES = {module_name(file): file for file in FILES}


@cache
def parse(file: str) -> ast.Module:
    return ast.parse((CHECKOUT / file).read_text(encoding="utf-8"), filename=file)


@cache
def imports(file: str) -> list[Import]:
    """All imports of a file, relative ones made absolute."""
    return list(_imports(parse(file).body, package=f"rotaware.{Path(file).parts[0]}", lazy=False))


def _imports(nodes: list[ast.AST] | list[ast.stmt], package: str, lazy: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, None, name.asname or name.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"line {node.lineno}: rooms have no sub-packages, no relative import climbs out"
            module = ".".join(filter(None, [package if node.level else "", node.module]))
            for name in node.names:
                alias = name.asname or name.name
                if module == "rotaware":
                    yield Import(f"rotaware.{name.name}", None, alias, node.lineno, lazy)
                else:
                    yield Import(module, name.name, alias, node.lineno, lazy)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Try | ast.If)
        yield from _imports(list(ast.iter_child_nodes(node)), package, lazy or inside)


def loaded_module(found: Import) -> str:
    """The module that an import of ours loads: `from rotaware.geo import so3` loads `rotaware.geo.so3`."""
    submodule = f"{found.module}.{found.name}"
    return submodule if submodule in MODULES else found.module


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLE_METHODS


# Which sub-packages exist


def test_pyproject_lists_every_subpackage() -> None:
    rooms = [path.parent for path in CHECKOUT.glob("*/__init__.py")]
    folders = {path.parent.relative_to(CHECKOUT).as_posix() for room in rooms for path in room.rglob("*.py")}
    assert folders == set(ROOMS), "a new room needs its arrows in this file"
    expected = {"rotaware." + folder.replace("/", "."): folder for folder in folders}
    assert PROJECT["tool"]["setuptools"]["package-dir"] == expected
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(expected)


def test_there_is_no_package_that_would_close_the_namespace() -> None:
    assert not (CHECKOUT / "rotaware").exists()
    assert not (CHECKOUT / "__init__.py").exists()


# Who imports whom


@pytest.mark.parametrize("file", FILES)
def test_import_arrows(file: str) -> None:
    room = Path(file).parts[0]
    for found in imports(file):
        root, *rest = found.module.split(".")
        where = f"{file}:{found.line}: {found.module}"
        assert root not in ROOMS, f"{where} loads a second copy of the room: import rotaware.{found.module}"
        if root == "rotaware":
            assert rest, f"{where}: name the room"
            assert rest[0] == room or rest[0] in ARROWS[room], f"{where}: {room} may import {sorted(ARROWS[room])}"


@pytest.mark.parametrize("file", FILES)
def test_imports_inside_a_room_are_relative(file: str) -> None:
    own = f"rotaware.{Path(file).parts[0]}"
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            assert not f"{node.module}.".startswith(f"{own}."), f"{file}:{node.lineno}: write `from .`"


@pytest.mark.parametrize("file", FILES + USER_FILES)
def test_no_private_name_crosses_a_door(file: str) -> None:
    own = f"rotaware.{Path(file).parts[0]}"
    foreign = [
        i for i in imports(file) if i.module.startswith("rotaware.") and not f"{i.module}.".startswith(f"{own}.")
    ]
    for found in foreign:
        parts = [*found.module.split("."), found.name or ""]
        assert not any(map(is_private, parts)), f"{file}:{found.line}: {'.'.join(parts)} is private"
    aliases = {found.alias for found in foreign}
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            assert ast.unparse(node.value) not in aliases, f"{file}:{node.lineno}: {ast.unparse(node)} is private"


def test_no_import_cycles() -> None:
    graph = {module: {loaded_module(i) for i in imports(file)} & MODULES.keys() for module, file in MODULES.items()}
    # Raises CycleError, which lists the modules of the cycle.
    graphlib.TopologicalSorter(graph).prepare()


# What is imported from others


def distributions(requirements: list[str]) -> set[str]:
    names = {re.split(r"[ ;<>=!~\[]", requirement, maxsplit=1)[0] for requirement in requirements}
    return {IMPORT_NAMES.get(name, name) for name in names}


OPTIONAL = PROJECT["project"]["optional-dependencies"]
CORE = distributions(PROJECT["project"]["dependencies"])
EXTRAS = set().union(*(distributions(names) for extra, names in OPTIONAL.items() if extra != "dev"))


def foreign_imports(file: str) -> list[tuple[str, Import]]:
    roots = [(found.module.split(".")[0], found) for found in imports(file)]
    return [(root, found) for root, found in roots if root != "rotaware" and root not in sys.stdlib_module_names]


@pytest.mark.parametrize("file", FILES)
def test_third_parties_are_declared_and_optional_ones_lazy(file: str) -> None:
    for root, found in foreign_imports(file):
        where = f"{file}:{found.line}: {root}"
        assert root in CORE | EXTRAS, f"{where} is not a dependency in pyproject.toml"
        eager = root in CORE or (root == "triton" and fnmatch(file, TRITON_FILES))
        assert eager or found.lazy, f"{where} is optional: import it inside the function that needs it"


def test_every_core_dependency_is_used() -> None:
    used = {root for file in FILES for root, _ in foreign_imports(file)}
    assert used >= CORE, f"unused: {sorted(CORE - used)}"


@pytest.mark.parametrize("package", ONE_FILE_ONLY)
def test_imported_in_one_file_only(package: str) -> None:
    users = [file for file in FILES if any(root == package for root, _ in foreign_imports(file))]
    assert len(users) <= 1, f"{package} is imported in {users}"


@pytest.mark.parametrize("file", FILES)
def test_triton_stays_in_its_files(file: str) -> None:
    if fnmatch(file, TRITON_FILES):
        return
    for found in imports(file):
        where = f"{file}:{found.line}: {found.module}"
        assert found.module.split(".")[0] != "triton", f"{where}: only {TRITON_FILES} import Triton"
        loaded = loaded_module(found)
        triton = loaded not in TRITON_MODULES and fnmatch(MODULES.get(loaded, ""), TRITON_FILES)
        assert found.lazy or not triton, f"{where} loads Triton: import it when a kernel is asked for"


# What the files look like


@pytest.mark.parametrize("file", FILES + USER_FILES)
def test_files_stay_readable_in_one_sitting(file: str) -> None:
    lines = len((CHECKOUT / file).read_text(encoding="utf-8").splitlines())
    assert lines <= (LONGEST_INIT if file.endswith("__init__.py") else LONGEST_FILE), "split it by idea"


@pytest.mark.parametrize("module", [module for module in MODULES if not module.endswith(".__main__")])
def test_doctests(module: str) -> None:
    # By import name, never by path: a path would load a second copy of the room.
    if fnmatch(MODULES[module], TRITON_FILES) and module not in TRITON_MODULES:
        pytest.importorskip("triton")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, _ = doctest.testmod(importlib.import_module(module), optionflags=flags)
    assert failed == 0, "see the captured output"
