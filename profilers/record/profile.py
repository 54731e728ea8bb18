"""The profile file: one JSON document that says what was measured, on what, and how.

Everything in it is plain data with units in the names: bytes are integers, times milliseconds, absent is null.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from subopt.errors import FileFormatError

from .base import Bytes, Category, Count, Milliseconds, Phase, Record
from .cost import (
    BatchPoint,
    Calibration,
    Content,
    Decomposition,
    Memory,
    MethodCost,
    Peak,
    PhasePeaks,
    Ratios,
    Saving,
    Spent,
)
from .data import Files
from .layer import (
    Activations,
    Agreement,
    Blocks,
    Diagonality,
    Layer,
    Noise,
    OffDiagonal,
    Ratio,
    Spectrum,
    Spread,
    SubspaceLife,
)
from .race import Contestant, CurvePoint, LeftOut, Race, Trial

__all__ = [
    "Activations",
    "Agreement",
    "BatchPoint",
    "Blocks",
    "Calibration",
    "Category",
    "Content",
    "Contestant",
    "CurvePoint",
    "Decomposition",
    "Diagonality",
    "Environment",
    "Files",
    "Gpu",
    "Layer",
    "LeftOut",
    "Losses",
    "Memory",
    "MethodCost",
    "Noise",
    "OffDiagonal",
    "Peak",
    "Phase",
    "PhasePeaks",
    "Profile",
    "Race",
    "Ratio",
    "Ratios",
    "Saving",
    "Settings",
    "Spectrum",
    "Spent",
    "Spread",
    "SubspaceLife",
    "Target",
    "Trial",
]

SCHEMA_VERSION: Literal[1] = 1
_MAKE_ONE = "make one with: subopt profile model.py"


class Target(Record):
    """The model that was profiled, precisely enough to load it again."""

    spec: str
    kwargs: dict[str, str | int | float | bool] = {}
    file: str | None = None
    line: int | None = None
    picked: str
    sha256: str | None = None
    synthetic_data: bool = False
    files: Files | None = None  # of which the data was; their paths are absolute
    loads_weights: bool = False  # while it was built: from a checkpoint

    @property
    def is_hf(self) -> bool:
        """Whether the model is a Hugging Face config and not code of the user's."""
        return self.spec.startswith("hf:")


class Losses(Record):
    """What the loss was while the profile was made.

    `first` is the first batch's before any step, `run` that of every step of the short run. `outputs` is the last
    dimension of what the model returns: as many classes a language model chooses from; None where it is no tensor.
    """

    first: float
    run: list[float] = []
    outputs: Count | None = None


class Gpu(Record):
    """One GPU as the driver reports it."""

    name: str
    total_bytes: Bytes
    free_bytes: Bytes
    used_bytes: Bytes
    driver: str
    other_processes: Count = 0


class Environment(Record):
    """Where the numbers were taken."""

    subopt: str
    torch: str
    python: str
    platform: str
    device: str
    threads: Count
    gpu: Gpu | None = None


class Settings(Record):
    """What was asked for."""

    batch_size: Count
    batches: Count
    steps: Count = 0
    warmup_steps: Count = 0
    rank: Annotated[int, Field(ge=1, le=2**48)] | Annotated[float, Field(gt=0, le=1)] = 0.25
    dtype: Literal["fp32", "bf16", "bf16-mixed"] = "fp32"
    device: str = "cpu"
    detail: Literal["quick", "standard", "full"] = "standard"
    simulate: bool = False
    seed: Count = 0
    gpu_mem_bytes: Bytes | None = None
    max_memory_bytes: Bytes | None = None  # of gradients held at once
    tokens_per_batch: Count | None = None


class Profile(Record):
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
    batch_ms: Milliseconds | None = None  # fetching a batch and placing it on the device
    clip_ms: Milliseconds | None = None  # the norm of all gradients, and clipping them to it
    spent: list[Spent] = []  # where the profile's own time went, the longest first
    passes: Count = 0  # forward and backward passes among it
    missing: list[str] = []
    losses: Losses | None = None  # None where nothing was run, and in profiles of earlier versions
    interrupted: bool = False
    calibration: Calibration | None = None  # None where no run on this machine has ended yet
    race: Race | None = None

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
            if path.exists() and not (path.is_file() or path.is_dir()):
                # a pipe or a device may give bytes for ever
                raise FileFormatError(f"{path} cannot be read: it is not a file", _MAKE_ONE)
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise FileFormatError(f"there is no profile at {path}", _MAKE_ONE) from None
        except OSError as error:
            raise FileFormatError(f"{path} cannot be read: {error.strerror}", _MAKE_ONE) from None
        except UnicodeDecodeError:
            raise FileFormatError(f"{path} is not a profile: it is no text", _MAKE_ONE) from None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise FileFormatError(
                f"{path} is not a profile: {where}: {first['msg']}",
                "make it again with: subopt profile model.py",
            ) from None
