"""The four folders reach users as one package, `subopt`, and nothing else of theirs is touched."""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "tests" / "assets" / "owns_our_names"
FOLDERS = {
    "subopt_cli": "subopt",
    "profilers": "subopt.profilers",
    "optimizers": "subopt.optimizers",
    "recipes": "subopt.recipes",
}

pytestmark = pytest.mark.process
CONSOLE_SCRIPT = str(Path(sys.executable).with_name("subopt"))


def run(command: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def package_files() -> dict[str, Path]:
    """Every file of the four folders, by the path it is installed under: `subopt/optimizers/svd.py`."""
    return {
        "/".join([*package.split("."), *path.relative_to(ROOT / folder).parts]): path
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def modules_on_disk() -> dict[str, Path]:
    """The same for modules, by import name: `subopt.optimizers.svd`."""
    return {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
        for name, path in package_files().items()
        if path.suffix == ".py"
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that nothing is written beside them."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "setup.py", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    result = run(build, cwd=source)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_one_top_level_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"subopt"}


def test_the_wheel_holds_every_file_of_the_folders(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == set(package_files())


@pytest.mark.parametrize(
    "command",
    [[CONSOLE_SCRIPT], [sys.executable, "-m", "subopt"]],
    ids=["console script", "python -m subopt"],
)
def test_a_project_that_owns_our_folder_names_gets_its_own(
    command: list[str], tmp_path: Path
) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("*.pyc"))
    settings = ["--simulate", "--batch-size", "2", "-o", "p.json"]

    result = run([*command, "profile", "model.py", *settings], cwd=project)

    assert result.returncode == 0, result.stderr
    assert json.loads((project / "imported.json").read_text()) == {
        name: str(project / name / "__init__.py") for name in ("optimizers", "profilers", "recipes")
    }
    assert json.loads((project / "p.json").read_text())["methods"]


@pytest.mark.parametrize(("folder", "package"), FOLDERS.items())
def test_importing_a_folder_by_its_own_name_says_what_to_do(folder: str, package: str) -> None:
    result = run([sys.executable, "-c", f"import {folder}"], cwd=ROOT)
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith(f"ImportError: this folder is the package '{package}'")
    assert "make install" in message


def test_every_file_on_disk_is_importable() -> None:
    missing = [name for name, path in modules_on_disk().items() if not leads_to(name, path)]
    assert missing == [], "new files are not linked yet: run 'make install'"


def leads_to(name: str, path: Path) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None and Path(spec.origin).samefile(path)


def test_every_importable_module_is_on_disk() -> None:
    on_disk = modules_on_disk()
    packages = [name for name, path in on_disk.items() if path.name == "__init__.py"]
    importable = {
        f"{package}.{module.name}"
        for package in packages
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__)
    }
    assert importable <= set(on_disk), "removed files are still linked: run 'make install'"


def test_subopt_is_importable_without_the_folder_it_is_started_in(tmp_path: Path) -> None:
    code = "import subopt, sys; print(subopt.__file__, 'torch' in sys.modules)"
    result = run([sys.executable, "-Ic", code], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    file, torch_is_imported = result.stdout.split()
    assert Path(file).samefile(ROOT / "subopt_cli" / "__init__.py")
    assert torch_is_imported == "False"
