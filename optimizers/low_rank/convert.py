"""Low-rank layers in a model: their ranks, putting them in, and getting torch's own layers back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isqrt
from typing import Any

from torch import Tensor, nn

from subopt.errors import OptionError

from ..matrices import matrix_shape
from ..updates.basis import resolve_rank
from .conv import LowRankConv
from .linear import FACTORS, LowRankLayer, LowRankLinear

Options = Mapping[str, Any]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def break_even_rank(m: int, n: int) -> int:
    """Return the largest q, at least 1, with q (m + n) + q^2 <= m n: beyond it the factors are larger than W."""
    total = m + n
    return max(1, (isqrt(total**2 + 4 * m * n) - total) // 2)


def rank_limit(shape: Sequence[int], options: Options) -> int:
    """Return the largest rank that a layer with a weight of this shape may take.

    `max_rank` says it; without one it is the break-even rank, unless the full rank is asked for as the starting one
    (rank 1.0 or none): a layer is larger than the dense one only where that was written down.
    """
    m, n = matrix_shape(shape)
    if options["max_rank"] is not None:
        return resolve_rank(options["max_rank"], m) or m
    starts_full = options["rank"] is None or (
        isinstance(options["rank"], float) and options["rank"] == 1
    )
    return m if starts_full else break_even_rank(m, n)


def starting_rank(shape: Sequence[int], options: Options) -> int:
    """Return the rank that a layer with a weight of this shape starts with."""
    m, _ = matrix_shape(shape)
    return min(resolve_rank(options["rank"], m) or m, rank_limit(shape, options))


def largest_rank(shape: Sequence[int], options: Options) -> int:
    """Return the largest rank it can come to: the starting one where ranks do not change."""
    changes = options["rank_mode"] == "adaptive"
    return (rank_limit if changes else starting_rank)(shape, options)


def replace_layers(
    model: nn.Module, settings: Mapping[str, Options]
) -> dict[str, list[tuple[str, Tensor]]]:
    """Put low-rank layers in the place of the layers that hold these weights, in the model itself.

    Args:
        model: The model.
        settings: For each weight's name, such as "blocks.0.fc.weight", its options: `rank`, `max_rank`.

    Returns:
        For each weight the names and parameters of its factors. A bias stays the parameter it was, under its name.

    Raises:
        OptionError: A weight is not that of a linear or convolution layer inside the model, or that layer has hooks.
    """
    successors = {}
    for weight, options in settings.items():
        prefix = weight.removesuffix(".weight")
        dense = model.get_submodule(prefix) if prefix != weight else None
        if not isinstance(dense, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            raise OptionError(f"'{weight}' is not the weight of a layer that could be low-rank")
        if any(getattr(dense, hooks) for hooks in _HOOKS):
            raise OptionError(
                f"the layer '{prefix}' has hooks, which a low-rank layer in its place would not have",
                "register them on the new layer, or exclude this one",
            )
        rank = starting_rank(dense.weight.shape, options)
        layer_class = LowRankLinear if isinstance(dense, nn.Linear) else LowRankConv
        layer: LowRankLayer = layer_class.from_dense(dense, rank)  # type: ignore[arg-type]
        _put(model, prefix, layer.train(dense.training))
        successors[weight] = [(f"{prefix}.{name}", getattr(layer, name)) for name in FACTORS]
    return successors


def low_rank_layers(model: nn.Module) -> Iterator[tuple[str, LowRankLayer]]:
    """Yield the low-rank layers of a model with their names, shared ones once."""
    for name, module in model.named_modules():
        if isinstance(module, LowRankLayer):
            yield name, module


def ranks(model: nn.Module) -> dict[str, int]:
    """Return the rank of every low-rank layer by name."""
    return {name: layer.rank for name, layer in low_rank_layers(model)}


def to_dense(model: nn.Module) -> nn.Module:
    """Replace every low-rank layer by torch's own with the weight U S V^T, in the model itself, and return it.

    The model computes what it computed, but an optimizer of it goes on to hold the factors: copy it first
    (`copy.deepcopy`) to go on training.
    """
    return _exported(model, lambda layer: layer.to_dense())


def to_two_layers(model: nn.Module) -> nn.Module:
    """Replace every low-rank layer by two thin ones of torch, V^T and U S, in the model itself, and return it.

    q (m + n) numbers a layer, and no code of ours in the model; see `to_dense` on going on training.
    """
    return _exported(model, lambda layer: layer.to_two_layers())


def dense_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of the model with every low-rank layer dense: the names it had before `replace_layers`."""
    layers = {f"{name}." if name else "": layer for name, layer in low_rank_layers(model)}
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        prefix, _, local = key.rpartition(".")
        prefix = prefix + "." if prefix else ""
        if prefix not in layers or local not in FACTORS:
            state[key] = value
        elif local == FACTORS[0]:
            state[f"{prefix}weight"] = layers[prefix].weight
    return state


def _exported(model: nn.Module, export: Callable[[LowRankLayer], nn.Module]) -> nn.Module:
    if isinstance(model, LowRankLayer):
        return export(model).train(model.training)
    for name, layer in list(low_rank_layers(model)):
        _put(model, name, export(layer).train(layer.training))
    return model


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
