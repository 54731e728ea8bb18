"""The device: which one to use, what the driver says about it, and the environment the numbers come from."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from subopt import __version__
from subopt.errors import UsageError

from .record import profile as schema

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # version 2: a number, or "max"


def resolve_device(text: str | None) -> torch.device:
    """Return the device a user asked for, or the best there is: the first GPU, else the CPU.

    Raises:
        UsageError: No such device, or it is not available here.
    """
    if text is None:
        text = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        raise UsageError(f"'{text}' is not a device", "use cpu, cuda, cuda:1 or mps") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "mps" and torch.backends.mps.is_available():
        return device
    if device.type == "cuda" and torch.cuda.is_available():
        index, count = device.index or 0, torch.cuda.device_count()
        if index < count:
            return torch.device("cuda", index)
        raise UsageError(
            f"there is no {text}: this machine has {count} GPU(s)", "they are numbered from cuda:0"
        )
    hint = "use --device cpu"
    if device.type == "cuda" and torch.version.cuda is None and torch.version.hip is None:
        hint = "this torch is built for the CPU only: install a CUDA build, or use --device cpu"
    raise UsageError(f"the device '{text}' is not available here", hint)


def environment(device: torch.device) -> schema.Environment:
    """Return what a reader needs to know to trust or repeat a measurement on this device."""
    return schema.Environment(
        subopt=__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        device=str(device),
        threads=torch.get_num_threads(),
        gpu=gpu_status(device.index or 0) if device.type == "cuda" else None,
    )


def main_memory_bytes() -> int:
    """Return the main memory that this process may use: the machine's, or less where its control group has a limit."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CGROUP_LIMIT.read_text().strip()
    except OSError:
        return installed
    return min(installed, int(limit)) if limit.isdecimal() else installed


def gpu_status(index: int = 0) -> schema.Gpu | None:
    """Return what the NVIDIA driver says about a GPU, without starting CUDA on it.

    Args:
        index: Torch's number of the GPU, so CUDA_VISIBLE_DEVICES counts. The driver numbers by PCI bus; where GPUs of
            different speeds share a machine, set CUDA_DEVICE_ORDER=PCI_BUS_ID to make CUDA do the same.

    Returns:
        Its name, memory and other processes, or None where there is no driver or no such GPU. In a container other
        containers' processes may be invisible.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = _handle(pynvml, index)
        if handle is None:
            return None
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return schema.Gpu(
            name=pynvml.nvmlDeviceGetName(handle),
            total_bytes=memory.total,
            free_bytes=memory.free,
            used_bytes=memory.used,
            driver=pynvml.nvmlSystemGetDriverVersion(),
            other_processes=_other_processes(pynvml, handle),
        )
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _handle(pynvml: Any, index: int) -> Any | None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if index >= len(names):
        return None
    name = names[index]
    if name.lstrip("-").isdecimal():
        # CUDA hides everything from the first negative number on.
        is_hidden = any(before.startswith("-") for before in names[: index + 1])
        return None if is_hidden else pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name)


def _other_processes(pynvml: Any, handle: Any) -> int:
    try:
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:  # some drivers and partitions do not tell
        return 0
    return sum(process.pid != os.getpid() for process in running)


@contextmanager
def quick_release() -> Iterator[None]:
    """Let the collector look, within the block, at what is made in it alone: all of torch takes it half a second."""
    # Whoever froze something has seen to that, and what is frozen thaws as a whole.
    if gc.get_freeze_count() > 0:
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release_memory() -> None:
    """Collect what only cycles keep alive, and have the GPU's allocator and the C library return what they hold free.

    Optimizers can be in a cycle with their own hooks. And glibc keeps freed blocks of up to 32 MiB for itself: 0.5 GiB
    after a few training steps of a 60M-parameter model, beside which the next stage would allocate anew.
    """
    gc.collect()
    torch.cuda.empty_cache()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (
        AttributeError,
        OSError,
        TypeError,
    ):  # another C library; no handle of the process on Windows
        return
    trim(0)
