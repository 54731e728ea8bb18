"""`subopt schema`: the JSON Schema of a file format."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class SchemaName(str, Enum):
    """The two file formats."""

    profile = "profile"
    recipe = "recipe"


def schema(
    which: Annotated[
        SchemaName, typer.Argument(metavar="profile|recipe", help="Which file format.")
    ],
) -> None:
    """Print the JSON Schema of profile.json or recipe.yaml."""
    from pydantic import BaseModel

    from subopt.profilers.record.profile import Profile
    from subopt.recipes.schema import Recipe

    from ..terminal.output import Output

    record: type[BaseModel] = Profile if which is SchemaName.profile else Recipe
    Output(as_json=True).document(record.model_json_schema())
