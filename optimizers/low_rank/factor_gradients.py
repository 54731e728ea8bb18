"""One backward pass that yields the gradients of K = U S and L = V S^T, and never the gradient of W.

Legend: W = U S V^T is m x n, U m x q, S q x q, V n x q; G is the gradient of the loss by W; X is the layer's input
(N x n), Y its output (N x m), dY the loss' gradient by Y. Both passes return G V in the place of U's gradient and G^T U
in that of V's: the gradients of K V^T by K and of U L^T by L, at the same W.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_convolution = torch.ops.aten.convolution.default
_convolution_backward = torch.ops.aten.convolution_backward.default


class Window(NamedTuple):
    """How a kernel moves over its input: one number per dimension in each."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


class LinearBases(torch.autograd.Function):
    """Y = X V S^T U^T + b, with G V = dY^T (X V) and G^T U = X^T (dY U).

    Memory: X and X V are kept for the backward pass, which makes dY U and thin products only.
    """

    @staticmethod
    def forward(
        ctx: Any, X: Tensor, U: Tensor, S: Tensor, V: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Return Y."""
        Z = X @ V
        ctx.save_for_backward(X, Z, U, S, V)
        return torch.nn.functional.linear(Z, U @ S, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dY: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by X, K, L and b."""
        X, Z, U, S, V = ctx.saved_tensors
        H = dY @ U
        dX = (H @ S) @ V.mT if ctx.needs_input_grad[0] else None
        rows = dY.reshape(-1, dY.shape[-1])
        dK = rows.mT @ Z.reshape(-1, Z.shape[-1])
        dL = X.reshape(-1, X.shape[-1]).mT @ H.reshape(-1, H.shape[-1])
        return dX, dK, None, dL, rows.sum(0) if ctx.needs_input_grad[4] else None


class ConvBases(torch.autograd.Function):
    """A convolution with V's q kernels, then a 1 x 1 convolution with U S; the gradients as `LinearBases`.

    X V is the convolution with V's columns as kernels, and X^T (dY U) that convolution's weight gradient. Unfolding X
    would need the kernel's size times the memory of X; this needs q channels of the output's size, twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        X: Tensor,
        U: Tensor,
        S: Tensor,
        V: Tensor,
        bias: Tensor | None,
        kernel: tuple[int, ...],
        window: Window,
    ) -> Tensor:
        """Return the convolution of X, a batch, with W's rows as kernels of shape `kernel` (channels first)."""
        Z = _convolve(X, kernels(V, kernel), None, window)
        ctx.save_for_backward(X, Z, U, S, V)
        ctx.kernel, ctx.window, ctx.has_bias = kernel, window, bias is not None
        return _convolve(Z, pointwise(U @ S, X.dim()), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dY: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by X, K, L and the bias."""
        X, Z, U, S, V = ctx.saved_tensors
        mask = (True, True, ctx.has_bias)
        H, dK, db = _convolution_gradients(dY, Z, pointwise(U, X.dim()), mask)
        weight = kernels(V, ctx.kernel)
        _, dL, _ = _convolution_gradients(H, X, weight, (False, True, False), ctx.window)
        dX = None
        if ctx.needs_input_grad[0]:
            dZ = _convolve(H, pointwise(S.mT, X.dim()), None)
            dX, _, _ = _convolution_gradients(dZ, X, weight, (True, False, False), ctx.window)
        q = U.shape[1]
        return dX, dK.reshape(-1, q), None, dL.reshape(q, -1).mT, db, None, None


def kernels(V: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Return V's columns as kernels: (q, channels, *size)."""
    return V.mT.reshape(V.shape[1], *kernel)


def pointwise(M: Tensor, dimensions: int) -> Tensor:
    """Return M as the weight of a convolution of kernel size 1 over tensors of so many dimensions."""
    return M.reshape(*M.shape, *[1] * (dimensions - 2))


def _convolve(
    X: Tensor, weight: Tensor, bias: Tensor | None, window: Window | None = None
) -> Tensor:
    window = window or _unmoved(X)
    result: Tensor = _convolution(X, weight, bias, *window, False, [0] * len(window.stride), 1)
    return result


def _convolution_gradients(
    dY: Tensor,
    X: Tensor,
    weight: Tensor,
    mask: tuple[bool, bool, bool],
    window: Window | None = None,
) -> Any:
    """Return the gradients by input, weight and bias, each where the mask asks for it."""
    window = window or _unmoved(X)
    biases = [weight.shape[0]] if mask[2] else None
    padding = [0] * len(window.stride)
    return _convolution_backward(dY, X, weight, biases, *window, False, padding, 1, mask)


def _unmoved(X: Tensor) -> Window:
    ones, zeros = (1,) * (X.dim() - 2), (0,) * (X.dim() - 2)
    return Window(ones, zeros, ones)
