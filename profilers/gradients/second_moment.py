"""Everything that is measured on a layer's gradients together: the K of them are held until the last one is there.

Second moments and noise need the gradients in pairs. They are copied to CPU memory, and each measure takes its turn:
what needs the gradients in rotated coordinates is handed the same blocks of them, for a rotation costs most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from subopt.optimizers.bases.decompositions import left_basis

from ..record.profile import Agreement, Blocks, Diagonality, Noise, OffDiagonal
from ..timing.stopwatch import Stopwatch
from .blocks import measure_blocks, row_grams
from .diagonality import DiagonalityMeter
from .noise import measure_noise
from .off_diagonal import OffDiagonalMeter
from .rotated import rotations, unit_of, walk, working_copies
from .spectrum import is_informative, solving_device
from .update_agreement import AgreementMeter


@dataclass(frozen=True)
class AccumulatedMeasures:
    """What K gradients of one layer show together.

    `off_diagonal` is None for a weight of one number, `agreement` and `noise` for a single gradient.
    """

    diagonality: Diagonality
    off_diagonal: OffDiagonal | None
    agreement: Agreement | None
    blocks: Blocks
    noise: Noise | None


class AccumulatedGradients:
    """Holds the K gradients of one layer and measures them.

    A gradient that is zero or not finite says nothing about the second moment and is left out.

    Args:
        rank: r of the truncated basis; at most min(m, n) is used.
        two_sided: Whether the bases that are n wide, two-sided and covariance, are measured too.
        stale: One-sided bases P, m x m with m the short side, fitted earlier, by how many training steps earlier.
        inputs_first: Whether the weight is d_in x d_out; its blocks are those of the transpose.
        watch: Told what each quantity took.

    Memory: K m n elements in the gradients' dtype, in CPU memory. While measuring also, on the gradients' device (for
    an Apple GPU, on the CPU), their copies in float32 where they are not that already, bases (m^2, n^2 and the float64
    of the one being fitted), and chunks of 2^18 numbers; and what `blocks.measure_blocks` takes.
    """

    def __init__(
        self,
        rank: int,
        *,
        two_sided: bool = True,
        stale: Mapping[int, Tensor] | None = None,
        inputs_first: bool = False,
        watch: Stopwatch,
    ) -> None:
        self._rank = rank
        self._inputs_first = inputs_first
        self._two_sided = two_sided
        self._stale = stale or {}
        self._watch = watch
        self._held: list[Tensor] = []
        self._device = torch.device("cpu")

    def add(self, G: Tensor) -> None:
        """Keep a copy of one batch's gradient, d_out x d_in as the weight, in CPU memory."""
        if is_informative(G):
            self._device = solving_device(G.device)
            self._held.append(G.detach().to("cpu", copy=True).contiguous())

    def result(self) -> AccumulatedMeasures | None:
        """Measure and let go of the gradients; None where there were none to measure."""
        held, self._held = self._held, []
        if not held:
            return None
        as_given = [G.to(self._device, torch.promote_types(G.dtype, torch.float32)) for G in held]
        del held
        with self._watch.span("blocks"):
            outputs_first = [G.mT for G in as_given] if self._inputs_first else as_given
            grams = row_grams(outputs_first)
            blocks = measure_blocks(outputs_first, grams)
            del outputs_first
        products = grams.sum(0)
        del grams
        gradients = working_copies(as_given, self._device)
        with self._watch.span("diagonality"):
            first_basis = left_basis(gradients[0])
        with self._watch.span("gradient noise"):
            noise = measure_noise(gradients, products, self._rank, first_basis)
        rotated = self._in_rotated_coordinates(gradients, products, first_basis)
        return AccumulatedMeasures(*rotated, blocks=blocks, noise=noise)

    def _in_rotated_coordinates(
        self, gradients: list[Tensor], products: Tensor, first_basis: Tensor
    ) -> tuple[Diagonality, OffDiagonal | None, Agreement | None]:
        count, coordinates = len(gradients), gradients[0].numel()
        unit = unit_of(products, coordinates)
        scaled = products / unit**2
        diagonality = DiagonalityMeter(gradients, self._rank, scaled)
        agreement = AgreementMeter(scaled, coordinates, unit) if count > 1 else None
        off_diagonal = OffDiagonalMeter(coordinates, scaled) if coordinates > 1 else None

        def visit(basis: str, start: int, block: Tensor) -> None:
            squares = block.square()
            diagonality.add(basis, start, block, squares)
            if basis.startswith("stale_"):
                return
            if off_diagonal is not None:
                with self._watch.span("off-diagonal histograms"):
                    off_diagonal.add(basis, start, block)
            if agreement is not None:
                with self._watch.span("update agreement"):
                    agreement.add(basis, block, squares)

        with self._watch.span("diagonality"):
            for fitted in rotations(
                gradients, two_sided=self._two_sided, stale=self._stale, first_basis=first_basis
            ):
                walk(gradients, fitted(), unit, visit)
        with self._watch.span("off-diagonal histograms"):
            histograms = off_diagonal.result() if off_diagonal is not None else None
        with self._watch.span("update agreement"):
            agreed = agreement.result() if agreement is not None else None
        return diagonality.result(), histograms, agreed
