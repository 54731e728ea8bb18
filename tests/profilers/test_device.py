"""Devices, with a stand-in for the driver's library."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from subopt import __version__
from subopt.errors import UsageError
from subopt.profilers.device import environment, gpu_status, resolve_device


class FakeError(Exception):
    pass


class FakeDriver:
    """Two GPUs, as pynvml would report them."""

    NVMLError = FakeError

    def __init__(self, *, present=True, tells_processes=True):
        self.present, self.tells_processes = present, tells_processes
        self.open = 0

    def nvmlInit(self):
        if not self.present:
            raise FakeError("no driver")
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):
        return "570.1"

    def nvmlDeviceGetHandleByIndex(self, index):
        if index not in {0, 1}:
            raise FakeError("no such GPU")
        return index

    def nvmlDeviceGetHandleByUUID(self, name):
        return {"GPU-aaaa": 0, "GPU-bbbb": 1}[name]

    def nvmlDeviceGetName(self, handle):
        return f"Fake {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=100 + handle, free=60, used=40 + handle)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        if not self.tells_processes:
            raise FakeError("not supported")
        return [SimpleNamespace(pid=pid) for pid in (os.getpid(), 1, 2)]


@pytest.fixture
def driver(monkeypatch):
    """Return a function that puts a fake driver in place of pynvml."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(**options):
        fake = FakeDriver(**options)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


def test_the_gpu_is_reported(driver):
    fake = driver()
    gpu = gpu_status(1)
    assert gpu is not None
    assert gpu.model_dump() == {
        "name": "Fake 1",
        "total_bytes": 101,
        "free_bytes": 60,
        "used_bytes": 41,
        "driver": "570.1",
        "other_processes": 2,
    }
    assert fake.open == 0


def test_without_a_driver_there_is_no_gpu(driver):
    driver(present=False)
    assert gpu_status() is None


def test_a_gpu_that_is_not_there_is_none_and_the_driver_is_let_go(driver):
    fake = driver()
    assert gpu_status(5) is None
    assert fake.open == 0


def test_a_driver_that_does_not_tell_processes_still_tells_memory(driver):
    driver(tells_processes=False)
    gpu = gpu_status()
    assert gpu is not None
    assert (gpu.other_processes, gpu.total_bytes) == (0, 100)


@pytest.mark.parametrize(
    ("visible", "index", "name"),
    [
        ("1,0", 0, "Fake 1"),
        ("1,0", 1, "Fake 0"),
        ("GPU-bbbb", 0, "Fake 1"),
        ("1", 1, None),
        ("", 0, None),
        ("-1", 0, None),
        ("0,-1,1", 2, None),
    ],
)
def test_visible_devices_count(driver, monkeypatch, visible, index, name):
    driver()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu = gpu_status(index)
    assert (None if gpu is None else gpu.name) == name


def cuda(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("text", "count", "device"),
    [
        (None, 0, torch.device("cpu")),
        (None, 2, torch.device("cuda", 0)),
        ("cpu", 2, torch.device("cpu")),
        ("cpu:0", 0, torch.device("cpu")),
        ("cuda", 2, torch.device("cuda", 0)),
        ("cuda:1", 2, torch.device("cuda", 1)),
    ],
)
def test_resolve_device(monkeypatch, text, count, device):
    cuda(monkeypatch, count)
    assert resolve_device(text) == device


@pytest.mark.parametrize(
    ("text", "count", "message"),
    [
        ("gpu", 1, "'gpu' is not a device"),
        ("", 1, "'' is not a device"),
        ("cuda", 0, "'cuda' is not available here"),
        ("cuda:2", 2, r"there is no cuda:2: this machine has 2 GPU\(s\)"),
        ("meta", 1, "'meta' is not available here"),
    ],
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, text, count, message):
    cuda(monkeypatch, count)
    with pytest.raises(UsageError, match=message) as caught:
        resolve_device(text)
    assert caught.value.hint


def test_the_environment_names_versions_and_device(driver):
    driver()
    cpu = environment(torch.device("cpu"))
    assert (cpu.subopt, cpu.torch, cpu.device, cpu.gpu) == (
        __version__,
        torch.__version__,
        "cpu",
        None,
    )
    assert cpu.threads == torch.get_num_threads()
    gpu = environment(torch.device("cuda", 1))
    assert gpu.device == "cuda:1"
    assert gpu.gpu is not None
    assert gpu.gpu.name == "Fake 1"


@pytest.mark.gpu
def test_the_real_driver_and_torch_agree_on_the_gpu():
    gpu = gpu_status(0)
    assert gpu is not None
    assert gpu.name == torch.cuda.get_device_name(0)
    assert gpu.total_bytes >= torch.cuda.get_device_properties(0).total_memory
