"""The folder of one training run: what is in it, when it may be written, and what a resumed run must agree on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from subopt.errors import UsageError, quoted

from ..data.paths import absolute, moved, seen_from
from ..recipe.load import load_recipe
from ..recipe.write import dump_recipe
from ..schema import Recipe
from .best import discard_best
from .checkpoint import checkpoints_in, discard_all, sweep
from .disk import write_text

# A resumed run may see and save differently, and compute the same numbers in less memory; anything else would make it
# another run.
_MAY_CHANGE = {"eval", "checkpoint", "why", "recompute", "fused_backward"}


class RunFolder:
    """Paths of a run folder.

    Attributes:
        path: The folder.
        recipe: The recipe as it was trained, overrides included.
        metrics: One JSON object per step or evaluation.
        checkpoints: Folder of the `step-N` checkpoints.
        weights: The final weights, for the user's own model: layers that the method replaced are dense again in them.
        best: Folder of the weights of the lowest held-out loss, where the recipe keeps them.
        result: What came out, predicted against actual; only a finished run has it.
        tensorboard: Folder of the TensorBoard event files, where they were asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.weights = path / "model.safetensors"
        self.best = path / "best"
        self.result = path / "result.json"
        self.tensorboard = path / "tensorboard"

    def newest_checkpoint(self) -> Path | None:
        """Return the last complete checkpoint, or None."""
        found = checkpoints_in(self.checkpoints)
        return found[-1] if found else None

    def check(self, recipe: Recipe, recipe_path: Path, *, resume: bool, force: bool) -> None:
        """Make sure the folder may be written, changing nothing.

        Raises:
            UsageError: It exists and neither `resume` nor `force` was given, it is no run folder, or the run in it
                was started with another recipe.
        """
        if not content_of(self.path):
            return
        if resume:
            self._check_same_run(recipe, recipe_path, force=force)
        elif not force:
            raise already_exists(self.path)
        elif self.recipe.resolve() == recipe_path.resolve() and not self.metrics.exists():
            raise UsageError(
                f"{self.path} is the recipe's own folder, which a run would overwrite",
                "choose another --output",
            )

    def prepare(self, recipe: Recipe, recipe_path: Path, *, resume: bool) -> None:
        """Create the folder or clear the last run out of it, and write the recipe into it.

        Only files of a run are ever removed, nothing else that may be in the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        sweep(self.checkpoints)
        # The result first: a folder that is half cleared, or whose run goes on, must not look like a finished one.
        self.result.unlink(missing_ok=True)
        if not resume:
            board = self.tensorboard.glob("events.out.tfevents.*")
            for stale in (self.weights, self.metrics, *board):
                stale.unlink(missing_ok=True)
            discard_best(self.best)
            discard_all(self.checkpoints)
        base = recipe_path.parent
        seen_from_here = partial(seen_from, self.path.resolve())
        target = _moved_target(recipe.model.target, base, seen_from_here)
        model = recipe.model.model_copy(update={"target": target})
        files = recipe.data.files and moved(recipe.data.files, base, self.path)
        data = recipe.data.model_copy(update={"files": files})
        written = recipe.model_copy(update={"model": model, "data": data})
        write_text(self.recipe, dump_recipe(written))

    def _check_same_run(self, recipe: Recipe, recipe_path: Path, *, force: bool) -> None:
        if not self.recipe.exists():
            raise UsageError(
                f"{self.path} holds files but no run to resume",
                "choose the --output of the run to go on with",
            )
        stored = load_recipe(self.recipe)
        before = _comparable(stored, self.path)
        after = _comparable(recipe, recipe_path.parent)
        changed = [key for key in before if before[key] != after.get(key)]
        changed += [key for key in after if key not in before]
        if "model.sha256" in changed and not force:
            raise UsageError(
                f"the model file has changed since the run in {self.path} was started",
                "put the old file back, or go on with the new one all the same: --resume --force",
            )
        if changed and not force:
            key = changed[0]
            raise UsageError(
                f"the run in {self.path} was started with {key}: {quoted(before.get(key))}, "
                f"the recipe now says {quoted(after.get(key))}",
                "resume with the recipe it was started with, or go on all the same with --resume --force",
            )


def content_of(path: Path) -> list[Path]:
    """Return what is in a folder to write to, hidden files apart.

    Raises:
        UsageError: It is a file.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a folder", "choose another --output")
    return [p for p in path.iterdir() if p.name[0] != "."] if path.exists() else []


def already_exists(path: Path) -> UsageError:
    """Return the error that a folder is taken."""
    hint = "go on with --resume, start over with --force, or choose another --output"
    return UsageError(f"{path} already exists", hint)


def _comparable(recipe: Recipe, base: Path) -> dict[str, Any]:
    """Return the recipe's leaves by dotted key, without what a resumed run may change."""
    data = recipe.model_dump(mode="json")
    data["model"]["target"] = _moved_target(recipe.model.target, base, str)
    if recipe.data.files is not None:
        data["data"]["files"] = absolute(recipe.data.files, base).model_dump(mode="json")
    leaves: dict[str, Any] = {}
    for key, value in data.items():
        if key not in _MAY_CHANGE:
            _flatten(key, value, leaves)
    return leaves


def _flatten(key: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for inner, content in value.items():
            _flatten(f"{key}.{inner}", content, into)
    else:
        into[key] = value


def _moved_target(target: str, base: Path, place: Callable[[Path], str]) -> str:
    """Return a target with its file, or an `hf:` target's folder, as `place` names it; any other as it is."""
    prefix, named, attribute = _split_target(target)
    path = base / named
    is_model = path.is_file() or (bool(prefix) and path.is_dir())
    return f"{prefix}{place(path.resolve())}{attribute}" if is_model else target


def _split_target(target: str) -> tuple[str, str, str]:
    """Return a target's "hf:", its file, folder or module, and its ":attribute"; the outer two may be empty."""
    if target.startswith("hf:"):
        return "hf:", target.removeprefix("hf:"), ""
    head, colon, attribute = target.rpartition(":")
    return ("", head, colon + attribute) if head and attribute.isidentifier() else ("", target, "")
