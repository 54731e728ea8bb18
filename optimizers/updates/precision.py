"""Products with bases at reduced precision, on hardware that has one: the fastest that a float32 matrix product can be.

It is torch's own setting, for the time of a product: float32 inputs are rounded as they are read, sums stay float32.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("full", "reduced")
_LOCK = threading.Lock()

# TF32 has 10 bits of a mantissa and bfloat16 7. What a device lacks it computes in full.
_REDUCED = {
    "cuda": (torch.backends.cuda.matmul, "tf32"),
    "cpu": (torch.backends.mkldnn.matmul, "bf16"),  # type: ignore[attr-defined]  # torch's stub lacks it
}


@contextmanager
def rotations(precision: str, device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices at this precision until the block ends: "reduced", or "full", as torch is set to.

    A product with an orthonormal basis is then typically off by 3e-4 of the other matrix' norm on CUDA and by 2e-3 on a
    CPU, and by four times as much at most: every entry of both is rounded. Moments that divide, as Adam's do, scale
    an error in small coordinates up with them. Float64 is left as it is, and so are weights that a product is added to.

    The setting is the process's: threads take turns. What it inherited from a more general one it keeps afterwards.
    """
    if precision == "full" or device.type not in _REDUCED:
        yield
        return
    backend, reduced = _REDUCED[device.type]
    with _LOCK:
        before = backend.fp32_precision
        backend.fp32_precision = reduced
        try:
            yield
        finally:
            backend.fp32_precision = before
