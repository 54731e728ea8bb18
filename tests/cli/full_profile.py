"""A made-up profile in which every field of the schema is filled: deterministic, plausible, of any number of layers."""

from __future__ import annotations

import functools
import math
from random import Random

from subopt.optimizers import METHODS, matrix_shape
from subopt.profilers.costs.architectures import WeightShape
from subopt.profilers.record.cost import Ratios
from subopt.profilers.record.data import Files
from subopt.profilers.record.profile import (
    Activations,
    Agreement,
    Blocks,
    Calibration,
    Diagonality,
    Environment,
    Gpu,
    Layer,
    Losses,
    Noise,
    OffDiagonal,
    Profile,
    Ratio,
    Settings,
    Spectrum,
    Spent,
    Spread,
    SubspaceLife,
    Target,
)

from .full_costs import HIDDEN, TOKENS, VOCABULARY, memory, method_cost, timings
from .full_race import made_up_race

INNER = 1376
BLOCK = {
    **{f"self_attn.{letter}_proj.weight": (HIDDEN, HIDDEN) for letter in "qkvo"},
    "mlp.gate_proj.weight": (INNER, HIDDEN),
    "mlp.up_proj.weight": (INNER, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, INNER),
}
BASES = ("raw", "one_sided", "two_sided", "covariance")
LAGS = [1, 2, 5, 10, 20]


@functools.cache
def full_profile(layers: int = 8, seed: int = 0) -> Profile:
    """Return a profile of a LLaMA-like model with that many matrices, and embedding, norms, head and a frozen table."""
    random = Random(seed)
    measured = [_layer(index, random) for index in range(layers)]
    others = _others(layers)
    weights = [
        WeightShape(layer.name, tuple(layer.shape), layer.role, layer_type=layer.layer_type)
        for layer in [*measured, *others]
    ]
    rows = [method_cost(method, weights) for method in METHODS.values()]
    return Profile(
        target=Target(
            spec="examples/llama_bytes.py", kwargs={"size": "60m", "layers": layers}, line=41,
            file="/home/ada/project/examples/llama_bytes.py", picked="function build_model",
            sha256="9f" * 32, synthetic_data=True,
            files=Files(train=["/data/texts/*.txt"], format="text", eval=["/data/held_out.txt"], separator="</s>"),
        ),
        environment=_environment(),
        settings=Settings(
            batch_size=8, batches=8, steps=20, warmup_steps=50, rank=0.25, dtype="bf16-mixed",
            device="cuda", detail="full", seed=seed, gpu_mem_bytes=24 * 2**30,
            max_memory_bytes=2**30, tokens_per_batch=TOKENS,
        ),
        layers=[others[0], *measured, *others[1:]],
        memory=memory(rows[0], weights),
        methods=rows,
        decompositions=[*timings((HIDDEN, HIDDEN)), *timings((HIDDEN, INNER))],
        forward_backward_ms=212.0,
        batch_ms=3.1,
        clip_ms=1.4,
        spent=[
            Spent(on="optimizer steps", seconds=19.4),
            Spent(on="decompositions", seconds=14.9),
            Spent(on="subspaces", seconds=9.8),
            Spent(on="forward and backward", seconds=6.1),
            Spent(on="spectra", seconds=2.2),
            Spent(on="diagonality", seconds=1.4),
            Spent(on="off-diagonal histograms", seconds=0.6),
        ],
        passes=78,
        missing=["dlrt: one step takes longer than its share of the time"],
        losses=Losses(first=10.5, run=[10.5 - 0.02 * step for step in range(70)], outputs=VOCABULARY),
        interrupted=True,
        calibration=Calibration(
            peak=Ratios(runs=12, median=0.99, least=0.97, largest=1.04),
            step_ms=Ratios(runs=9, median=1.06, least=1.01, largest=1.2),
        ),
        race=made_up_race(),
    )  # fmt: skip


