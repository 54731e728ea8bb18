"""Spectra of what goes into each linear and convolutional layer, from Gram matrices summed during forward passes.

Legend: X positions x d, one row per input vector; d the width; the Gram matrix X^T X is d x d.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from ..record.layer import Activations
from ..timing.stopwatch import Stopwatch
from .spectrum import (
    ENERGY_SHARES,
    effective_rank,
    energy_at_rank,
    in_float64,
    rank_at_energy,
    reported_ranks,
    stable_rank,
)

# Wider inputs are not looked at: their eigenvalues take minutes, and X^T X more work than the layer does.
WIDEST = 4096
# Input vectors of one call that are used, taken at random beyond that. A batch of pictures has 100 times as many.
MOST_POSITIONS = 4096


class _Seen(NamedTuple):
    """The last input looked at, and what came of it."""

    tensor: weakref.ref[Tensor]
    version: int
    geometry: tuple[object, ...]
    gram: Tensor
    positions: int


class InputGrams:
    """Sums X^T X over the calls of every watched layer; X itself is never kept.

    Products are in float32 and sums in float64, so energies are off by less than 1e-5 of the largest. A call whose
    input is not finite is left out. Layers that are given the very same tensor one after another (q, k and v) share
    the product.

    Memory: 8 d^2 bytes per layer that was called, in CPU memory, until `result`; transient, on the input's device, a
    padded convolution's padded input, at most `MOST_POSITIONS` input vectors in float32, and three d x d matrices, two
    in float32 and one in float64.
    """

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self._grams: dict[str, Tensor] = {}
        self._positions: dict[str, int] = {}
        self._last: _Seen | None = None
        # Of its own: the model's dropout must be what it is without anybody watching.
        self._generator = torch.Generator().manual_seed(0)

    def result(self) -> dict[str, Activations]:
        """Return the spectra of the layers that were called with inputs other than zero, and let go of the sums."""
        self._last = None
        found = {}
        with self._watch.span("activations"):
            for name in list(self._grams):
                gram = self._grams.pop(name)
                energy = torch.linalg.eigvalsh(gram).flip(0).clamp_(min=0)
                if float(energy.sum()) > 0:
                    found[name] = _activations(energy, self._positions[name])
        return found

    def _take_in(self, name: str, module: nn.Module, X: object) -> None:
        if not _is_readable(X):
            return
        with (
            self._watch.span("activations"),
            torch.no_grad(),
            torch.autocast(X.device.type, enabled=False),
        ):
            gram, positions = self._gram(module, X)
            if not bool(torch.isfinite(gram.diagonal()).all()):
                return
            addend = in_float64(gram).cpu()
            if name in self._grams:
                self._grams[name] += addend
                self._positions[name] += positions
            else:
                self._grams[name], self._positions[name] = addend, positions

    def _gram(self, module: nn.Module, X: Tensor) -> tuple[Tensor, int]:
        """Return X^T X and the number of rows used, from the layer before where that had the same input."""
        geometry, last = _geometry(module), self._last
        version = -1 if X.is_inference() else X._version
        if (
            last is not None
            and last.tensor() is X
            and last.geometry == geometry
            and last.version == version >= 0
        ):
            return last.gram, last.positions
        rows = _sampled(*_input_vectors(module, X), self._generator)
        gram = rows.mT @ rows
        self._last = _Seen(weakref.ref(X), version, geometry, gram, len(rows))
        return gram, len(rows)


@contextmanager
def watched_inputs(
    model: nn.Module, names: Sequence[str], watch: Stopwatch
) -> Iterator[InputGrams]:
    """Look at the inputs of layers in every forward pass that runs inside.

    Watched are linear layers (torch's, and `Conv1D` of transformers) and convolutions that are not transposed, whose
    `weight` is one of the named parameters and at most `WIDEST` inputs wide. An input vector of a convolution is what
    its kernel sees at one place, padding included: d = in / groups * kernel, one for each group. A layer called twice
    adds up both calls' inputs. Inputs of compiled regions, of fake tensors, and of forward passes that a backward pass
    repeats (checkpointing) are not seen.

    Args:
        model: The model, left as found.
        names: Weights by parameter name; those of other modules are ignored.
        watch: Told what it took, under "activations".
    """
    grams = InputGrams(watch)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    name_of = {id(parameters[name]): name for name in reversed(names)}
    with ExitStack() as hooks:
        for module in model.modules():
            # Straight from the table: a parametrized weight is computed anew by every look at it.
            weight = module._parameters.get("weight")
            name = name_of.get(id(weight))
            if name is not None and weight is not None and _is_watched(module, weight):
                hook = _hook(grams, name, module)
                hooks.enter_context(module.register_forward_pre_hook(hook, with_kwargs=True))
        yield grams


def _hook(grams: InputGrams, name: str, module: nn.Module) -> Any:
    def take_in(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        # Neither in a compiled region nor in a forward pass repeated by a running backward pass.
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() == -1:
            grams._take_in(name, module, next(iter((*arguments, *keywords.values())), None))

    return take_in


def _is_watched(module: nn.Module, weight: Tensor) -> bool:
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return weight.shape[1:].numel() <= WIDEST
    if isinstance(module, nn.Linear):
        return weight.shape[1] <= WIDEST
    return _is_inputs_first(module) and weight.shape[0] <= WIDEST


def _is_inputs_first(module: nn.Module) -> bool:
    """Whether it is transformers' linear layer with a weight of inputs x outputs, known by name so as not to import."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _is_readable(X: object) -> TypeGuard[Tensor]:
    return (
        isinstance(X, Tensor)
        and not isinstance(X, FakeTensor)
        and X.layout == torch.strided
        and X.device.type != "meta"
        and X.is_floating_point()
        and X.numel() > 0
    )


def _geometry(module: nn.Module) -> tuple[object, ...]:
    """Return what, beside the input, decides the input vectors; layers of equal ones see the same vectors."""
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return ()
    return (
        module.kernel_size,
        module.stride,
        module.dilation,
        module.groups,
        module.padding,
        module.padding_mode,
    )


def _input_vectors(module: nn.Module, X: Tensor) -> tuple[Tensor, int]:
    """Return a view of the input, its last dimensions one input vector, and how many these are."""
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return X, 1
    spatial = len(module.kernel_size)
    if X.dim() == spatial + 1:
        X = X.unsqueeze(0)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    # What torch itself pads with, whether the padding was given as numbers or as a word.
    X = F.pad(X, module._reversed_padding_repeated_twice, mode=mode)
    window = zip(module.kernel_size, module.stride, module.dilation, strict=True)
    for dim, (kernel, stride, dilation) in enumerate(window, start=2):
        X = X.unfold(dim, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
    # batch, groups, channels, places..., kernel... -> batch, groups, places..., channels, kernel...
    return X.unflatten(1, (module.groups, -1)).movedim(2, 2 + spatial), 1 + spatial


def _sampled(view: Tensor, vector_dims: int, generator: torch.Generator) -> Tensor:
    """Return at most `MOST_POSITIONS` of the vectors, as rows in float32; only these are copied out of the view."""
    places = view.shape[: view.dim() - vector_dims]
    count = prod(places)
    if count <= MOST_POSITIONS:
        return view.reshape(count, -1).to(torch.float32)
    chosen = torch.randperm(count, generator=generator)[:MOST_POSITIONS].to(view.device)
    return view[torch.unravel_index(chosen, places)].flatten(1).to(torch.float32)


def _activations(energy: Tensor, positions: int) -> Activations:
    return Activations(
        width=len(energy),
        positions=positions,
        stable_rank=stable_rank(energy),
        effective_rank=effective_rank(energy),
        rank_at_energy={share: rank_at_energy(energy, float(share)) for share in ENERGY_SHARES},
        energy_at_rank={
            str(rank): energy_at_rank(energy, rank) for rank in reported_ranks(len(energy))
        },
    )
