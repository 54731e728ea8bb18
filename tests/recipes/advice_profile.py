"""Hand-built profiles for the tests of the advice: a small model whose gradients say what a test wants them to say."""

from __future__ import annotations

from subopt.profilers.record.profile import (
    Agreement,
    Contestant,
    Diagonality,
    Environment,
    Layer,
    Memory,
    MethodCost,
    Profile,
    Race,
    Ratio,
    Settings,
    Spectrum,
    Spread,
    SubspaceLife,
    Target,
)

GIB = 2**30
SHAPE = (64, 32)


def cost(method, *, overhead_ms=0.0, options=None):
    """A row of the table: 10 ms for AdamW's step, 100 MiB of state."""
    return MethodCost(
        method=method,
        options=options or {},
        state_bytes=100 * 2**20,
        transient_bytes=0,
        step_flops=0,
        bound_flops=0,
        step_ms=10.0 + overhead_ms,
        overhead_ms=overhead_ms,
    )


def only(reasons, reason_type):
    """The one reason of this type."""
    (found,) = [reason for reason in reasons if type(reason) is reason_type]
    return found


def spread(value):
    return Spread(mean=value, min=value, max=value)


def ratio(value):
    return Ratio(ratio=value, unbiased=None)


def diagonality(raw=0.01, one_sided=0.1, two_sided=0.5, covariance=0.9, stale=None):
    """Diagonality in every basis; `stale` by lag."""
    return Diagonality(
        raw=ratio(raw),
        one_sided=ratio(one_sided),
        two_sided=ratio(two_sided),
        covariance=ratio(covariance),
        stale={str(lag): ratio(value) for lag, value in (stale or {}).items()},
    )


def agreement(raw=0.3, one_sided=0.4, two_sided=0.5, covariance=0.7):
    cosines = {
        "raw": raw,
        "one_sided": one_sided,
        "two_sided": two_sided,
        "covariance": covariance,
    }
    return Agreement(cosine=cosines, in_span=cosines, share_outside=0.1, eps=1e-8)


def spectrum(energy):
    """A spectrum by rank."""
    return Spectrum(
        stable_rank=spread(1.0),
        effective_rank=spread(2.0),
        rank_at_energy={},
        energy_at_rank={str(rank): spread(value) for rank, value in energy.items()},
        batches=8,
    )


def life(frozen, tracked=None, *, rank=8, own=0.9, at_rank=None):
    """A basis's life at lags 1, 10, ..., as many as there are values."""
    lags = [1, 10, 100][: len(frozen)]
    return SubspaceLife(
        rank=rank,
        lag=lags,
        frozen=frozen,
        tracked=tracked,
        at_rank=at_rank or {},
        own=own,
        chance=rank / min(SHAPE),
        fits=1,
    )


def layer(name="weight", shape=SHAPE, role="matrix", layer_type="linear", **measured):
    return Layer(
        name=name,
        shape=list(shape),
        kind="Linear",
        layer_type=layer_type,
        role=role,
        reason="",
        **measured,
    )


def profile(layers, costs=("adamw",), *, race=None, steps=20, synthetic=False, **settings):
    """A profile of these layers, with a row for each cost or method id; 100 ms for forward and backward."""
    return Profile(
        target=Target(
            spec="model.py", picked="build_model", sha256="ab" * 32, synthetic_data=synthetic
        ),
        environment=Environment(
            subopt="0", torch="2", python="3", platform="Linux", device="cpu", threads=1
        ),
        settings=Settings(batch_size=8, batches=8, steps=steps, **settings),
        layers=list(layers),
        memory=Memory(
            parameter_bytes=2**20,
            gradient_bytes=2**20,
            activation_bytes=2**20,
            optimizer_state_bytes=2**20,
            source="formula",
        ),
        methods=[item if isinstance(item, MethodCost) else cost(item) for item in costs],
        forward_backward_ms=100.0,
        race=race,
    )


def contestant(method, losses, *, baseline=(2.0, 2.0), verdict=None, difference=None, spread=0.02):
    """An entry of a race; difference and verdict follow from the losses where they are not given."""
    pairs = [own - other for own, other in zip(losses, baseline, strict=False)]
    mean = sum(pairs) / len(pairs) if pairs and difference is None else difference
    if verdict is None:
        inside = mean is not None and abs(mean) <= spread
        outcome = "better" if mean is not None and mean < 0 else "worse"
        verdict = "inside the spread" if inside else outcome
    is_baseline = verdict == "baseline"
    return Contestant(
        method=method,
        lr=3e-3,
        step_ms=100.0,
        state_bytes=0,
        trials=4,
        steps=100,
        tokens=0,
        losses=list(losses),
        difference=None if is_baseline else mean,
        difference_spread=None if is_baseline or len(losses) < 2 else spread,
        verdict=verdict,
    )


def race(*contestants, **changes):
    """A race of these entries beside AdamW at a loss of 2."""
    fields = {
        "baseline": "adamw",
        "metric": "held-out loss",
        "minutes": 10,
        "spent_seconds": 600,
        "horizon_seconds": 30,
        "device": "cpu",
        "precision": "fp32",
        "batch_size": 8,
        "target_sha256": "ab" * 32,
        "seeds": [0, 1],
        "fallback_lr": 1e-3,
        "trials": [],
    }
    entries = [contestant("adamw", (2.0, 2.0), verdict="baseline"), *contestants]
    return Race(contestants=entries, **(fields | changes))
