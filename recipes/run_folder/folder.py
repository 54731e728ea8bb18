"""The folder of one training run: what is in it, when it may be written, and what a resumed run must agree on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subopt.errors import UsageError, quoted

from ..data.paths import absolute, moved
from ..recipe.load import load_recipe
from ..recipe.write import dump_recipe
from ..schema import Recipe
from .best import discard_best
from .checkpoint import checkpoints_in, discard_all, sweep
from .disk import write_text

# A resumed run may see and save differently, and compute the same numbers in less memory; anything else would make it
# another run.
_MAY_CHANGE = {"eval", "checkpoint", "why", "recompute", "fused_backward"}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run folder."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe as it was trained, overrides included."""
        return self.path / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per step or evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the `step-N` checkpoints."""
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """The final weights, for the user's own model: layers that the method replaced are dense again in them."""
        return self.path / "model.safetensors"

    @property
    def best(self) -> Path:
        """Folder of the weights of the lowest held-out loss, where the recipe keeps them."""
        return self.path / "best"

    @property
    def result(self) -> Path:
        """What came out, predicted against actual; only a finished run has it."""
        return self.path / "result.json"

    @property
    def tensorboard(self) -> Path:
        """Folder of the TensorBoard event files, where they were asked for."""
        return self.path / "tensorboard"

    def newest_checkpoint(self) -> Path | None:
        """Return the last complete checkpoint, or None."""
        found = checkpoints_in(self.checkpoints)
        return found[-1] if found else None

    def check_is_folder(self) -> None:
        """Make sure that it is a folder or nothing yet.

        Raises:
            UsageError: It is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file, not a folder", "choose another --output")

    def check(self, recipe: Recipe, recipe_path: Path, *, resume: bool, force: bool) -> None:
        """Make sure the folder may be written, changing nothing.

        Raises:
            UsageError: It exists and neither `resume` nor `force` was given, it is no run folder, or the run in it
                was started with another recipe.
        """
        self.check_is_folder()
        content = [p for p in self.path.iterdir() if p.name[0] != "."] if self.path.exists() else []
        if not content:
            return
        if resume:
            self._check_same_run(recipe, recipe_path, force=force)
        elif not force:
            raise UsageError(
                f"{self.path} already exists",
                "go on with --resume, start over with --force, or choose another --output",
            )
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
        target = _relative_target(recipe, recipe_path.parent, self.path)
        model = recipe.model.model_copy(update={"target": target})
        files = recipe.data.files
        if files is not None:
            files = moved(files, recipe_path.parent, self.path)
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


def _comparable(recipe: Recipe, base: Path) -> dict[str, Any]:
    """Return the recipe's leaves by dotted key, without what a resumed run may change."""
    data = recipe.model_dump(mode="json")
    data["model"]["target"] = str(_absolute_target(recipe.model.target, base))
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


def _absolute_target(target: str, base: Path) -> str:
    prefix, place, attribute = _split_target(target)
    path = base / place
    return f"{prefix}{path.resolve()}{attribute}" if _is_model(path, prefix) else target


def _relative_target(recipe: Recipe, base: Path, folder: Path) -> str:
    """Return the target as seen from the run folder, so that the recipe in it can be trained again."""
    prefix, place, attribute = _split_target(recipe.model.target)
    path = base / place
    if not _is_model(path, prefix):
        return recipe.model.target
    try:
        seen = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive on Windows
        seen = str(path.resolve())
    return f"{prefix}{seen}{attribute}"


def _split_target(target: str) -> tuple[str, str, str]:
    """Return a target's "hf:", its file, folder or module, and its ":attribute"; the outer two may be empty."""
    if target.startswith("hf:"):
        return "hf:", target.removeprefix("hf:"), ""
    head, colon, attribute = target.rpartition(":")
    return ("", head, colon + attribute) if head and attribute.isidentifier() else ("", target, "")


def _is_model(path: Path, prefix: str) -> bool:
    """Whether this is a model's file, or of an `hf:` target its config or the folder with it."""
    return path.is_file() or (bool(prefix) and path.is_dir())
