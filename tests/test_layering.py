"""The layers import one way only: optimizers <- profilers <- recipes <- subopt (the command)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "optimizers": "subopt.optimizers",
    "profilers": "subopt.profilers",
    "recipes": "subopt.recipes",
    "subopt_cli": "subopt",
}
# Everything of ours that a folder may import, besides itself.
LEAVES = ("subopt.errors", "subopt.units", "subopt.__version__")
ALLOWED = {
    "optimizers": LEAVES,
    "profilers": (*LEAVES, "subopt.optimizers"),
    "recipes": (*LEAVES, "subopt.optimizers", "subopt.profilers"),
    "subopt_cli": ("subopt",),
}
# The sub-packages of `recipes`, each with those it may import; the modules at the top import none of them.
RECIPES: dict[str, tuple[str, ...]] = {
    "data": (),
    "plan": (),
    "evidence": ("plan",),
    "ranking": ("plan", "evidence"),
    "mixed": ("plan", "evidence", "ranking"),
    "advice": ("data", "plan", "evidence", "ranking", "mixed"),
    "run_folder": ("data",),
    "training": ("data", "plan", "run_folder"),
    "tracking": ("run_folder", "training"),
    "race": ("evidence", "advice", "run_folder", "training"),
}
# What a module imports of an optional extra, and imports only when it is asked to.
EXTRAS = {"subopt.optimizers.low_bit": ("torchao",)}
TERMINAL_LIBRARIES = {"rich", "typer", "click"}
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """The name a file is imported by: `optimizers/svd.py` is `subopt.optimizers.svd`."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *(part for part in rest if part != "__init__")])


def imports(path: Path, source: str) -> Iterator[str]:
    """Dotted names a module imports, wherever in it: `from a import b` is `a.b`, relative ones made absolute."""
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def forbidden_imports(path: Path, source: str) -> list[str]:
    """The imports of a module that its layer does not allow."""
    folder = path.relative_to(ROOT).parts[0]
    ours = (*ALLOWED[folder], FOLDERS[folder])
    if module_name(path) in LEAVES:
        ours = LEAVES
    ours += EXTRAS.get(module_name(path), ())
    return [name for name in imports(path, source) if not is_allowed(name, folder, ours)]


def is_allowed(name: str, folder: str, ours: tuple[str, ...]) -> bool:
    top = name.partition(".")[0]
    if top == "subopt" or is_within(name, ours):
        return is_within(name, ours)
    if top in FOLDERS:  # the folder's name is not an import name
        return False
    if folder == "optimizers":
        return top == "torch" or top in sys.stdlib_module_names
    return folder == "subopt_cli" or top not in TERMINAL_LIBRARIES


def part_of_recipes(name: str) -> str | None:
    """The sub-package that a dotted name is in: `subopt.recipes.plan.budget` is in `plan`; None outside of all."""
    parts = name.split(".")
    inside = parts[:2] == ["subopt", "recipes"] and len(parts) > 2 and parts[2] in RECIPES
    return parts[2] if inside else None


def imports_of_later_parts(path: Path, source: str) -> list[str]:
    """The imports of a module of `recipes` that its sub-package may not have."""
    own = part_of_recipes(module_name(path))
    allowed = {None} if own is None else {None, own, *RECIPES[own]}
    return [name for name in imports(path, source) if part_of_recipes(name) not in allowed]


