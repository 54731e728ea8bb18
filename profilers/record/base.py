"""What the records of the profile file have in common: frozen, no unknown keys, no infinities, units in the names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# The bounds are far beyond anything real: what a reader computes from numbers within them is finite, and fits 64 bits.
MOST = 2**63 - 1
Count = Annotated[int, Field(ge=0, le=MOST)]
Bytes = Annotated[int, Field(ge=0, le=MOST)]
Milliseconds = Annotated[float, Field(ge=0, le=1e18)]
Share = Annotated[float, Field(ge=0)]
Shape = Annotated[list[Annotated[int, Field(ge=0, le=2**48)]], Field(max_length=16)]
WholeKey = Annotated[
    str, Field(pattern=r"^[0-9]{1,12}$")
]  # a rank, steps or batches, as JSON has it for a key
ShareKey = Annotated[str, Field(pattern=r"^(0?\.[0-9]{1,9}|1(\.0{1,9})?)$")]
Source = Literal["measured", "simulated", "formula"]
Phase = Literal["forward", "backward", "step", "refresh"]
Category = Literal["parameter", "gradient", "state", "activation", "temporary"]


class Record(BaseModel):
    """Plain data: unknown keys are refused, so a misspelt or newer file is an error and never a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
