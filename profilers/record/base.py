"""What the records of the profile file have in common: frozen, no unknown keys, no infinities, units in the names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    """Plain data: unknown keys are refused, so a misspelt or newer file is an error and never a silent default.

    `renamed` has the keys under which earlier versions wrote a field, each with its name now.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_renamed_keys(cls, data: Any) -> Any:
        if not cls.renamed or not isinstance(data, Mapping):
            return data
        old = {key: new for key, new in cls.renamed.items() if key in data and new not in data}
        return {old.get(key, key): value for key, value in data.items()}
