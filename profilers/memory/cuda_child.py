"""Peak memory of a training step on a GPU, measured in a child process.

A process of its own gives clean counters and survives running out of memory. It loads the target again, takes real
steps with each method's real optimizer, and reads the allocator's highest mark in every phase.

Question and answer are files. The user's code runs in that process and may print what it likes, bytes included: its
output goes nowhere, and so neither mixes with ours nor passes for an answer.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from subopt.optimizers import create, stored_bytes

from ..device import release_memory
from ..record.profile import Memory, Peak, Phase, PhasePeaks, Settings
from ..target.load import load_target
from ..target.session import Session
from .simulation import at_its_largest, has_decompositions, needs_closure
from .step_peak import WatchedStep, watched_step, watched_steps

# With -m or -c Python looks for modules in the current folder first, where a user's fractions.py would take the
# standard library's place in our own imports. That entry goes before the first of them; sys is built in.
_START = (
    "import sys; sys.path[:] = [folder for folder in sys.path if folder]; "
    "from subopt.profilers.memory.cuda_child import main; main(sys.argv[1:])"
)
_CHILD = (sys.executable, "-c", _START)


class MeasurementError(Exception):
    """The child process ended without an answer."""


@dataclass(frozen=True)
class PeakRequest:
    """What the child process is to measure; everything in it survives JSON.

    Attributes:
        target: The arguments that load the target again; a path in them goes as text.
        settings: The profile's settings.
        methods: (method id, options) pairs.
    """

    target: dict[str, Any]
    settings: dict[str, Any]
    methods: list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class MeasuredPeaks:
    """What one method's training step took.

    Attributes:
        parameter_bytes: Parameters and buffers.
        gradient_bytes: Gradients at the end of the backward pass.
        activation_bytes: What the forward pass left behind for the backward pass, the batch included.
        state_bytes: Optimizer state on the GPU.
        phases: Highest bytes allocated in each phase.
        reserved_bytes: Highest bytes the allocator had taken from the GPU.
    """

    parameter_bytes: int
    gradient_bytes: int
    activation_bytes: int
    state_bytes: int
    phases: dict[Phase, int]
    reserved_bytes: int


def measure_in_child(request: PeakRequest) -> dict[str, MeasuredPeaks | str]:
    """Return by method what was measured, or the reason why it was not (it ran out of memory).

    Raises:
        MeasurementError: The child process failed as a whole.
    """
    with tempfile.TemporaryDirectory() as folder:
        question = Path(folder, "request.json")
        question.write_text(json.dumps(asdict(request), default=str), encoding="utf-8")
        rows = ask([*_CHILD, str(question)], Path(folder))
    return {
        name: row if isinstance(row, str) else MeasuredPeaks(**row) for name, row in rows.items()
    }


def ask(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a child process and return the rows it answers with.

    Args:
        command: Its command line; the path of the answer file is added as the last word.
        folder: An empty or nearly empty folder for its files.

    Raises:
        MeasurementError: It ended without an answer, or its answer is that it failed.
    """
    answer, errors = folder / "answer.json", folder / "errors.txt"
    with errors.open("wb") as file:
        # A file, not a pipe: a process the child leaves behind would keep a pipe open, and us waiting.
        done = subprocess.run(
            [*command, str(answer)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
            check=False,
        )
    if not answer.exists():
        lines = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        raise MeasurementError(f"its process ended with status {done.returncode}{last}")
    content: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "failed" in content:
        raise MeasurementError(content["failed"])
    return dict(content["rows"])


def measured_peak(measured: MeasuredPeaks) -> Peak:
    """Return the peak: what was allocated, up to what the allocator had reserved for it."""
    phase = max(measured.phases, key=lambda name: measured.phases[name])
    top = measured.phases[phase]
    return Peak(
        bytes=top,
        low_bytes=top,
        high_bytes=max(top, measured.reserved_bytes),
        phase=phase,
        by_phase=PhasePeaks(**measured.phases),
        source="measured",
    )


def measured_memory(measured: MeasuredPeaks) -> Memory:
    """Return the memory table of training with the method that was measured."""
    peak = measured_peak(measured)
    held = measured.parameter_bytes + measured.state_bytes
    held += measured.activation_bytes if peak.phase in {"forward", "backward"} else 0
    held += measured.gradient_bytes if peak.phase in {"step", "refresh"} else 0
    return Memory(
        parameter_bytes=measured.parameter_bytes,
        gradient_bytes=measured.gradient_bytes,
        activation_bytes=measured.activation_bytes,
        temporary_bytes=max(0, peak.bytes - held),
        optimizer_state_bytes=measured.state_bytes,
        peak_bytes=peak.bytes,
        source="measured",
    )


def measure(session: Session, method: str, options: Mapping[str, Any]) -> MeasuredPeaks:
    """Take real steps with one method on the GPU and read the allocator's marks.

    Raises:
        torch.cuda.OutOfMemoryError: It does not fit.
    """
    release_memory()
    model = session.build_on_device()
    groups = session.target.param_groups(model)
    optimizer = create(method, model, groups=groups, **at_its_largest(method, options))
    meter = _Allocator(session.device)
    batches, closes = session.batches(), needs_closure(method)

    def take() -> WatchedStep:
        batch = next(batches)

        def loss_of() -> Tensor:
            return session.loss(model, session.place(batch))

        return watched_step(model, optimizer, loss_of, meter, needs_closure=closes)

    first, *_, ordinary, last = watched_steps(model, take)
    phases: dict[Phase, int] = {
        "forward": max(row.peaks["forward"].total() for row in (ordinary, last)),
        "backward": max(row.peaks["backward"].total() for row in (ordinary, last)),
        "step": ordinary.peaks["step"].total(),
    }
    if has_decompositions(method):
        phases["refresh"] = max(row.peaks["step"].total() for row in (first, last))
    tensors = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    return MeasuredPeaks(
        parameter_bytes=sum(t.numel() * t.element_size() for t in tensors.values()),
        gradient_bytes=last.gradient_bytes,
        activation_bytes=last.activation_bytes,
        state_bytes=sum(
            stored_bytes(leaf)
            for leaf in tree_leaves(list(optimizer.state.values()))
            if isinstance(leaf, Tensor)
        ),
        phases=phases,
        reserved_bytes=torch.cuda.max_memory_reserved(session.device),
    )


@dataclass(frozen=True)
class _Allocator:
    """The counters of torch's allocator on one GPU."""

    device: torch.device

    def live_bytes(self) -> int:
        return torch.cuda.memory_allocated(self.device)

    def peak_bytes(self) -> Counter[str]:
        return Counter({"all": torch.cuda.max_memory_allocated(self.device)})

    def begin(self, phase: Phase) -> None:
        del phase
        torch.cuda.reset_peak_memory_stats(self.device)


def _answer(request: PeakRequest) -> dict[str, Any]:
    place = {**request.target, "base": Path(request.target["base"])}
    session = Session(load_target(**place), Settings(**request.settings))
    rows: dict[str, Any] = {}
    for name, options in request.methods:
        try:
            rows[name] = asdict(measure(session, name, options))
        except torch.cuda.OutOfMemoryError:
            rows[name] = "it ran out of GPU memory"
    return {"rows": rows}


def main(arguments: Sequence[str]) -> None:
    """Read a request file, measure, write the answer file, in one step: it is whole or it is not there."""
    question, answer = map(Path, arguments)
    request = PeakRequest(**json.loads(question.read_text(encoding="utf-8")))
    try:
        content = _answer(request)
    except (
        Exception
    ) as error:  # whatever it is, the parent has to be told, and here is the edge of the process
        content = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    partial = answer.with_suffix(".partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(answer)
