"""What the records of the profile file have in common: frozen, no unknown keys, no infinities, units in the names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Bytes = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0)]
Source = Literal["measured", "simulated", "formula"]
Phase = Literal["forward", "backward", "step", "refresh"]
Category = Literal["parameter", "gradient", "state", "activation", "temporary"]


class Record(BaseModel):
    """Plain data: unknown keys are refused, so a misspelt or newer file is an error and never a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
