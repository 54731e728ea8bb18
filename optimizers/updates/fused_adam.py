"""Adam's step by torch's fused kernel: every number is read and written once.

torch corrects the bias of its moving averages when it uses them; here the averages themselves are corrected, by decays
that change with t (`averages.debiased`). Told that infinitely many steps have passed, the kernel corrects nothing, and
with those decays it takes the same step.

On a CPU the kernel takes a tensor for what lies in memory, whatever its strides (torch 2.13), so it is given nothing
that is not contiguous.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ..options import Options
from ..state import low_bit
from .averages import debiased
from .basis import State

_DTYPES = frozenset({torch.float32, torch.float64})
_DEVICES = frozenset({"cpu", "cuda"})
_PLAIN = frozenset({Tensor, nn.Parameter, FakeTensor})  # not a wrapper of other tensors


def descend(W: Tensor, G: Tensor, state: State, t: int, options: Options) -> bool:
    """Take Adam's step if the kernel can, and return whether it did.

    M <- EMA[G], V <- EMA[G^2], W <- (1 - lr weight_decay) W - lr M / (sqrt(V) + eps), in place.

    Args:
        W: Weights, in the shape of G or of its parameter.
        G: Gradient, not modified.
        state: Holds M as `exp_avg` and V as `exp_avg_sq`, of any dtype, in 8-bit blocks or not; modified.
        t: 1, 2, ...
        options: `betas`, `eps`, `lr` (of either sign) and `weight_decay`.

    Memory: transient, a copy of M and V where they are not of G's dtype.
    """
    if options["eps"] == 0:  # the kernel divides 0 by 0
        return False
    M, V = state["exp_avg"], state["exp_avg_sq"]
    if type(M) is not Tensor or M.dtype != G.dtype:
        M, V = low_bit.read(M, G.dtype), low_bit.read(V, G.dtype)
    if not _fits(W, G, M, V):
        return False
    beta1, beta2 = (debiased(beta, t) for beta in options["betas"])
    # Fake tensors have neither steps nor rates: whatever the kernel's description takes will do.
    is_fake = isinstance(M, FakeTensor)
    steps, lr = (M, 1.0) if is_fake else (_endless(W.device), options["lr"])
    torch._fused_adamw_(
        [W], [G], [M], [V], [], [steps],
        lr=lr, beta1=beta1, beta2=beta2, weight_decay=options["weight_decay"],
        eps=options["eps"], amsgrad=False, maximize=False,
    )  # fmt: skip
    for name, value in (("exp_avg", M), ("exp_avg_sq", V)):
        if value is not state[name]:
            low_bit.write(state[name], value)
    return True


@cache
def _endless(device: torch.device) -> Tensor:
    """Return the count of steps that leaves averages as they are."""
    return torch.full((), torch.inf, dtype=torch.float32, device=device)


def _fits(*tensors: Tensor) -> bool:
    dtype = tensors[0].dtype
    if dtype not in _DTYPES or tensors[0].device.type not in _DEVICES:
        return False
    return all(x.dtype == dtype and x.is_contiguous() and type(x) in _PLAIN for x in tensors)
