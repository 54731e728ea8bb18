"""The layers import one way only: optimizers <- profilers <- recipes <- subopt (the command)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
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
# The rooms of each folder, from the ground up: a room imports only from those before it.
ROOMS = {
    "optimizers": ("state", "updates", "bases", "preconditioners", "low_rank", "methods"),
    "profilers": (
        *("record", "target", "timing", "costs", "gradients", "subspaces", "memory"),
        *("history", "compare", "export"),
    ),
    "recipes": (
        *("recipe", "scripts", "data", "plan", "prior", "evidence", "ranking", "advice"),
        *("run_folder", "training", "tracking", "race"),
    ),
    "subopt_cli": ("findings", "terminal", "report", "commands"),
}
# How many files and folders a reader can take in at one level.
MOST_ENTRIES = 20
# What a module imports of an optional extra, and imports only when it is asked to.
EXTRAS = {"subopt.optimizers.state.low_bit": ("torchao",)}
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


def room_of(name: str) -> tuple[str, str] | None:
    """The folder and room that a dotted name is in: `subopt.recipes.plan.budget` is in recipes' `plan`."""
    inside = [folder for folder, package in FOLDERS.items() if is_within(name, (package,))]
    if not inside:
        return None
    folder = max(inside, key=lambda folder: len(FOLDERS[folder]))
    room = name.removeprefix(FOLDERS[folder]).strip(".").partition(".")[0]
    return (folder, room) if room in ROOMS[folder] else None


def imports_of_later_rooms(path: Path, source: str) -> list[str]:
    """The imports of a module from rooms that come after its own."""
    own = room_of(module_name(path))
    if own is None:
        return []
    folder, room = own
    later = ROOMS[folder][ROOMS[folder].index(room) + 1 :]
    return [
        name
        for name in imports(path, source)
        if (found := room_of(name)) and found[0] == folder and found[1] in later
    ]


def circles(edges: Mapping[str, set[str]]) -> list[str]:
    """The modules that import themselves by way of others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            todo += (new := edges[todo.pop()] - seen)
            seen |= new
        return seen

    return [name for name in edges if name in reached(name)]


def prints(source: str) -> list[int]:
    """Lines that write to the terminal: `print(...)`, `sys.stdout.write(...)`, `sys.stderr.write(...)`."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    writers = {"print", "sys.stdout.write", "sys.stderr.write"}
    return [call.lineno for call in calls if ast.unparse(call.func) in writers]


def test_modules_import_only_from_layers_below() -> None:
    found = {path: forbidden_imports(path, path.read_text("utf-8")) for path in SOURCES}
    assert {path: names for path, names in found.items() if names} == {}


def test_rooms_import_only_from_rooms_below() -> None:
    found = {path: imports_of_later_rooms(path, path.read_text("utf-8")) for path in SOURCES}
    assert {path: names for path, names in found.items() if names} == {}


def test_charts_import_of_the_report_only_what_a_page_is_made_of() -> None:
    allowed = {
        "parts": ("subopt.report.parts",),
        "charts": ("subopt.report.parts", "subopt.report.charts"),
    }
    for room, below in allowed.items():
        for path in (ROOT / "subopt_cli" / "report" / room).glob("*.py"):
            found = imports(path, path.read_text("utf-8"))
            report = [name for name in found if is_within(name, ("subopt.report",))]
            assert [name for name in report if not is_within(name, below)] == [], path


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {module_name(path): path for path in SOURCES}
    edges = {
        name: {
            module
            for found in imports(path, path.read_text("utf-8"))
            for module in [found if found in modules else found.rpartition(".")[0]]
            if module in modules and modules[module].name != "__init__.py"
        }
        for name, path in modules.items()
    }
    assert circles(edges) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_all_rooms_are_listed_and_each_level_can_be_read_at_a_glance(folder: str) -> None:
    levels = {path.parent for path in SOURCES if path.is_relative_to(ROOT / folder)}
    rooms = {level.name for level in levels if level.parent == ROOT / folder}
    assert rooms == set(ROOMS[folder])
    for level in levels:
        shown = [
            entry
            for entry in level.iterdir()
            if entry.suffix == ".py" or (entry / "__init__.py").exists()
        ]
        assert len(shown) <= MOST_ENTRIES, level


@pytest.mark.parametrize(
    ("path", "source", "names"),
    [
        ("recipes/schema.py", "from .plan import budget", []),
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
            "subopt_cli/terminal/table.py",
            "from ..report.page import page",
            ["subopt.report.page.page"],
        ),
        ("optimizers/updates/update.py", "from subopt.profilers.memory import phases", []),
        ("recipes/race/plan.py", "from ..advice.advisor import recommend", []),
        ("recipes/plan/peaks.py", "from .budget import Fit\nfrom ..schema import Recipe", []),
    ],
)
def test_an_import_from_a_room_above_is_found(path: str, source: str, names: list[str]) -> None:
    assert imports_of_later_rooms(ROOT / path, source) == names


def test_only_the_command_writes_to_the_terminal() -> None:
    below = [path for path in SOURCES if not path.is_relative_to(ROOT / "subopt_cli")]
    lines = {path: prints(path.read_text("utf-8")) for path in below}
    assert {path: found for path, found in lines.items() if found} == {}


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
        (
            "profilers/cost.py",
            "from subopt.terminal.output import Sink",
            "subopt.terminal.output.Sink",
        ),
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
            "from subopt.profilers.record.profile import Profile\nimport accelerate",
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


@pytest.mark.process
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
