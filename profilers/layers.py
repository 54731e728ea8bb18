"""Gradient measurements of every layer, in as many passes over the batches as the memory allowed takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .diagonality import DiagonalityAccumulator
from .gradients import stream_gradients
from .schema import Diagonality, Spectrum
from .spectrum import SpectrumAccumulator

DEFAULT_GROUP_BYTES = 2**30


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

    def counted(before: int) -> Iterator[Any]:
        for done, batch in enumerate(batches, start=before):
            if on_batch is not None:
                on_batch(done, total)
            yield batch
        if on_batch is not None:
            on_batch(before + len(batches), total)

    for index, group in enumerate(groups):
        spectra = {name: SpectrumAccumulator() for name in group}
        diagonalities = {name: DiagonalityAccumulator(ranks[name]) for name in group}

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
