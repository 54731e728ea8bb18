"""Products with bases at reduced precision, on hardware that has one: the fastest that a float32 matrix product can be.

It is torch's own setting, for the time of a product: float32 inputs are rounded as they are read, sums stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("full", "reduced")

# TF32 has 10 bits of a mantissa and bfloat16 7. What a device lacks it computes in full.
_REDUCED = {
    "cuda": (torch.backends.cuda.matmul, "tf32"),
    "cpu": (torch.backends.mkldnn.matmul, "bf16"),
}


@contextmanager
def rotations(precision: str, device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices at this precision until the block ends: "reduced", or "full", as torch is set to.

    ||error|| <= 2^-11 ||product|| on CUDA and 2^-8 ||product|| on a CPU, about, where the matrices are a basis and a
    gradient: both are rounded, each entry by half a unit in its last place at most. Float64 is left as it is.
    """
    if precision == "full" or device.type not in _REDUCED:
        yield
        return
    backend, reduced = _REDUCED[device.type]
    before = backend.fp32_precision
    backend.fp32_precision = reduced
    try:
        yield
    finally:
        backend.fp32_precision = before
