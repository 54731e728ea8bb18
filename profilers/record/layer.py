"""What the profile file holds of one layer: every quantity measured on its gradients and inputs.

Legend: the weight is a matrix m x n, m <= n; G its gradient; g = vec(G); C = mean of g g^T, never built; r rank.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from .base import MOST, Count, Record, Shape, Share, ShareKey, WholeKey


class Spread(Record):
    """A quantity over the measured batches."""

    mean: float
    min: float
    max: float


class Spectrum(Record):
    """Gradient spectrum of one layer, energies of singular values, averaged over batches.

    `sketched_rank`: None where all of the spectrum was computed; else the directions that a randomized sketch resolved,
    the energy beyond them known as a sum alone. Energies at a rank are then lower bounds, ranks upper ones. `batches`:
    how many batches' gradients it is of.
    """

    stable_rank: Spread
    effective_rank: Spread
    rank_at_energy: dict[ShareKey, Spread]
    energy_at_rank: dict[WholeKey, Spread]
    sketched_rank: Count | None = None
    batches: Count | None = None


class SubspaceLife(Record):
    """Share of a later gradient's energy that a basis still holds `lag` training steps after it was fitted.

    `rank` is the one asked for; `at_rank` has the frozen curve at other ranks. `tracked` follows the same basis by
    online PCA until the step before the judged gradient; None where it was not followed. `own` is what the own leading
    r directions of the gradients judged at lag 1 hold, the most any basis can; `chance` is r / m, what a random one
    holds. `fits` bases were averaged. `period` is the longest time between refreshes, in steps, over which the frozen
    curve keeps on average 0.9 of its value at lag 1; None where it outlasts the longest lag. `is_noise` says that a
    basis holds no more one step later than chance would explain (3 standard deviations).
    """

    rank: Count
    lag: list[Count]
    frozen: list[Share]
    tracked: list[Share] | None = None
    at_rank: dict[WholeKey, list[Share]] = {}
    own: Share
    chance: Share
    fits: Count
    period: Count | None = None
    is_noise: bool = False

    @model_validator(mode="after")
    def _curves_have_a_point_for_every_lag(self) -> SubspaceLife:
        for curve in (self.frozen, self.tracked, *self.at_rank.values()):
            if curve is not None and len(curve) != len(self.lag):
                raise ValueError("a curve has not as many points as there are lags")
        return self


class Noise(Record):
    """How much of one batch's gradient is common to all batches, at fixed weights.

    `signal_share`: |E G|^2 / E|G|^2, unbiased. `batches_needed`: how many batches' gradients must be averaged for half
    of the energy to be signal (gradient noise scale), None where no signal was found. `captured`: energy of the
    held-out batches' mean that the rank-r basis of the mean of the first b batches holds, by b; the same ones are held
    out for all b. The signal share is below zero as often as not where there is no signal.
    """

    renamed: ClassVar = {"kept": "captured"}

    signal_share: float
    batches_needed: float | None
    captured: dict[WholeKey, Share] = {}


class Ratio(Record):
    """Diagonal share of the second moment's squared norm, biased low for few batches, and the unbiased estimate."""

    ratio: float | None
    unbiased: float | None
    in_sample: bool = False


class Diagonality(Record):
    """Diagonality in each basis, beside what white noise of the same size would give.

    `covariance` is two-sided, in the eigenbases of the sums of G G^T and G^T G; `stale` is one-sided, in a basis fitted
    that many training steps earlier, by steps. `white_noise` has two numbers per basis, `<basis>` and
    `<basis>_effective` (this one from two judged gradients on), with `stale_<steps>` for the stale ones.
    """

    raw: Ratio | None = None
    one_sided: Ratio | None = None
    two_sided: Ratio | None = None
    covariance: Ratio | None = None
    low_rank: Ratio | None = None
    stale: dict[WholeKey, Ratio] = {}
    white_noise: dict[str, float] = {}


class OffDiagonal(Record):
    """Histograms of sampled off-diagonal entries of C, the same pairs in every basis.

    Bin i counts `edges[i] <= log10(x) < edges[i + 1]`, the outermost bins all beyond them. `absolute` is of
    x = |C_ij| / mean(diag C), `scale_free` of x = |C_ij| / sqrt(C_ii C_jj); both by basis. C is of the batches that no
    basis was fitted on, the second half: so few correlate by chance, and what is scale-free is the less telling one.
    """

    pairs: Count
    edges: list[Annotated[float, Field(ge=-300, le=300)]]
    absolute: dict[str, list[Count]]
    scale_free: dict[str, list[Count]]

    @model_validator(mode="after")
    def _counts_have_a_number_for_every_bin(self) -> OffDiagonal:
        for counts in (*self.absolute.values(), *self.scale_free.values()):
            if len(counts) != len(self.edges) - 1:
                raise ValueError("a histogram has not as many counts as there are bins")
        return self


class Agreement(Record):
    """Cosine between the step of a diagonal preconditioner in a basis and that of the full (C + eps I)^(-1/2).

    Mean over held-out gradients, the last quarter; C is of the others. `in_span` is the same within the span of those
    others; `share_outside` the held-out gradients' energy outside it; eps = tr(C) / (m n).
    """

    cosine: dict[str, float]
    in_span: dict[str, float]
    share_outside: Share
    eps: float


class Blocks(Record):
    """Share of ||C||_F^2 in diagonal blocks, by output and by input neuron, and what one shared basis keeps of them.

    `by_output_noise` and `by_input_noise` are what white noise of the same size gives. `shared` is the squared norm of
    all output blocks kept by one rank-k basis for all of them, by k; `own` by each block's own best rank-k basis, which
    is all of it from k = the number of batches on.
    """

    by_output: Share
    by_input: Share
    by_output_noise: Share
    by_input_noise: Share
    shared: dict[WholeKey, Share]
    own: dict[WholeKey, Share]


class Activations(Record):
    """Spectrum of a layer's inputs, from the streamed Gram matrix of all its input vectors (`positions` of `width`)."""

    width: Annotated[int, Field(ge=1, le=MOST)]
    positions: Count
    stable_rank: float
    effective_rank: float
    rank_at_energy: dict[ShareKey, Count]
    energy_at_rank: dict[WholeKey, Share]


class Layer(Record):
    """One parameter and what was measured of it."""

    renamed: ClassVar = {"kind": "module_type", "layer_kind": "layer_type", "treatment": "role"}

    name: str
    shape: Shape
    module_type: str
    layer_type: Literal["linear", "conv"] | None = (
        None  # of the plain torch layer whose weight it is
    )
    role: Literal["matrix", "fallback", "frozen"]
    reason: str
    spectrum: Spectrum | None = None
    subspace: dict[str, SubspaceLife] | None = None  # by what the basis is of
    noise: Noise | None = None
    diagonality: Diagonality | None = None
    off_diagonal: OffDiagonal | None = None
    agreement: Agreement | None = None
    blocks: Blocks | None = None
    activations: Activations | None = None

    @model_validator(mode="after")
    def _what_was_measured_has_sides(self) -> Layer:
        measured = (
            self.spectrum,
            self.subspace,
            self.diagonality,
            self.blocks,
            self.noise,
            self.agreement,
        )
        if 0 in self.shape and any(found is not None for found in measured):
            raise ValueError("a layer without any numbers cannot have been measured")
        return self
