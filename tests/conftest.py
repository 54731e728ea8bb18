"""What every test relies on: one torch thread, no hypothesis deadline, GPU tests skipped with a reason."""

from __future__ import annotations

import os
import warnings

import hypothesis
import pytest
import torch

# One thread: results do not depend on the machine's cores, and parallel workers do not fight over them.
torch.set_num_threads(1)

# No deadline, since a test must not fail on a time; the same examples on every CI run.
hypothesis.settings.register_profile(
    "subopt", deadline=None, derandomize=bool(os.environ.get("CI"))
)
hypothesis.settings.load_profile("subopt")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where torch sees no CUDA device."""
    with warnings.catch_warnings():
        # A CUDA build of torch on a machine without a driver warns when asked.
        warnings.simplefilter("ignore")
        has_gpu = torch.cuda.is_available()
    if has_gpu:
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, and torch sees none")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
