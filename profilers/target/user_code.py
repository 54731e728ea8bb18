"""Running the user's code as their own script would run: their folder first, their modules under their real names.

A user's project may own folders called `optimizers` or a file called `yaml.py`. Two things follow. While their code
runs they must get those; while ours runs we must not. So the user's code has a *view*: its own `sys.path`, and its
own entries of `sys.modules` for the names that also exist outside the project. The view is in place only while
their code runs, lazy imports inside their functions included.
"""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch

from subopt.errors import SuboptError, TargetError, UserCodeError

# A bare interpreter has these before the first line of any script runs, so no script can replace them either.
# torch and subopt are shared on purpose: their model must be a module of *our* torch.
_NEVER_THEIRS = frozenset(sys.builtin_module_names) | {
    *("abc", "codecs", "encodings", "genericpath", "importlib", "io", "ntpath", "os"),
    *("posixpath", "site", "stat", "torch", "subopt"),
}
# What we import lazily; imported before the user's code where a name clashes, so none of it binds to a user's file.
_OUR_DEPENDENCIES = (
    *("numpy", "yaml", "pydantic", "rich", "pynvml", "pandas", "plotly"),
    *("safetensors", "accelerate"),
)
# The first project loaded in this process that has a module of this name; only it keeps it in `sys.modules`.
_first_roots: dict[str, Path] = {}
_TRACEBACK = "Traceback (most recent call last)"
MODULE_HINT = "only modules of your own can be named; a file is named with its .py: path/model.py"
_SHOWN_FRAMES = 6
_SHOWN_CHARACTERS = 300


class CodeRunner(Protocol):
    """Runs code that is not ours."""

    def running(self, doing: str) -> AbstractContextManager[None]:
        """Return a context in which it may run; `doing` starts the message of what it raises."""


class UserModules:
    """The modules of one user project, and the only way to run its code; `root`, resolved, goes first on its path."""

    def __init__(self, root: Path) -> None:
        self._roots = [root]
        self._path = [str(root), *sys.path]
        self._own: dict[str, ModuleType] = {}
        self._is_active = False
        names = _importable_names(root) - _NEVER_THEIRS
        ours = {name for name in names if _exists_outside(name, root)}
        other_projects = {name for name in names if _first_roots.setdefault(name, root) != root}
        self._clashing = frozenset(ours | other_projects)
        # An earlier load of the same files: import what they hold now.
        _take_modules(names - self._clashing)
        importlib.invalidate_caches()
        if ours:
            for name in _OUR_DEPENDENCIES:
                importlib.import_module(name)

    def load(self, name: str) -> ModuleType:
        """Import a module of the project.

        Raises:
            TargetError: It does not exist, has a syntax error, or imports something that does not exist.
            UserCodeError: Its top level raised something else.
        """
        with self.running(f"importing {name}"):
            try:
                module = importlib.import_module(name)
            except SyntaxError as error:
                where = f"{self._relative(error.filename or name)}, line {error.lineno or 1}"
                raise TargetError(
                    f"{where}: {error.msg}", "correct the file and try again"
                ) from error
            except ModuleNotFoundError as error:
                if error.name is not None and f"{name}.".startswith(f"{error.name}."):
                    raise TargetError(
                        f"there is no module '{error.name}' in {self._roots[0]}",
                        MODULE_HINT,
                    ) from error
                raise TargetError(
                    self._describe(f"importing {name}", error),
                    "install it, or put it next to the file",
                ) from error
            except ImportError as error:
                raise TargetError(
                    self._describe(f"importing {name}", error), "correct the import and try again"
                ) from error
        if module.__file__ is not None:
            self._roots.append(package_root(Path(module.__file__).resolve()))
        return module

    @contextmanager
    def running(self, doing: str) -> Iterator[None]:
        """Put the user's view in place and turn what their code raises into one clear error.

        Ctrl-C, an out-of-memory error of the accelerator and our own errors pass through unchanged. A StopIteration
        counts as an error: use `next(iterator, default)`.

        Args:
            doing: What the user's code does, such as `build_model()`; the message starts with it.

        Raises:
            UserCodeError: The user's code raised or exited; the message holds their frames only.
        """
        with self._view():
            try:
                yield
            except (SuboptError, torch.OutOfMemoryError):
                raise
            except (Exception, SystemExit) as error:
                raise UserCodeError(
                    self._describe(doing, error), "run again with --debug for the whole traceback"
                ) from error

    @contextmanager
    def _view(self) -> Iterator[None]:
        if self._is_active:
            yield
            return
        our_path, our_arguments = list(sys.path), list(sys.argv)
        our_modules = _take_modules(self._clashing)
        sys.path[:] = self._path
        del sys.argv[1:]  # the command's arguments are not meant for an argument parser of theirs
        sys.modules.update(self._own)
        self._is_active = True
        try:
            with redirect_stdout(sys.stderr):  # our stdout is for data: one JSON document, perhaps
                yield
        finally:
            self._is_active = False
            self._own, self._path = _take_modules(self._clashing), list(sys.path)
            sys.modules.update(our_modules)
            sys.path[:], sys.argv[:] = our_path, our_arguments

    def _describe(self, doing: str, error: BaseException) -> str:
        lines = str(error).strip().splitlines() or [""]
        # A data loader's worker sends its whole traceback as text, and what went wrong is in the last line.
        line = lines[-1] if any(_TRACEBACK in line for line in lines) else lines[0]
        what = f"{type(error).__name__}: {line[:_SHOWN_CHARACTERS]}".removesuffix(": ")
        frames = [
            f"  {self._relative(frame.f_code.co_filename)}:{line} in {frame.f_code.co_name}: "
            + linecache.getline(frame.f_code.co_filename, line, frame.f_globals).strip()
            for frame, line in traceback.walk_tb(error.__traceback__)
            if self._is_theirs(frame.f_code.co_filename, str(frame.f_globals.get("__name__")))
        ]
        return "\n".join([f"{doing} failed: {what}", *frames[-_SHOWN_FRAMES:]])

    def _is_theirs(self, filename: str, module_name: str) -> bool:
        if module_name.partition(".")[0] in {"subopt", "torch"}:
            return False
        path = Path(filename)
        inside = [path.relative_to(root).parts for root in self._roots if path.is_relative_to(root)]
        return any("site-packages" not in parts for parts in inside)

    def _relative(self, filename: str) -> str:
        path = Path(filename)
        for root in self._roots:
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return str(path)


