"""Finished training runs of this machine: what was predicted and what it took, one JSON object per line.

The file is `runs.jsonl` in `$SUBOPT_STATE`, else in `subopt/` of `$XDG_STATE_HOME`, else in `~/.local/state/subopt`.
`SUBOPT_STATE=off` stores and reads nothing. A line says which device, versions, method and settings a run had, and its
numbers; of the user's files it holds one hash, never a name or a path.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import torch
from filelock import FileLock
from pydantic import ConfigDict, Field, ValidationError

from ..device import gpu_status
from ..record.base import Bytes, Count, Record

VARIABLE = "SUBOPT_STATE"
_OFF = "off"
_FILE = "runs.jsonl"

# The newest so many are kept; the file is cut back to them once it holds a fifth more.
MOST_RUNS = 1000
_CUT_AT = 1200
# Only so much of a file's end is ever read: far more than its runs take.
_MOST_BYTES = 8 << 20
_LONGEST_LINE = 16 << 10

Text = Annotated[str, Field(max_length=200)]
PeakSource = Literal["allocator", "process"]
Milliseconds = Annotated[float, Field(gt=0, le=1e12)]


class Numbers(Record):
    """Optimizer state, highest memory and median step of a run; None where nobody could tell."""

    state_bytes: Bytes | None = None
    peak_bytes: Bytes | None = None
    step_ms: Milliseconds | None = None


class PastRun(Record):
    """One training run that ended.

    `predicted` is as the profile had it, before any correction by earlier runs. `steps`: those done. `peak_source`:
    "allocator" counts tensors, as the prediction does; "process" counts everything the process grew by.
    """

    # a later version may say more about a run
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    when: Text
    subopt: Text
    torch: Text
    device: Text
    target_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    method: Text
    options: dict[Text, Text | int | float | bool | list[float] | None]
    precision: Text
    batch_size: Count
    accumulate: Count = 1
    recompute: bool = False
    fused_backward: bool = False
    compile: bool = False
    steps: Count
    predicted: Numbers
    actual: Numbers
    peak_source: PeakSource | None = None


def history_folder(variables: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder of the history, or None where the user turned it off or has no home."""
    named = variables.get(VARIABLE, "")
    if named.strip().lower() == _OFF:
        return None
    if named:
        return Path(named).expanduser()
    state = Path(variables.get("XDG_STATE_HOME", ""))
    if state.is_absolute():  # what its specification asks for; anything else is to be ignored
        return state / "subopt"
    try:
        return Path.home() / ".local" / "state" / "subopt"
    except RuntimeError:
        return None


def history_file() -> Path | None:
    """Return the history's file, which need not exist, or None where there is to be none."""
    folder = history_folder()
    return None if folder is None else folder / _FILE


def device_name(device: torch.device) -> str:
    """Return what runs are compared by: the GPU's name, or the processor's and how many threads torch uses of it."""
    if device.type == "cuda":
        gpu = gpu_status(device.index or 0)
        return gpu.name if gpu else torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{_cpu_name()}, {torch.get_num_threads()} threads"
    return f"{_cpu_name()}, {device.type}"


def record_run(run: PastRun) -> Path | None:
    """Add a run to the history; return the file, or None where the history is off.

    One write under a lock: runs that end at the same moment, or a kill, damage no line but at most their own.

    Raises:
        OSError: The folder or the file cannot be written.
    """
    path = history_file()
    if path is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    line = run.model_dump_json().encode() + b"\n"
    with FileLock(path.parent / f".{_FILE}.lock"):
        with path.open("ab+", buffering=0) as file:
            # a line that a full disk or a kill cut short must not swallow this one
            file.write(line if _ends_a_line(file) else b"\n" + line)
        _cut(path)
    return path


def past_runs() -> list[PastRun]:
    """Return the runs of the history, oldest first; lines that are no run are left out."""
    path = history_file()
    if path is None:
        return []
    try:
        lines = _last_lines(path)
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValidationError):
            found.append(PastRun.model_validate_json(line))
    return found[-MOST_RUNS:]


def _ends_a_line(file: BinaryIO) -> bool:
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _cut(path: Path) -> None:
    """Leave the newest runs alone in the file, once there are more than enough."""
    lines = _last_lines(path)
    if len(lines) <= _CUT_AT and path.stat().st_size <= _MOST_BYTES:
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(b"".join(line + b"\n" for line in lines[-MOST_RUNS:]))
    partial.replace(path)


def _last_lines(path: Path) -> list[bytes]:
    """Return the lines at the end of the file that are short enough to be runs."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = max(0, size - _MOST_BYTES)
        file.seek(start)
        lines = file.read(_MOST_BYTES).split(b"\n")
    whole = lines[1:] if start else lines
    return [line for line in whole if 0 < len(line) <= _LONGEST_LINE]


def _cpu_name() -> str:
    """Return the processor as the kernel names it, else as Python does."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
