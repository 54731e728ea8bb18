"""Adam's step by torch's fused kernel: every number is read and written once.

torch corrects the bias of its moving averages when it uses them; here the averages themselves are corrected, by decays
that change with t (`averages.debiased`). Told that infinitely many steps have passed, the kernel corrects nothing, and
with those decays it takes the same step.

On a CPU the kernel takes a tensor for what lies in memory, whatever its strides (torch 2.13), so it is given nothing
that is not contiguous.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from . import low_bit
from .averages import debiased
from .step_rule import Hyper, State

_DTYPES = frozenset({torch.float32, torch.float64})
_DEVICES = frozenset({"cpu", "cuda"})


def descend(W: Tensor, G: Tensor, state: State, t: int, hyper: Hyper) -> bool:
    """Take Adam's step if the kernel can, and return whether it did.

    M <- EMA[G], V <- EMA[G^2], W <- (1 - lr weight_decay) W - lr M / (sqrt(V) + eps), in place.

    Args:
        W: Weights, in the shape of G or of its parameter.
        G: Gradient, not modified.
        state: Holds M as `exp_avg` and V as `exp_avg_sq`, of any dtype, in 8-bit blocks or not; modified.
        t: 1, 2, ...
        hyper: `betas`, `eps`, `lr` (of either sign) and `weight_decay`.

    Memory: transient, a copy of M and V where they are not of G's dtype.
    """
    M, V = (low_bit.read(state[name], G.dtype) for name in ("exp_avg", "exp_avg_sq"))
    if not _fits(W, G, M, V):
        return False
    beta1, beta2 = (debiased(beta, t) for beta in hyper["betas"])
    torch._fused_adamw_(
        [W], [G], [M], [V], [], [W.new_full((), torch.inf, dtype=torch.float32)],
        lr=hyper["lr"], beta1=beta1, beta2=beta2, weight_decay=hyper["weight_decay"],
        eps=hyper["eps"], amsgrad=False, maximize=False,
    )  # fmt: skip
    for name, value in (("exp_avg", M), ("exp_avg_sq", V)):
        if value is not state[name]:
            low_bit.write(state[name], value)
    return True


def _fits(*tensors: Tensor) -> bool:
    dtype, device = tensors[0].dtype, tensors[0].device
    return (
        dtype in _DTYPES
        and device.type in _DEVICES
        and all(tensor.dtype == dtype and tensor.is_contiguous() for tensor in tensors)
        and not any(is_traceable_wrapper_subclass(tensor) for tensor in tensors)
    )