def _layer(index: int, random: Random) -> Layer:
    local, shape = list(BLOCK.items())[index % len(BLOCK)]
    m, n = matrix_shape(shape)
    decay = random.uniform(0.7, 1.5)  # the energy of direction i is i^-decay
    energy = [(i + 1) ** -decay for i in range(m)]
    total = sum(energy)
    held, sum_so_far = [], 0.0
    for value in energy:
        sum_so_far += value / total
        held.append(sum_so_far)
    return Layer(
        name=f"model.layers.{index // len(BLOCK)}.{local}",
        shape=list(shape),
        kind="Linear",
        layer_type="linear",
        role="matrix",
        reason="a matrix",
        spectrum=_spectrum(energy, held, index, random),
        subspace={
            source: _life(held[m // 4 - 1], m, source, random)
            for source in ("gradient", "momentum", "covariance")
        },
        noise=_noise(random),
        diagonality=_diagonality(m * n, random),
        off_diagonal=_off_diagonal(random),
        agreement=_agreement(random),
        blocks=_blocks(random),
        activations=_activations(shape[1], random),
    )


def _spread(mean: float, width: float = 0.1) -> Spread:
    return Spread(mean=mean, min=mean * (1 - width), max=mean * (1 + width))


def _spectrum(energy: list[float], held: list[float], index: int, random: Random) -> Spectrum:
    m = len(energy)
    total = sum(energy)
    entropy = -sum(e / total * math.log(e / total) for e in energy)
    return Spectrum(
        stable_rank=_spread(sum(energy) / energy[0]),
        effective_rank=_spread(math.exp(entropy)),
        rank_at_energy={
            key: Spread(mean=rank, min=max(1, rank - random.randint(1, 9)), max=min(m, rank + 9))
            for key in ("0.90", "0.95", "0.99")
            for rank in [sum(value < float(key) for value in held) + 1]
        },
        energy_at_rank={
            str(m // divisor): Spread(mean=held[m // divisor - 1], min=held[m // divisor - 1] * 0.97, max=1.0)
            for divisor in (16, 8, 4, 2)
        },
        sketched_rank=m // 2 if index % 7 == 6 else None,
        batches=8,
    )  # fmt: skip


def _life(own: float, m: int, source: str, random: Random) -> SubspaceLife:
    rank = m // 4
    chance = rank / m
    best = chance + (own - chance) * {"gradient": 0.55, "momentum": 0.8, "covariance": 0.9}[source]
    speed = random.uniform(0.02, 0.12)
    frozen = [chance + (best - chance) * math.exp(-speed * lag) for lag in LAGS]
    return SubspaceLife(
        rank=rank,
        lag=LAGS,
        frozen=frozen,
        tracked=[0.5 * (value + best) for value in frozen],
        at_rank={
            str(m // 8): [0.8 * value for value in frozen],
            str(m // 2): [min(1.0, 1.2 * value) for value in frozen],
        },
        own=own,
        chance=chance,
        fits=4,
        period=None if source == "covariance" else round(0.5 / speed),
        is_noise=source == "gradient" and speed > 0.11,
    )  # fmt: skip


def _noise(random: Random) -> Noise:
    share = random.uniform(0.02, 0.4)
    kept = {str(b): 0.9 - 0.5 * (1 - share) / math.sqrt(b) for b in (1, 2, 4)}
    return Noise(signal_share=share, batches_needed=(1 - share) / share, captured=kept)


def _diagonality(elements: int, random: Random) -> Diagonality:
    raw = random.uniform(0.01, 0.2)

    def ratio(factor: float) -> Ratio:
        value = min(0.95, raw * factor)
        return Ratio(ratio=value, unbiased=value * 1.3, in_sample=factor == 2)

    white = 10 / (elements + 9)
    return Diagonality(
        raw=ratio(1),
        one_sided=ratio(random.uniform(1, 3)),
        two_sided=ratio(random.uniform(1.5, 6)),
        covariance=ratio(random.uniform(2, 7)),
        low_rank=ratio(2),
        stale={"5": ratio(1.8), "20": ratio(1.4)},
        white_noise={
            f"{basis}{suffix}": white * (1 if not suffix else 20)
            for basis in ("raw", "one_sided", "two_sided", "covariance", "low_rank")
            for suffix in ("", "_effective")
        },
    )


def _off_diagonal(random: Random) -> OffDiagonal:
    edges = [-8 + 0.5 * step for step in range(19)]

    def counts(centre: float) -> list[int]:
        return [round(4000 * math.exp(-((edge - centre) ** 2) / 3)) for edge in edges[:-1]]

    centres = {basis: random.uniform(-1.5, -1) - 0.6 * step for step, basis in enumerate(BASES)}
    return OffDiagonal(
        pairs=20_000,
        edges=edges,
        absolute={basis: counts(centre - 1) for basis, centre in centres.items()},
        scale_free={basis: counts(centre) for basis, centre in centres.items()},
    )


def _agreement(random: Random) -> Agreement:
    cosine = {basis: random.uniform(0.5, 0.6) + 0.1 * step for step, basis in enumerate(BASES)}
    return Agreement(
        cosine=cosine,
        in_span={basis: 0.9 * value for basis, value in cosine.items()},
        share_outside=random.uniform(0.2, 0.9),
        eps=3.1e-9,
    )


def _blocks(random: Random) -> Blocks:
    by_output, kept = random.uniform(0.05, 0.5), random.uniform(0.2, 0.6)
    own = {str(k): 1 - (1 - kept) * 8 / (k + 8) for k in (8, 16, 32, 64)}
    return Blocks(
        by_output=by_output,
        by_input=0.6 * by_output,
        by_output_noise=0.004,
        by_input_noise=0.003,
        shared={k: 0.85 * value for k, value in own.items()},
        own=own,
    )


def _activations(width: int, random: Random) -> Activations:
    stable = random.uniform(1.5, 12)
    held = [1 - random.uniform(0.2, 0.5) / step**2 for step in (1, 2, 4, 8)]
    return Activations(
        width=width,
        positions=16_384,
        stable_rank=stable,
        effective_rank=min(width, 9 * stable),
        rank_at_energy={
            key: max(1, round(width * random.uniform(0.8, 1.2) * share))
            for key, share in (("0.90", 0.12), ("0.95", 0.2), ("0.99", 0.5))
        },
        energy_at_rank={
            str(width // divisor): share for divisor, share in zip((16, 8, 4, 2), held, strict=True)
        },
    )  # fmt: skip


def _others(layers: int) -> list[Layer]:
    """The parameters that no method takes as a matrix, the embedding first."""
    rows = [
        ("model.embed_tokens.weight", [VOCABULARY, HIDDEN], "Embedding", "fallback", "an embedding, or tied to one"),
        *(
            (f"model.layers.{index}.{name}.weight", [HIDDEN], "RMSNorm", "fallback", "a vector")
            for index in range(math.ceil(layers / len(BLOCK)))
            for name in ("input_layernorm", "post_attention_layernorm")
        ),
        ("model.norm.weight", [HIDDEN], "RMSNorm", "fallback", "a vector"),
        ("lm_head.weight", [VOCABULARY, HIDDEN], "Linear", "fallback", "an output head onto the vocabulary"),
        ("model.positions.weight", [2048, HIDDEN], "Embedding", "frozen", "does not require a gradient"),
    ]  # fmt: skip
    return [
        Layer(name=name, shape=shape, kind=kind, role=role, reason=reason)
        for name, shape, kind, role, reason in rows
    ]


def _environment() -> Environment:
    return Environment(
        subopt="0.1.0",
        torch="2.13.0",
        python="3.11.9",
        platform="Linux-6.8-x86_64",
        device="cuda",
        threads=8,
        gpu=Gpu(
            name="NVIDIA L4",
            total_bytes=24 * 10**9,
            free_bytes=22 * 10**9,
            used_bytes=2 * 10**9,
            driver="570.86",
            other_processes=1,
        ),
    )
