"""What a run came to, predicted against actual: `result.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from subopt.errors import FileFormatError
from subopt.profilers.history.runs import PeakSource

from .disk import write_text


@dataclass(frozen=True, slots=True)
class Figures:
    """Memory and time of a run, as predicted or as measured; None where nobody can tell."""

    state_bytes: int | None = None
    peak_bytes: int | None = None
    step_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a training run.

    Attributes:
        target: What was trained.
        method: The optimizer method.
        device: Where.
        precision: fp32, bf16 or bf16-mixed.
        steps: Optimizer steps the recipe asked for.
        step: Optimizer steps done, earlier sessions included.
        resumed_from: The step this session started from; 0 for a fresh run.
        interrupted: Whether a signal, such as Ctrl-C, ended it before the last step.
        tokens: Tokens seen, earlier sessions included.
        loss: Training loss of the last step, or None if no step was done.
        eval_loss: Held-out loss after the last step, or None without held-out data.
        wall_s: Seconds of this session's training.
        predicted: What the method table and the recipe predicted.
        actual: What it took; the step time is the median over the run.
        peak_source: "allocator" (GPU), "process" (growth of the whole process), or None.
        diagnostics: What the optimizer counted, such as refreshes and non-finite gradients.
        output: The run folder.
        checkpoint: The newest checkpoint.
        weights: The final weights, or None for an interrupted run.
        best: Folder of the weights of the lowest held-out loss, or None where nobody asked for them.
        best_step: The step they are from.
        best_eval_loss: That loss.
        exit_status: Of the process: 0, or 128 and the number of the signal that ended the run.
        history: The file of earlier runs that this one was added to, or None.
    """

    target: str
    method: str
    device: str
    precision: str
    steps: int
    step: int
    resumed_from: int
    interrupted: bool
    tokens: int
    loss: float | None
    eval_loss: float | None
    wall_s: float
    predicted: Figures
    actual: Figures
    peak_source: PeakSource | None
    output: str
    checkpoint: str | None
    weights: str | None
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    history: str | None = None
    best: str | None = None
    best_step: int | None = None
    best_eval_loss: float | None = None
    exit_status: int = 0

    @property
    def tensor_peak_bytes(self) -> int | None:
        """The highest memory of the tensors, which is what was predicted; None where only the process is known."""
        return self.actual.peak_bytes if self.peak_source == "allocator" else None

    def save(self, path: Path) -> None:
        """Write it as indented JSON, in one step."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read what `save` wrote.

        Raises:
            FileFormatError: It is damaged.
        """
        from pydantic import TypeAdapter

        try:
            return TypeAdapter(cls).validate_json(path.read_bytes(), strict=True)
        except (OSError, ValueError) as error:
            raise FileFormatError(
                f"{path} is damaged: {error}", "delete it, then --resume writes it again"
            ) from None
