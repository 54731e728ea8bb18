"""How often a layer's weight is used in a forward pass: tokens for a linear layer, output pixels for a convolution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


@contextmanager
def counted_positions(model: nn.Module) -> Iterator[Counter[str]]:
    """Count, during the forward passes inside, the vectors that each linear or convolutional weight multiplies.

    Yields:
        Counts by parameter name. A layer used twice counts twice; other kinds of layers are not in it.
    """
    counts: Counter[str] = Counter()
    parameters = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        name = names.get(id(module.weight))
        if name is None or not isinstance(output, Tensor):
            return
        # The first dimension of a weight is the output's channels, of a transposed convolution's the input's.
        is_transposed = isinstance(module, _ConvNd) and module.transposed
        vectors = inputs[0] if is_transposed else output
        counts[name] += vectors.numel() // parameters[name].shape[0]

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, (nn.Linear, _ConvNd)):
                hooks.enter_context(module.register_forward_hook(count))
        yield counts
