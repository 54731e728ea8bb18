"""The recipes that come with subopt: the papers' own settings, for a model and data that the user brings.

They are ordinary recipes in `papers/`, but for the model: `model.target` is to be given. What the paper says has its
place in the paper beside it; `why.evidence` says what model the settings were made for and where they are published.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from subopt.errors import UsageError, suggestion

from ..schema import Recipe
from .load import load_recipe, parse_recipe

# What stands for the user's model in a bundled recipe.
NO_MODEL = "YOUR_MODEL.py"
PREFIX = "bundled:"

_MADE_FOR, _PUBLISHED = "made for: ", "published: "


@dataclass(frozen=True, slots=True)
class Bundled:
    """One of them: its name, as `subopt train` takes it, its YAML, and the same, checked."""

    name: str
    text: str
    recipe: Recipe

    @property
    def made_for(self) -> str:
        """The model and data the settings were published for."""
        return self._said(_MADE_FOR)

    @property
    def source(self) -> str:
        """Authors, year, title, and the places in the paper."""
        return self._said(_PUBLISHED)

    def _said(self, prefix: str) -> str:
        found = (item for item in self.recipe.why.evidence if item.startswith(prefix))
        return next(found).removeprefix(prefix)


def bundled_names() -> list[str]:
    """Return the names of all of them, sorted."""
    folder = files("subopt.recipes").joinpath("papers")
    return sorted(
        item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")
    )


def load_bundled(name: str) -> Bundled:
    """Return one of them.

    Raises:
        UsageError: There is none of that name.
    """
    names = bundled_names()
    if name not in names:
        raise UsageError(
            f"there is no bundled recipe '{name}'{suggestion(name, names)}",
            "subopt train --list names them all",
        )
    text = files("subopt.recipes").joinpath("papers", f"{name}.yaml").read_text("utf-8")
    return Bundled(name, text, parse_recipe(text, f"{PREFIX}{name}"))


def open_recipe(spec: str) -> tuple[Recipe, Path]:
    """Return the recipe that a command line names, and the path that paths in it are relative to the folder of.

    A file is meant where there is one, or where it looks like one: a suffix or a folder. Anything else is the name of a
    bundled recipe, whose paths start from the current folder; `bundled:NAME` always is.

    Raises:
        UsageError: Neither a file nor a bundled recipe.
        FileFormatError: The file is not a valid recipe.
    """
    path, name = Path(spec), spec.removeprefix(PREFIX)
    if name == spec and (path.exists() or path.suffix or len(path.parts) > 1):
        return load_recipe(path), path
    return load_bundled(name).recipe, Path(f"{name}.yaml")


def require_model(recipe: Recipe, name: str) -> None:
    """Refuse to train a bundled recipe without a model.

    Raises:
        UsageError: The recipe's target is still the placeholder.
    """
    if recipe.model.target == NO_MODEL:
        raise UsageError(
            f"{name} brings the settings, and you the model",
            f"subopt train {name} model.target=my_model.py",
        )
