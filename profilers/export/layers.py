"""The exported tables about layers; `layer` is the parameter's name in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

from subopt.optimizers import matrix_shape

from ..record.profile import Profile, SubspaceLife
from .table import FLAG, INTEGER, REAL, TEXT, ExportTable, fields_of

_Row = tuple[Any, ...]
_SPREAD = ("mean", "min", "max")
_BASES = ("raw", "one_sided", "two_sided", "covariance", "low_rank")


def _layers(profile: Profile) -> Iterator[_Row]:
    for layer in profile.layers:
        spectrum = layer.spectrum
        yield (
            layer.name, "x".join(map(str, layer.shape)), *matrix_shape(layer.shape), prod(layer.shape),
            *fields_of(layer, "module_type", "layer_type", "role", "reason"),
            *fields_of(spectrum and spectrum.stable_rank, *_SPREAD),
            *fields_of(spectrum and spectrum.effective_rank, *_SPREAD),
            *fields_of(spectrum, "sketched_rank"),
            *fields_of(layer.noise, "signal_share", "batches_needed"),
            *fields_of(layer.agreement, "share_outside", "eps"),
            *fields_of(layer.blocks, "by_output", "by_output_noise", "by_input", "by_input_noise"),
            *fields_of(layer.activations, "width", "positions", "stable_rank", "effective_rank"),
        )  # fmt: skip


def _spectra(profile: Profile, field: str, number: Callable[[str], float]) -> Iterator[_Row]:
    """Yield the rows of a mapping that spectra of gradients and of inputs have, its keys read by `number`."""
    for layer in profile.layers:
        if layer.spectrum:
            for key, spread in getattr(layer.spectrum, field).items():
                yield layer.name, "gradient", number(key), *fields_of(spread, *_SPREAD)
        if layer.activations:
            for key, value in getattr(layer.activations, field).items():
                yield layer.name, "inputs", number(key), value, None, None


def _lives(profile: Profile) -> Iterator[tuple[str, str, SubspaceLife]]:
    for layer in profile.layers:
        for source, life in (layer.subspace or {}).items():
            yield layer.name, source, life


def _subspaces(profile: Profile) -> Iterator[_Row]:
    for name, source, life in _lives(profile):
        yield name, source, *fields_of(life, "rank", "own", "chance", "fits", "period", "is_noise")


def _subspace_curves(profile: Profile) -> Iterator[_Row]:
    for name, source, life in _lives(profile):
        curves = [("frozen", life.rank, life.frozen), ("tracked", life.rank, life.tracked or [])]
        curves += [("frozen", int(rank), curve) for rank, curve in life.at_rank.items()]
        for basis, rank, curve in curves:
            for lag, share in zip(life.lag, curve, strict=False):
                yield name, source, basis, rank, lag, share


def _noise(profile: Profile) -> Iterator[_Row]:
    for layer in profile.layers:
        if layer.noise:
            yield from ((layer.name, int(b), share) for b, share in layer.noise.captured.items())


def _diagonality(profile: Profile) -> Iterator[_Row]:
    for layer in profile.layers:
        found = layer.diagonality
        if found is None:
            continue
        bases = [(basis, None, basis, getattr(found, basis)) for basis in _BASES]
        stale = [("stale", int(age), f"stale_{age}", ratio) for age, ratio in found.stale.items()]
        for basis, age, key, ratio in (*bases, *stale):
            if ratio is not None:
                shares = fields_of(ratio, "ratio", "unbiased", "in_sample")
                white = found.white_noise.get(key), found.white_noise.get(f"{key}_effective")
                yield layer.name, basis, age, *shares, *white


def _off_diagonal(profile: Profile) -> Iterator[_Row]:
    for layer in profile.layers:
        found = layer.off_diagonal
        if found is None:
            continue
        bins = list(zip(found.edges, found.edges[1:], strict=False))
        for scale, by_basis in (("absolute", found.absolute), ("scale_free", found.scale_free)):
            for basis, counts in by_basis.items():
                for (low, high), count in zip(bins, counts, strict=False):
                    yield layer.name, scale, basis, low, high, count


def _agreement(profile: Profile) -> Iterator[_Row]:
    for layer in profile.layers:
        if layer.agreement:
            for basis, cosine in layer.agreement.cosine.items():
                yield layer.name, basis, cosine, layer.agreement.in_span.get(basis)


def _shared_basis(profile: Profile) -> Iterator[_Row]:
    for layer in profile.layers:
        if layer.blocks:
            for rank, share in layer.blocks.shared.items():
                yield layer.name, int(rank), share, layer.blocks.own.get(rank)


def _spread_columns(name: str) -> dict[str, str]:
    return {f"{name}_{part}": REAL for part in _SPREAD}


LAYER_TABLES = (
    ExportTable(
        "layers",
        "a parameter, with every number of which it has one",
        {
            "layer": TEXT, "shape": TEXT, "short_side": INTEGER, "long_side": INTEGER, "parameters": INTEGER,
            "module_type": TEXT, "layer_type": TEXT, "role": TEXT, "reason": TEXT,
            **_spread_columns("stable_rank"), **_spread_columns("effective_rank"), "sketched_rank": INTEGER,
            "signal_share": REAL, "batches_needed": REAL, "share_outside_span": REAL, "agreement_eps": REAL,
            "output_block_share": REAL, "output_block_share_noise": REAL,
            "input_block_share": REAL, "input_block_share_noise": REAL,
            "input_width": INTEGER, "input_positions": INTEGER, "input_stable_rank": REAL, "input_effective_rank": REAL,
        },
        _layers,
    ),
    ExportTable(
        "energy_at_rank",
        "energy that the leading directions of a layer's gradient, or of its inputs, hold",
        {"layer": TEXT, "of": TEXT, "rank": INTEGER, **_spread_columns("energy_share")},
        lambda profile: _spectra(profile, "energy_at_rank", int),
    ),
    ExportTable(
        "rank_at_energy",
        "leading directions that hold a share of the energy of a layer's gradient, or of its inputs",
        {"layer": TEXT, "of": TEXT, "energy_share": REAL, **_spread_columns("rank")},
        lambda profile: _spectra(profile, "rank_at_energy", float),
    ),
    ExportTable(
        "subspaces",
        "a layer and what its basis is of: how long the basis lasts",
        {
            "layer": TEXT, "source": TEXT, "rank": INTEGER, "own_share": REAL, "chance_share": REAL, "fits": INTEGER,
            "period_steps": INTEGER, "is_noise": FLAG,
        },
        _subspaces,
    ),
    ExportTable(
        "subspace_curves",
        "energy that a basis, left alone or tracked, holds some steps later",
        {"layer": TEXT, "source": TEXT, "basis": TEXT, "rank": INTEGER, "lag_steps": INTEGER, "energy_share": REAL},
        _subspace_curves,
    ),
    ExportTable(
        "noise",
        "energy of held-out batches' mean that a basis of the mean of some batches holds",
        {"layer": TEXT, "batches": INTEGER, "energy_share": REAL},
        _noise,
    ),
    ExportTable(
        "diagonality",
        "a layer and a basis: the diagonal share of its second moment",
        {
            "layer": TEXT, "basis": TEXT, "age_steps": INTEGER, "ratio": REAL, "unbiased": REAL, "in_sample": FLAG,
            "white_noise": REAL, "white_noise_effective": REAL,
        },
        _diagonality,
    ),
    ExportTable(
        "off_diagonal",
        "a bin of a histogram of sampled off-diagonal entries; the outermost bins hold all beyond them",
        {
            "layer": TEXT, "scale": TEXT, "basis": TEXT, "log10_from": REAL, "log10_to": REAL, "pairs": INTEGER,
        },
        _off_diagonal,
    ),
    ExportTable(
        "agreement",
        "a layer and a basis: cosine of the diagonal step with the full one",
        {"layer": TEXT, "basis": TEXT, "cosine": REAL, "cosine_in_span": REAL},
        _agreement,
    ),
    ExportTable(
        "shared_basis",
        "share of the output blocks that one basis for all, or each block's own, keeps",
        {"layer": TEXT, "rank": INTEGER, "shared_share": REAL, "own_share": REAL},
        _shared_basis,
    ),
)  # fmt: skip
