"""The exported tables about layers; `layer` is the parameter's name in all of them."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from subopt.optimizers import matrix_shape

from ..record.profile import Activations, Blocks, Diagonality, Profile, Ratio, Spread, SubspaceLife
from .table import FLAG, INTEGER, REAL, TEXT, ExportTable

_Row = tuple[Any, ...]
_SPREAD = ("mean", "min", "max")
_BASES = ("raw", "one_sided", "two_sided", "covariance", "low_rank")


def _layers(profile: Profile) -> Iterator[_Row]:
    for layer in profile.layers:
        m, n = matrix_shape(layer.shape)
        spectrum, noise, agreement = layer.spectrum, layer.noise, layer.agreement
        yield (
            layer.name,
            "x".join(map(str, layer.shape)),
            m,
            n,
            prod(layer.shape),
            layer.module_type,
            layer.layer_type,
            layer.role,
            layer.reason,
            *_spread(spectrum.stable_rank if spectrum else None),
            *_spread(spectrum.effective_rank if spectrum else None),
            spectrum.sketched_rank if spectrum else None,
            noise.signal_share if noise else None,
            noise.batches_needed if noise else None,
            agreement.share_outside if agreement else None,
            agreement.eps if agreement else None,
            *_block_shares(layer.blocks),
            *_inputs(layer.activations),
        )


def _spread(spread: Spread | None) -> _Row:
    return (spread.mean, spread.min, spread.max) if spread else (None, None, None)


def _block_shares(blocks: Blocks | None) -> _Row:
    if blocks is None:
        return (None,) * 4
    return blocks.by_output, blocks.by_output_noise, blocks.by_input, blocks.by_input_noise


def _inputs(inputs: Activations | None) -> _Row:
    if inputs is None:
        return (None,) * 4
    return inputs.width, inputs.positions, inputs.stable_rank, inputs.effective_rank


def _energy_at_rank(profile: Profile) -> Iterator[_Row]:
    for layer in profile.layers:
        if layer.spectrum:
            for rank, kept in layer.spectrum.energy_at_rank.items():
                yield layer.name, "gradient", int(rank), *_spread(kept)
        if layer.activations:
            for rank, share in layer.activations.energy_at_rank.items():
                yield layer.name, "inputs", int(rank), share, None, None


def _rank_at_energy(profile: Profile) -> Iterator[_Row]:
    for layer in profile.layers:
        if layer.spectrum:
            for energy, needed in layer.spectrum.rank_at_energy.items():
                yield layer.name, "gradient", float(energy), *_spread(needed)
        if layer.activations:
            for energy, rank in layer.activations.rank_at_energy.items():
                yield layer.name, "inputs", float(energy), rank, None, None


def _lives(profile: Profile) -> Iterator[tuple[str, str, SubspaceLife]]:
    for layer in profile.layers:
        for source, life in (layer.subspace or {}).items():
            yield layer.name, source, life


def _subspaces(profile: Profile) -> Iterator[_Row]:
    for name, source, life in _lives(profile):
        scalars = (life.rank, life.own, life.chance, life.fits, life.period, life.is_noise)
        yield name, source, *scalars


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
        for basis in _BASES:
            value: Ratio | None = getattr(found, basis)
            if value is not None:
                yield layer.name, basis, None, *_ratio(value), *_white_noise(found, basis)
        for age, value in found.stale.items():
            yield (
                layer.name,
                "stale",
                int(age),
                *_ratio(value),
                *_white_noise(found, f"stale_{age}"),
            )


def _ratio(value: Ratio) -> _Row:
    return value.ratio, value.unbiased, value.in_sample


def _white_noise(found: Diagonality, basis: str) -> _Row:
    return found.white_noise.get(basis), found.white_noise.get(f"{basis}_effective")


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
        _energy_at_rank,
    ),
    ExportTable(
        "rank_at_energy",
        "leading directions that hold a share of the energy of a layer's gradient, or of its inputs",
        {"layer": TEXT, "of": TEXT, "energy_share": REAL, **_spread_columns("rank")},
        _rank_at_energy,
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
