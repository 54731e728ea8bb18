"""The recipe file: one YAML document that says how to train, and why that way.

Loaded with YAML's safe loader and one strict model: unknown keys, wrong types and values out of range are
errors with file, line and key. Methods are named by id only. The one thing in a recipe that runs code is
`model.target`: a Python file, or a module below the recipe's or the current folder, and in it a model or something
defined in that very file. Neither the standard library nor an installed package can be named, and nothing that the
file imported. Training runs that file, as running it with Python would: train recipes whose model file you trust.
What `hf:` names is a config, and that is data: no code of anybody's runs but the transformers package's own.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from subopt.errors import OptionError
from subopt.profilers.record.data import Files

Scalar = str | int | float | bool | None
OptionValue = Scalar | list[float]
Options = dict[str, OptionValue]
LearningRate = Annotated[float, Field(gt=0, le=100)]
Decay = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**12)]


class _Section(BaseModel):
    # strict: `steps: true` and `lr: "fast"` are mistakes, not a 1 and a guess
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Model(_Section):
    """Which model: the target as `subopt profile` takes it, relative to the recipe file."""

    target: str
    kwargs: dict[str, str | int | float | bool] = {}
    sha256: str | None = None


class Data(_Section):
    """How much data a step sees: `batch_size` examples, `accumulate` times; of `files`, or of the model file."""

    batch_size: Count = 8
    accumulate: Count = 1
    files: Files | None = None


class Fallback(_Section):
    """What trains the parameters the method leaves alone: embeddings, head, norms, biases."""

    method: Literal["adamw", "adamw-nomom", "same"] | None = None
    lr: LearningRate | None = None
    weight_decay: Decay | None = None


class Override(_Section):
    """Other settings for the parameters whose name `pattern`, a regular expression, is found in; first match wins.

    `options` without a `method` add to the main ones; with a `method` they stand alone. Beside the methods there are
    `fallback`, which leaves the parameters to the recipe's fallback, and `frozen`, which does not train them.
    """

    pattern: str
    method: str | None = None
    lr: LearningRate | None = None
    weight_decay: Decay | None = None
    options: Options = {}

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str) -> str:
        from subopt.optimizers.name_patterns import compile_pattern

        try:
            compile_pattern(pattern)
        except OptionError as error:
            hint = f"; {error.hint}" if error.hint else ""
            raise ValueError(f"{error.message}{hint}") from None
        return pattern

    @model_validator(mode="after")
    def _special_methods_take_less(self) -> Override:
        from subopt.optimizers.overrides import SPECIAL, check_special

        if self.method in SPECIAL:
            check_special(self.method, self.model_dump(exclude_none=True))
        return self


class Optimizer(_Section):
    """The method for the matrices and everything it needs."""

    method: str
    lr: LearningRate
    weight_decay: Decay = 0.0
    options: Options = {}
    fallback: Fallback = Fallback()
    overrides: list[Override] = []


class Schedule(_Section):
    """Learning rate over the run, as a share of its peak: warm-up from 0, then the named decay to `final_ratio`."""

    name: Literal["constant", "cosine", "linear"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    steps: Count
    final_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Schedule:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be below steps ({self.steps})"
            )
        return self

    def over(self, steps: int) -> Schedule:
        """Return the same shape over another number of steps."""
        warmup_steps = min(round(self.warmup_steps / self.steps * steps), steps - 1)
        return self.model_copy(update={"steps": steps, "warmup_steps": warmup_steps})


class Evaluation(_Section):
    """Held-out loss every `every` steps over `batches` batches; `every: 0` only at the end."""

    every: Annotated[int, Field(ge=0)] = 0
    batches: Count = 16


class Checkpoint(_Section):
    """A checkpoint every `every` steps (0: only at the end), the newest `keep` of them kept.

    `best` keeps the weights of the lowest held-out loss as well.
    """

    every: Annotated[int, Field(ge=0)] = 0
    keep: Count = 2
    best: bool = False


class Why(_Section):
    """What the choice rests on; ignored by training, except for predicted against actual at the end."""

    profile_sha256: str | None = None
    device: str | None = None
    budget_bytes: int | None = None
    predicted_state_bytes: int | None = None
    predicted_peak_bytes: int | None = None
    predicted_step_ms: float | None = None
    step_factor: Annotated[float, Field(gt=0, le=1e6)] | None = None  # in predicted_step_ms already
    evidence: list[str] = []


class Recipe(_Section):
    """A complete training run."""

    schema_version: Literal[1] = 1
    model: Model
    data: Data = Data()
    optimizer: Optimizer
    schedule: Schedule
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    precision: Literal["fp32", "bf16", "bf16-mixed"] = "fp32"
    recompute: bool = False  # activation checkpointing of the repeated blocks
    fused_backward: bool = False  # update each weight as soon as its gradient is complete
    compile: bool = False  # torch.compile
    eval: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    why: Why = Why()
