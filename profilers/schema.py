"""The profile file: one JSON document that says what was measured, on what, and how.

Everything in it is plain data with units in the names: bytes are integers, times milliseconds, absent is null.
Unknown keys are refused, so a misspelt or newer file is an error and never a silent default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from subopt.errors import FileFormatError

SCHEMA_VERSION: Literal[1] = 1

Bytes = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]
Source = Literal["measured", "simulated", "formula"]
Phase = Literal["forward", "backward", "step", "refresh"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Target(_Record):
    """The model that was profiled, precisely enough to load it again."""

    spec: str
    kwargs: dict[str, str | int | float | bool] = {}
    file: str | None = None
    line: int | None = None
    picked: str
    sha256: str | None = None
    synthetic_data: bool = False


class Gpu(_Record):
    """One GPU as the driver reports it."""

    name: str
    total_bytes: Bytes
    free_bytes: Bytes
    used_bytes: Bytes
    driver: str
    other_processes: int = 0


class Environment(_Record):
    """Where the numbers were taken."""

    subopt: str
    torch: str
    python: str
    platform: str
    device: str
    threads: int
    gpu: Gpu | None = None


class Settings(_Record):
    """What was asked for."""

    batch_size: int
    batches: int
    steps: int = 0
    warmup_steps: int = 0
    rank: int | float = 0.25
    dtype: Literal["fp32", "bf16", "bf16-mixed"] = "fp32"
    device: str = "cpu"
    detail: Literal["quick", "standard", "full"] = "standard"
    simulate: bool = False
    seed: int = 0
    gpu_mem_bytes: Bytes | None = None
    max_memory_bytes: Bytes | None = None  # of gradients held at once
    tokens_per_batch: int | None = None


class Spread(_Record):
    """A quantity over the measured batches."""

    mean: float
    min: float
    max: float


class Spectrum(_Record):
    """Gradient spectrum of one layer, energies of singular values, averaged over batches."""

    stable_rank: Spread
    effective_rank: Spread
    rank_at_energy: dict[str, Spread]
    energy_at_rank: dict[str, Spread]


class SubspaceLife(_Record):
    """Share of the gradient's energy a basis still holds `lag` steps after it was fitted."""

    lag: list[int]
    frozen: list[float]
    tracked: list[float]


class Ratio(_Record):
    """Diagonal share of the second moment's squared norm, biased low for few batches, and the unbiased estimate."""

    ratio: float | None
    unbiased: float | None
    in_sample: bool = False


class Diagonality(_Record):
    """Diagonality in each basis, beside what white noise of the same size would give."""

    raw: Ratio | None = None
    one_sided: Ratio | None = None
    two_sided: Ratio | None = None
    covariance: Ratio | None = None
    low_rank: Ratio | None = None
    white_noise: dict[str, float] = {}


class Layer(_Record):
    """One parameter and what was measured of it."""

    name: str
    shape: list[int]
    kind: str
    layer_kind: Literal["linear", "conv"] | None = (
        None  # of the plain torch layer whose weight it is
    )
    treatment: Literal["matrix", "fallback", "frozen"]
    reason: str
    spectrum: Spectrum | None = None
    subspace: dict[str, SubspaceLife] | None = None
    diagonality: Diagonality | None = None
    blocks: dict[str, float] | None = None
    activations: dict[str, float] | None = None


class Memory(_Record):
    """What plain AdamW training of this model takes, by category, and where the numbers come from."""

    parameter_bytes: Bytes
    gradient_bytes: Bytes
    activation_bytes: Bytes | None = None
    temporary_bytes: Bytes | None = None
    optimizer_state_bytes: Bytes
    peak_bytes: Bytes | None = None
    source: Source


class PhasePeaks(_Record):
    """Peak bytes of each phase of a training step."""

    forward: Bytes | None = None
    backward: Bytes | None = None
    step: Bytes | None = None
    refresh: Bytes | None = None


class Peak(_Record):
    """The highest memory of a training step, as an interval, and the phase that sets it."""

    bytes: Bytes
    low_bytes: Bytes
    high_bytes: Bytes
    phase: Phase
    by_phase: PhasePeaks
    source: Source


class MethodCost(_Record):
    """What one optimizer method costs on this model; FLOPs are relative to a forward and backward pass."""

    method: str
    options: dict[str, str | int | float | bool | list[float] | None] = {}
    state_bytes: Bytes
    transient_bytes: Bytes
    weight_bytes_saved: int = (
        0  # where the method holds weights in another form; negative: it needs more
    )
    peak: Peak | None = None
    step_flops: float
    bound_flops: float
    relative_flops: float | None = None
    bound_relative: float | None = None  # bound_flops in the unit of relative_flops
    step_ms: float | None = (
        None  # beyond one forward and backward pass; negative where replaced layers make those faster
    )
    overhead_ms: float | None = (
        None  # beyond AdamW's step, timed in turn with this one; negative where it is faster
    )
    step_ms_source: Source | None = None


class Decomposition(_Record):
    """Time of one way to find or follow a basis, at one of the model's shapes."""

    shape: list[int]
    rank: int
    kernel: str
    median_ms: Milliseconds
    iqr_ms: Milliseconds
    times_online_pca: float
    ms_per_training_step: Milliseconds
    device: str


class Profile(_Record):
    """Everything `subopt profile` found out."""

    schema_version: Literal[1] = SCHEMA_VERSION
    target: Target
    environment: Environment
    settings: Settings
    layers: list[Layer]
    memory: Memory
    methods: list[MethodCost]
    decompositions: list[Decomposition] = []
    forward_backward_ms: Milliseconds | None = None
    missing: list[str] = []
    interrupted: bool = False

    def save(self, path: Path) -> None:
        """Write the profile as indented JSON, creating the folder and replacing the file in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a profile.

        Raises:
            FileFormatError: The file is missing, is not JSON, or is not a profile of this version.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise FileFormatError(
                f"there is no profile at {path}", "make one with: subopt profile model.py"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise FileFormatError(f"{path} cannot be read: {error}") from None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise FileFormatError(
                f"{path} is not a profile: {where}: {first['msg']}",
                "make it again with: subopt profile model.py",
            ) from None