def prints(source: str) -> list[int]:
    """Lines that write to the terminal: `print(...)`, `sys.stdout.write(...)`, `sys.stderr.write(...)`."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    writers = {"print", "sys.stdout.write", "sys.stderr.write"}
    return [call.lineno for call in calls if ast.unparse(call.func) in writers]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_only_from_layers_below(path: Path) -> None:
    assert forbidden_imports(path, path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.relative_to(ROOT).parts[0] == "recipes"],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_a_part_of_recipes_imports_only_from_parts_below(path: Path) -> None:
    assert imports_of_later_parts(path, path.read_text("utf-8")) == []


def test_the_parts_of_recipes_are_all_listed_and_each_after_what_it_imports() -> None:
    assert set(RECIPES) == {file.parent.name for file in (ROOT / "recipes").glob("*/__init__.py")}
    parts = list(RECIPES)
    for part, below in RECIPES.items():
        assert set(below) <= set(parts[: parts.index(part)]), part


@pytest.mark.parametrize(
    ("path", "source", "names"),
    [
        ("recipes/files.py", "from .plan import budget", ["subopt.recipes.plan.budget"]),
        (
            "recipes/plan/peaks.py",
            "from ..advice import advisor",
            ["subopt.recipes.advice.advisor"],
        ),
        ("recipes/plan/peaks.py", "def f():\n    from .. import race", ["subopt.recipes.race"]),
        (
            "recipes/training/trainer.py",
            "from ..tracking import wandb",
            ["subopt.recipes.tracking.wandb"],
        ),
        (
            "recipes/race/plan.py",
            "from ..plan.budget import Fit",
            ["subopt.recipes.plan.budget.Fit"],
        ),
        (
            "recipes/race/plan.py",
            "from ..advice.advisor import recommend\nfrom ..rng import rng_state",
            [],
        ),
        ("recipes/plan/peaks.py", "from .budget import Fit\nfrom ..schema import Recipe", []),
    ],
)
def test_an_import_from_a_part_above_is_found(path: str, source: str, names: list[str]) -> None:
    assert imports_of_later_parts(ROOT / path, source) == names


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.relative_to(ROOT).parts[0] != "subopt_cli"],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_only_the_command_writes_to_the_terminal(path: Path) -> None:
    assert prints(path.read_text("utf-8")) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_has_modules_to_check(folder: str) -> None:
    assert ROOT / folder / "__init__.py" in SOURCES


@pytest.mark.parametrize(
    ("path", "source", "name"),
    [
        ("optimizers/svd.py", "from subopt.profilers import profile", "subopt.profilers.profile"),
        ("optimizers/svd.py", "from ..recipes import training", "subopt.recipes.training"),
        ("optimizers/svd.py", "def f():\n    import numpy as np", "numpy"),
        ("optimizers/svd.py", "import torchao", "torchao"),
        ("optimizers/svd.py", "import optimizers", "optimizers"),
        ("profilers/cost.py", "from subopt import recipes", "subopt.recipes"),
        ("profilers/cost.py", "import subopt", "subopt"),
        ("profilers/cost.py", "from subopt.output import Sink", "subopt.output.Sink"),
        ("profilers/cost.py", "from rich.table import Table", "rich.table.Table"),
        ("recipes/training/trainer.py", "import subopt.app", "subopt.app"),
        ("subopt_cli/app.py", "import recipes", "recipes"),
        ("subopt_cli/errors.py", "from .app import main", "subopt.app.main"),
    ],
)
def test_an_import_from_a_layer_above_is_found(path: str, source: str, name: str) -> None:
    assert forbidden_imports(ROOT / path, source) == [name]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("optimizers/__init__.py", "from .svd import left_basis"),
        ("optimizers/svd.py", "import math, torch.nn\nfrom subopt.errors import OptionError"),
        (
            "profilers/cost.py",
            "from subopt import __version__\nfrom subopt.optimizers import METHODS",
        ),
        (
            "recipes/training/trainer.py",
            "from subopt.profilers.schema import Profile\nimport accelerate",
        ),
        (
            "subopt_cli/commands/train.py",
            "from subopt.recipes.training.trainer import train\nimport typer",
        ),
        ("subopt_cli/units.py", "from .errors import UsageError"),
    ],
)
def test_an_import_from_a_layer_below_is_allowed(path: str, source: str) -> None:
    assert forbidden_imports(ROOT / path, source) == []


def test_optional_extras_are_not_imported_before_they_are_asked_for() -> None:
    extras = [name for names in EXTRAS.values() for name in names]
    code = f"import sys, subopt.optimizers; print([n for n in {extras} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "tests"
    )
    assert done.stdout.strip() == "[]"


def test_writing_to_the_terminal_is_found() -> None:
    assert prints("import sys\nprint(1)\nif True:\n    sys.stderr.write('x')\nrow.print()") == [
        2,
        4,
    ]
