"""Finding and loading the user's model: `path/model.py`, `path/model.py:attr`, `package.module:attr` or `hf:NAME`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from subopt.errors import TargetError, UsageError, suggestion

from ..record.profile import Target
from .arguments import Scalar, bind_arguments
from .builder import Picked, line_of, optional_functions, pick_builder
from .loaded import LoadedTarget
from .loaded_weights import LoadedWeights
from .synthetic import parse_inputs
from .training_data import TrainingData, default_loss
from .user_code import (
    MODULE_HINT,
    UserModules,
    find_module,
    is_installed,
    module_name,
    package_root,
)


def load_target(
    spec: str,
    kwargs: Mapping[str, Scalar] | None = None,
    *,
    inputs: Sequence[str] = (),
    base: Path | None = None,
) -> LoadedTarget:
    """Load the user's model file and find what builds the model in it.

    Args:
        spec: `path/model.py`, `path/model.py:attr` or `package.module:attr`. A module must be a file below `base` or
            below the current folder; the standard library and installed packages are refused, however named. Or
            `hf:PATH` or `hf:ORG/NAME`, a Hugging Face architecture from its config.json.
        kwargs: Arguments for the builder, as text or already typed.
        inputs: Descriptions of synthetic inputs; where given, they replace the user's data.
        base: The folder relative paths and module names start from. Default: the current one.

    Raises:
        TargetError: The target cannot be found, imported or understood.
        UsageError: An argument or an input description that makes no sense.
    """
    folder = (base or Path.cwd()).resolve()
    if spec.startswith("hf:"):
        from .hf_target import load_hf_target

        return load_hf_target(spec, kwargs or {}, inputs, folder)
    synthetic = parse_inputs(inputs)
    place, attribute = _split(spec)
    file, modules, name = _locate(place, folder)
    weights = LoadedWeights()
    with weights.noticing():
        module = modules.load(name)
    if module.__file__ is None or Path(module.__file__).resolve() != file:
        raise TargetError(
            f"importing {place} gave another file, {module.__file__}", "rename one of the two files"
        )
    picked = pick_builder(module, place, attribute)
    values = _arguments(picked, kwargs or {})
    record = Target(
        spec=spec,
        kwargs=values,
        file=str(file),
        line=line_of(picked.name, file),
        picked=picked.description,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    functions = optional_functions(module, place)
    data = TrainingData(
        spec,
        modules,
        functions.get("loss", default_loss),
        functions.get("batches") if synthetic is None else synthetic.batches,
        functions.get("eval_batches") if synthetic is None else None,
        is_synthetic=synthetic is not None,
        inputs=tuple(inputs),
    )
    make_groups = functions.get("param_groups")
    return LoadedTarget(data, modules, record, folder, picked, make_groups, weights)


def _split(spec: str) -> tuple[str, str | None]:
    place, colon, attribute = spec.rpartition(":")
    if spec and (not colon or not (attribute.isidentifier() or attribute == "")):
        return spec, None
    if not place or not attribute:
        raise TargetError(f"'{spec}' names no model", "write it like model.py:Net")
    return place, attribute


def _locate(place: str, folder: Path) -> tuple[Path, UserModules, str]:
    """Return the target's file, what runs its project's code, and the module's name there; nothing is imported."""
    path = folder / place
    try:
        path.exists()
    except OSError as error:  # a name too long, or a folder that may not be looked into
        raise TargetError(f"'{place[:80]}' cannot be read: {error.strerror}") from None
    if place.endswith(".py"):
        if not path.is_file():
            near = suggestion(path.name, (p.name for p in path.parent.glob("*.py")))
            raise TargetError(f"there is no file {place}{near}", f"looked in {path.parent}")
        file = path.resolve()
        if is_installed(file):
            raise TargetError(
                f"{place} belongs to Python or to an installed package and is not a model file",
                "write a model.py of your own that imports what it needs from there",
            )
        return file, UserModules(package_root(file)), module_name(file)
    if path.is_dir() and ("/" in place or not (path / "__init__.py").is_file()):
        raise TargetError(
            f"{place} is a folder", f"name the file in it: {place.rstrip('/')}/model.py"
        )
    if not all(part.isidentifier() for part in place.split(".")) or path.is_file():
        raise TargetError(
            f"'{place}' is neither a Python file nor a module",
            "write it like path/model.py or package.module:Net",
        )
    return _locate_module(place, folder)


def _locate_module(name: str, folder: Path) -> tuple[Path, UserModules, str]:
    for root in (folder, Path.cwd().resolve()):
        found = find_module(name, root)
        if found is not None and not is_installed(found.resolve()):
            module_name(found)  # refuses a name that Python has taken before any script runs
            return found.resolve(), UserModules(root), name
    first = name.partition(".")[0]
    missing = name if (folder / first).is_dir() or (folder / f"{first}.py").is_file() else first
    raise TargetError(f"there is no module '{missing}' in {folder}", MODULE_HINT)


def _arguments(picked: Picked, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    if not isinstance(picked.builder, nn.Module):
        return bind_arguments(picked.name, picked.builder, given)
    if given:
        raise UsageError(
            f"{picked.name} is a model, built when its file was imported: it takes no {next(iter(given))}=...",
            "write build_model(...) to build it with arguments",
        )
    return {}
