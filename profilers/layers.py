"""Gradient measurements of every layer, in as many passes over the batches as the memory allowed takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subopt.optimizers import matrix_shape

from .diagonality import DiagonalityAccumulator
from .gradients import stream_gradients
from .schema import Diagonality, Spectrum
from .spectrum import SpectrumAccumulator
from .svd_time import full_svd_flops, full_svd_flops_per_s, is_svd_quick

DEFAULT_GROUP_BYTES = 2**30

# Longest full decomposition of one layer for its two-sided diagonality, predicted. A model has a hundred layers, and
# the square bases of wide ones take minutes each: 4096 x 11008 is 4e12 FLOPs, at a few 1e9 per second of one core.
TWO_SIDED_LIMIT_S = 10.0


@dataclass(frozen=True)
class LayerGradients:
    """What the gradients of one layer showed; None where no batch gave it a finite, nonzero gradient."""

    name: str
    spectrum: Spectrum | None
    diagonality: Diagonality | None


def measure_layers(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Any], Tensor],
    batches: Sequence[Any],
    ranks: Mapping[str, int],
    *,
    group_bytes: int = DEFAULT_GROUP_BYTES,
    two_sided_limit_s: float = TWO_SIDED_LIMIT_S,
    on_batch: Callable[[int, int], None] | None = None,
) -> Iterator[LayerGradients]:
    """Measure spectrum and diagonality of the named layers over K batches, yielding each layer as it is done.

    Diagonality needs all K gradients of a layer together, so the layers are visited in groups whose gradients fit in
    `group_bytes` of CPU memory, with one pass of forward and backward over the same batches for each group. A layer too
    large for that is a group of its own and takes what it takes: K times its own gradient.

    Args:
        model: The model, left as found.
        loss_of: Gives the scalar loss of a batch.
        batches: The K batches, gone through once per group.
        ranks: The layers to measure, by parameter name, and the truncated basis' rank for each.
        group_bytes: Most memory held gradients may take, in bytes.
        two_sided_limit_s: Most seconds one layer's full decomposition may take, as predicted from the device's rate;
            where it would take longer, two-sided diagonality is None.
        on_batch: Called as `on_batch(done, total)` before each forward pass and at the end of each group's pass, where
            `total` is K times the number of groups.

    Yields:
        One record per layer, in the order of `ranks`.

    Memory: the held gradients, in CPU memory, and one layer's working set (see `measure_diagonality`).
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    held_bytes = {
        name: len(batches) * parameters[name].numel() * parameters[name].element_size()
        for name in ranks
    }
    groups = layer_groups(held_bytes, group_bytes)
    total = len(groups) * len(batches)
    decomposed = _affordable({name: parameters[name] for name in ranks}, two_sided_limit_s)

    def counted(before: int) -> Iterator[Any]:
        for done, batch in enumerate(batches, start=before):
            if on_batch is not None:
                on_batch(done, total)
            yield batch
        if on_batch is not None:
            on_batch(before + len(batches), total)

    for index, group in enumerate(groups):
        spectra = {name: SpectrumAccumulator() for name in group}
        diagonalities = {
            name: DiagonalityAccumulator(ranks[name], two_sided=name in decomposed)
            for name in group
        }

        def collect(
            name: str,
            G: Tensor,
            k: int,
            spectra: Mapping[str, SpectrumAccumulator] = spectra,
            diagonalities: Mapping[str, DiagonalityAccumulator] = diagonalities,
        ) -> None:
            spectra[name].add(G)
            diagonalities[name].add(G)

        stream_gradients(model, loss_of, counted(index * len(batches)), group, collect)
        for name in group:
            yield LayerGradients(name, spectra[name].result(), diagonalities[name].result())


def layer_groups(held_bytes: Mapping[str, int], group_bytes: int) -> list[list[str]]:
    """Cut layers, in order, into groups that hold at most `group_bytes` together, or one layer that is larger alone."""
    groups: list[list[str]] = []
    used = 0
    for name, size in held_bytes.items():
        if not groups or used + size > group_bytes:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups


def _affordable(parameters: Mapping[str, Tensor], limit_s: float) -> set[str]:
    """Return the layers whose full decomposition is predicted to stay within the limit; each device is timed once."""
    rates: dict[torch.device, float] = {}
    found = set()
    for name, parameter in parameters.items():
        shape, device = matrix_shape(parameter.shape), parameter.device
        if not is_svd_quick(shape):
            rate = rates.get(device) or full_svd_flops_per_s(device)
            rates[device] = rate
            if full_svd_flops(*shape) > limit_s * rate:
                continue
        found.add(name)
    return found