def find_module(name: str, folder: Path) -> Path | None:
    """Return the source file of a dotted module name below a folder, found without importing anything.

    Installed packages and the standard library are never looked at: a recipe may name a module, and what it names
    runs.
    """
    place, file = folder, None
    for part in name.split("."):
        # A finder of this one folder: the import system's own would go on to the rest of sys.path.
        spec = FileFinder(str(place), (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(part)
        if spec is None or (file is not None and file.name != "__init__.py"):
            return None
        file = None if spec.loader is None else Path(str(spec.origin))
        place /= part
    return file


def is_installed(file: Path) -> bool:
    """Return whether a file belongs to the standard library or to an installed package, so is nobody's model file."""
    if {"site-packages", "dist-packages"} & set(file.parts):
        return True
    folders = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
    return any(file.is_relative_to(Path(folder).resolve()) for folder in folders)


def package_root(file: Path) -> Path:
    """Return the folder a Python file is imported from: the first one upwards that is not itself a package."""
    folder = file.parent
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        folder = folder.parent
    return folder


def module_name(file: Path) -> str:
    """Return the dotted name a Python file has when imported from its `package_root`.

    Raises:
        TargetError: No import statement could name the file.
    """
    parts = list(file.relative_to(package_root(file)).with_suffix("").parts)
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    if "." in parts[-1] or parts[0] in _NEVER_THEIRS:
        reason = (
            "of the dot in its name" if "." in parts[-1] else "Python has a module of that name"
        )
        raise TargetError(f"{file.name} cannot be imported, because {reason}", "rename the file")
    return ".".join(parts)


def _importable_names(root: Path) -> set[str]:
    names = {path.stem for path in root.glob("*.py")}
    names |= {path.parent.name for path in root.glob("*/__init__.py")}
    return {name for name in names if not name.startswith("__") and "." not in name}


def _exists_outside(name: str, root: Path) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module without a spec is already loaded under that name
        return True
    if spec is None:
        return False
    own = (root / f"{name}.py", root / name / "__init__.py")
    return spec.origin is None or Path(spec.origin).resolve() not in own


def _take_modules(names: Iterable[str]) -> dict[str, ModuleType]:
    """Remove modules and their submodules from `sys.modules`, and return them."""
    wanted = frozenset(names)
    if not wanted:
        return {}
    found = [name for name in sys.modules if name.partition(".")[0] in wanted]
    return {name: sys.modules.pop(name) for name in found}
