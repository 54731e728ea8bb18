"""Gradient measurements of every layer, in as many passes over the batches as the memory allowed takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn

from ..device import release_memory
from ..effort import Detail
from ..record.profile import Activations, Spectrum
from ..timing.stopwatch import Stopwatch
from .activations import WIDEST, watched_inputs
from .basis_cost import affordable_bases
from .second_moment import AccumulatedGradients, AccumulatedMeasures
from .spectrum import SpectrumAccumulator
from .stream import stream_gradients

# Most that one layer's bases for two-sided diagonality may take, predicted. A model has a hundred layers, and the bases
# of wide ones take minutes each: 4096 x 11008 is 1.5e13 FLOPs, at a few 1e10 per second of one core.
TWO_SIDED_LIMIT_S = 10.0

# What is held may add this share to the tensors of the passes, and this much to those of a model however small. The
# process, which is a quarter larger than its tensors at least, then grows by less than a quarter.
_SHARE_OF_PEAK = 0.3
LEAST_GROUP_BYTES = 64 * 2**20
# While one gradient is measured in its hook: float64 copies of it and of its Gram matrix, in gradients of float32.
_WORKING_COPIES = 6

# The passes' own name on the stopwatch.
PASSES = "forward and backward"

# Under `quick` each layer's spectrum is taken on every fourth batch, the layers in turn: on all batches the spectra
# alone would take half as long as the passes.
_QUICK_STRIDE = 4


@dataclass(frozen=True)
class LayerMeasures:
    """What the passes showed of one layer.

    `spectrum` and `measures` are None where no batch gave the layer a finite, nonzero gradient; `measures` and
    `activations` also under `quick`, and `activations` where the layer is not a plain linear or convolution one.
    """

    name: str
    spectrum: Spectrum | None
    measures: AccumulatedMeasures | None
    activations: Activations | None


def measure_layers(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Any], Tensor],
    batches: Sequence[Any],
    ranks: Mapping[str, int],
    *,
    detail: Detail,
    group_bytes: int,
    stale: Mapping[str, Mapping[int, Tensor]],
    watch: Stopwatch,
    inputs_first: Collection[str] = (),
    two_sided_limit_s: float = TWO_SIDED_LIMIT_S,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[LayerMeasures]:
    """Measure the named layers over K batches, yielding each layer as it is done.

    A spectrum needs one gradient at a time. What else is measured of gradients needs all K of a layer together, so the
    layers are visited in groups whose gradients fit in `group_bytes` of CPU memory, with one pass of forward and
    backward over the same batches for each group. A layer too large for that is a group of its own and takes what it
    takes: K times its own gradient.

    Args:
        model: The model, left as found.
        loss_of: Gives the scalar loss of a batch.
        batches: The K batches, gone through once per group.
        ranks: The layers to measure, by parameter name, and the truncated basis' rank for each.
        detail: `quick` takes spectra alone, in one pass that holds nothing, each layer's on every fourth batch.
            `standard` measures everything, a layer's inputs on the first batch alone; `full` those on every batch.
        group_bytes: Most memory that held gradients and the stale bases may take (see `default_group_bytes`); the
            gradients get half of it in any case.
        stale: By layer and by age in training steps, bases fitted earlier (see `AccumulatedGradients`).
        watch: Counts the passes, and the seconds of every quantity.
        inputs_first: The layers whose weight is inputs x outputs.
        two_sided_limit_s: Most seconds that the bases of one layer's two-sided and covariance diagonality may take, as
            predicted from the device's rate; where they would take longer, both are None.
        on_batch: Called as `on_batch(done, total)` before each forward pass and at the end of each group's pass, where
            `total` is K times the number of groups.

    Yields:
        One record per layer, in the order of `ranks`.

    Memory: the held gradients and the inputs' Gram matrices, in CPU memory, and one layer's working set.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    measured = {name: parameters[name] for name in ranks}
    sizes = {
        name: _held_bytes(p, len(batches), detail, inputs_first=name in inputs_first)
        for name, p in measured.items()
    }
    stale_bytes = sum(P.nbytes for bases in stale.values() for P in bases.values())
    spare_bytes = max(group_bytes - stale_bytes, group_bytes // 2)
    groups = [list(ranks)] if detail == "quick" else layer_groups(sizes, spare_bytes)
    total = len(groups) * len(batches)
    decomposed = set() if detail == "quick" else affordable_bases(measured, two_sided_limit_s)
    stride = min(_QUICK_STRIDE, len(batches)) if detail == "quick" else 1
    watched = {"quick": 0, "standard": 1, "full": len(batches)}[detail]

    def counted(before: int) -> Iterator[Any]:
        for done, batch in enumerate(batches, start=before):
            on_batch(done, total)
            yield batch
            watch.passes += 1
        on_batch(before + len(batches), total)

    for index, names in enumerate(groups):
        release_memory()
        held = {
            name: AccumulatedGradients(
                ranks[name],
                two_sided=name in decomposed,
                stale=stale.get(name),
                inputs_first=name in inputs_first,
                watch=watch,
            )
            for name in (names if detail != "quick" else ())
        }
        group = _Group(model, loss_of, names, held, watch)
        group.run(counted(index * len(batches)), stride, watched)
        yield from group.results()


def default_group_bytes(peak_bytes: int, largest_layer_bytes: int) -> int:
    """How much may be held beside the passes by default: so much that the whole stays near what they take alone.

    0.3 peak - 6 largest layer, but at least 64 MiB. The subtrahend is the working set of the spectrum of one gradient,
    which float64 copies make a multiple of it.

    Args:
        peak_bytes: Peak of the tensors of the model's own forward and backward pass.
        largest_layer_bytes: Of the largest measured layer's weight.
    """
    spare = int(_SHARE_OF_PEAK * peak_bytes) - _WORKING_COPIES * largest_layer_bytes
    return max(LEAST_GROUP_BYTES, spare)


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


class _Group:
    """Layers measured together in one pass over the batches; `held` keeps gradients of theirs until its end."""

    def __init__(
        self,
        model: nn.Module,
        loss_of: Callable[[nn.Module, Any], Tensor],
        names: Sequence[str],
        held: Mapping[str, AccumulatedGradients],
        watch: Stopwatch,
    ) -> None:
        self._model, self._loss_of, self._names = model, loss_of, names
        self._held, self._watch = held, watch
        self._spectra = {name: SpectrumAccumulator() for name in names}
        self._inputs: dict[str, Activations] = {}

    def run(self, batches: Iterable[Any], stride: int, watched: int) -> None:
        """Make the pass.

        Args:
            batches: The batches of one pass.
            stride: Each layer's spectrum is taken on every stride-th batch, layers taking turns.
            watched: The layers' inputs are looked at on so many batches.
        """

        def add(name: str, G: Tensor, k: int) -> None:
            if (k + self._names.index(name)) % stride == 0:
                with self._watch.span("spectra"):
                    self._spectra[name].add(G)
            if name in self._held:
                with self._watch.span("holding gradients"):
                    self._held[name].add(G)

        with closing(self._looked_at(batches, watched)) as looked_at, self._watch.span(PASSES):
            stream_gradients(self._model, self._loss_of, looked_at, self._names, add)

    def _looked_at(self, batches: Iterable[Any], watched: int) -> Generator[Any, None, None]:
        """Go through the batches, with hooks on the layers' inputs during the first few."""
        remaining = iter(batches)
        if watched:
            with watched_inputs(self._model, self._names, self._watch) as grams:
                yield from islice(remaining, watched)
                self._inputs = grams.result()
        for batch in remaining:
            if self._held:
                self._return_free_memory()
            yield batch

    def _return_free_memory(self) -> None:
        """Have the process no larger than what it uses.

        Gradients are copied to where a pass has just freed its activations, which in the next pass fit there no more.
        """
        with self._watch.span("holding gradients"):
            release_memory()

    def results(self) -> Iterator[LayerMeasures]:
        """Measure what was held, layer by layer, letting go of each."""
        if self._held:
            self._return_free_memory()
        for name in self._names:
            held = self._held.get(name)
            yield LayerMeasures(
                name,
                spectrum=self._spectra[name].result(),
                measures=held.result() if held is not None else None,
                activations=self._inputs.get(name),
            )


def _held_bytes(
    parameter: Tensor, count: int, detail: Detail, *, inputs_first: bool = False
) -> int:
    """CPU memory that a layer's gradients and its inputs' float64 Gram matrix take together at most."""
    gradient = parameter.numel() * parameter.element_size()
    inputs = parameter.shape[0] if inputs_first else parameter.shape[1:].numel()
    gram = 8 * inputs**2 if inputs <= WIDEST else 0
    # The Gram matrices of the first batch alone are gone before the later gradients come.
    return count * gradient + gram if detail == "full" else max(count * gradient, gradient + gram)
