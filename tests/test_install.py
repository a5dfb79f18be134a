"""`pip install .` and `pip install -e .`, each in a clean environment, and what the wheel holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
VERSION: str = PROJECT["project"]["version"]
IMPORT_ALL = f"""
import importlib
for room in {sorted(ROOMS)}:
    print(importlib.import_module(room).__file__)
"""


def files_of_rooms(project: Path) -> dict[str, bytes]:
    """Every file of every room under the name it has when installed: `rotaware/geo/so3.py`."""
    found = {}
    for package, folder in ROOMS.items():
        for path in sorted((project / folder).rglob("*")):
            if path.is_file():
                name = package.replace(".", "/") + "/" + path.relative_to(project / folder).as_posix()
                found[name] = path.read_bytes()
    return found


def pip(*arguments: str, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def copy_project(folder: Path) -> Path:
    """A copy of what a build needs, so that the checkout stays clean and an old `build/` cannot leak in."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder)
    for room in ROOMS.values():
        shutil.copytree(CHECKOUT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def wheel(project: Path) -> Path:
    pip("wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", cwd=project)
    (built,) = project.glob("dist/*.whl")
    return built


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A fresh environment that sees the dependencies installed beside pytest, but no rotaware of any kind."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    for path in Path(pytest.__file__).parents[1].iterdir():
        if "rotaware" not in path.name and path.suffix != ".pth":
            (site / path.name).symlink_to(path)
    return folder


def run(environment: Path, *command: str) -> str:
    """Output of a command of `environment`, run from an empty folder."""
    empty = environment.parent / "empty"
    empty.mkdir(exist_ok=True)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=empty,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


def test_wheel_holds_every_file_of_every_room(project: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if name.startswith("rotaware/")}
    assert packed.keys() == files_of_rooms(project).keys()
    assert packed == files_of_rooms(project)


def test_wheel_leaves_the_rest_at_home(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folders = {name.split("/")[0] for name in archive.namelist()}
    assert folders == {"rotaware", f"rotaware-{VERSION}.dist-info"}


def test_regular_install(wheel: Path, environment: Path) -> None:
    python = str(environment / "bin" / "python")
    pip("--python", python, "install", "--no-deps", "--no-index", str(wheel), cwd=environment)
    imported = run(environment, "python", "-c", IMPORT_ALL).split()
    assert len(imported) == len(ROOMS)
    assert all(Path(file).is_relative_to(environment) for file in imported)
    assert VERSION in run(environment, "rotaware", "--version")


def test_editable_install(tmp_path: Path, environment: Path) -> None:
    (tmp_path / "project").mkdir()
    project = copy_project(tmp_path / "project")
    python = str(environment / "bin" / "python")
    pip("--python", python, "install", "--no-deps", "--no-index", "--no-build-isolation", "-e", ".", cwd=project)
    imported = run(environment, "python", "-c", IMPORT_ALL).split()
    assert len(imported) == len(ROOMS)
    assert all(Path(file).is_relative_to(project) for file in imported)
    assert VERSION in run(environment, "rotaware", "--version")
    (project / "geo" / "written_later.py").write_text("answer = 42\n")
    later = "import rotaware.geo.written_later as module; print(module.answer, module.__file__)"
    assert run(environment, "python", "-c", later).split() == ["42", str(project / "geo" / "written_later.py")]


def test_the_tests_look_at_this_checkout() -> None:
    """After an edit, a regular install would be tested as it was: this fails until it is installed again."""
    assert version("rotaware") == VERSION, "install again"
    for package, folder in ROOMS.items():
        installed = Path(import_module(package).__file__ or "").parent
        for path in sorted((CHECKOUT / folder).glob("*.py")):
            assert (installed / path.name).read_bytes() == path.read_bytes(), f"{path} changed: install again"
