"""The convolution that holds W = U S V^T as its three factors and never forms W.

Legend: W is m x n with n = channels x kernel; U m x q, S q x q, V n x q.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from .factor_gradients import ConvBases, Window, kernels, pointwise
from .linear import LowRankLayer, truncated_factors

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

_CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class LowRankConv(LowRankLayer):
    """A convolution with V's q kernels, then 1 x 1 ones with S and U, in place of an `nn.Conv1d`, 2d or 3d.

    Takes every setting of those layers but groups.
    """

    def __init__(
        self, U: Tensor, S: Tensor, V: Tensor, bias: nn.Parameter | None, settings: dict[str, Any]
    ) -> None:
        super().__init__(U, S, V, bias)
        self.settings = settings
        self._kernel = (settings["in_channels"], *settings["kernel_size"])
        # torch's layer knows how its padding mode and "same" pad; an empty one is asked once.
        like = _convolution(settings, None, None)
        pads = list(like._reversed_padding_repeated_twice)
        padding: tuple[int, ...] = (0,) * len(like.stride)
        if like.padding_mode == "zeros" and not isinstance(like.padding, str):
            padding, pads = like.padding, []
        self._window = Window(like.stride, padding, like.dilation)
        self._pads = pads if any(pads) else []
        self._pad_mode = "constant" if like.padding_mode == "zeros" else like.padding_mode

    @classmethod
    def from_dense(cls, layer: Convolution, rank: int) -> LowRankConv:
        """Return the best approximation of the layer's out x (in * kernel) matrix at this rank; it shares the bias.

        Raises:
            ValueError: The layer has groups: its weight is not one matrix.
        """
        if layer.groups != 1:
            raise ValueError(f"a convolution with groups={layer.groups} is not one matrix")
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
        settings = {name: getattr(layer, name) for name in (*names, "padding_mode")}
        U, S, V = truncated_factors(layer.weight.detach().flatten(1), rank)
        return cls(U, S, V, layer.bias, settings)  # type: ignore[arg-type]  # torch's stub has a Tensor

    @property
    def dense_shape(self) -> tuple[int, ...]:
        """(out, in, *kernel)."""
        return len(self.U), *self._kernel

    def _down(self, x: Tensor, V: Tensor) -> Tensor:
        convolve = _CONVOLVE[len(self._kernel) - 1]
        return convolve(self._padded(x), kernels(V, self._kernel), None, *self._window)

    def _up(self, z: Tensor, M: Tensor, bias: Tensor | None = None) -> Tensor:
        dimensions = len(self._kernel) - 1
        return _CONVOLVE[dimensions](z, pointwise(M, dimensions + 2), bias)

    def _bases_pass(
        self, x: Tensor, U: Tensor, S: Tensor, V: Tensor, bias: Tensor | None
    ) -> Tensor:
        x = self._padded(x)
        is_batch = x.dim() == len(self._kernel) + 1
        batch = x if is_batch else x[None]
        result: Tensor = ConvBases.apply(  # type: ignore[no-untyped-call]
            batch, U, S, V, bias, self._kernel, self._window
        )
        return result if is_batch else result[0]

    def _padded(self, x: Tensor) -> Tensor:
        return functional.pad(x, self._pads, mode=self._pad_mode) if self._pads else x

    def to_dense(self) -> Convolution:
        """Return torch's convolution with the weight U S V^T and the same bias."""
        return _convolution(self.settings, self.weight, self.bias)

    def to_two_layers(self) -> nn.Sequential:
        """Return a convolution with V's kernels, then a 1 x 1 convolution with U S."""
        U, S, V = self.factors
        q, size = self.rank, len(self._kernel) - 1
        first = self.settings | {"out_channels": q}
        second = {"in_channels": q, "out_channels": len(U), "kernel_size": (1,) * size}
        return nn.Sequential(
            _convolution(first, kernels(V, self._kernel).contiguous(), None),
            _convolution(second, pointwise(U @ S, size + 2), self.bias),
        )


def _convolution(
    settings: dict[str, Any], weight: Tensor | None, bias: nn.Parameter | None
) -> Convolution:
    layer_class = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(settings["kernel_size"]) - 1]
    layer = layer_class(**settings, bias=bias is not None, device="meta")
    if weight is not None:
        layer.weight = nn.Parameter(weight)
    layer.bias = bias
    return layer
