"""Made-up races in which every field of their record is filled: one of today, and one of an earlier version."""

from __future__ import annotations

from subopt.profilers.record.profile import Contestant, CurvePoint, LeftOut, Race, Trial

RUNGS = ((0.02, 20), (0.05, 50), (0.3, 300))

# method: its loss at each rate, at each rung that it came to; None where it diverged.
LOSSES = {
    "soap": {0.003: (3.0,), 0.01: (2.8, 2.4), 0.03: (2.7, 2.2, 1.5), 0.1: None},
    "adamw": {0.001: (3.3,), 0.003: (3.0, 2.6, 1.8), 0.01: (3.1, 2.7)},
    "lion": {0.001: None, 0.003: None},
}


def made_up_race() -> Race:
    """A race of two methods that are compared, one that diverged and one that could not run."""
    trials = []
    for method, rates in LOSSES.items():
        for lr, losses in rates.items():
            points = list(zip(RUNGS, losses or (), strict=False))
            curve = [
                CurvePoint(share=share, step=step, seconds=0.2 * step, tokens=64 * step, loss=loss)
                for (share, step), loss in points
            ]
            step = curve[-1].step if curve else 20
            status = "stopped" if curve else "diverged"
            trials.append(
                Trial(
                    method=method, lr=lr, weight_decay=0.1, seed=0, steps=step, seconds=0.2 * step, tokens=64 * step,
                    status="going on" if (method, lr) == ("soap", 0.03) else status,
                    loss=curve[-1].loss if curve else None, curve=curve,
                    options={"period": 5} if method == "soap" else {},
                )
            )  # fmt: skip
    common = {"step_ms": 200.0, "state_bytes": 2**20, "weight_decay": 0.1, "steps": 1000}
    contestants = [
        Contestant(
            method="soap", lr=0.03, trials=4, tokens=19200, losses=[1.5], difference=-0.3,
            difference_error=0.02, difference_spread=0.1,
            verdict="one seed only", options={"period": 5}, **common,
        ),
        Contestant(
            method="adamw", lr=0.003, trials=3, tokens=19200, losses=[1.8], verdict="baseline", **common
        ),
        Contestant(method="lion", lr=0.003, trials=2, losses=[], verdict="diverged", **common),
    ]  # fmt: skip
    return Race(
        baseline="adamw", metric="held-out loss", minutes=20, spent_seconds=900, horizon_seconds=200.0, share=0.3,
        cost_runs=0.48, device="cpu", precision="fp32", batch_size=8, seeds=[0], fallback_lr=0.03,
        contestants=contestants, trials=trials, accumulate=2, target_sha256="9f" * 32, interrupted=False,
        left_out=[LeftOut(method="dlrt", reason="no layer that dlrt could replace")],
    )  # fmt: skip


def seeded_race() -> Race:
    """A race of an earlier version, of five methods, each verdict once."""
    losses = {
        "lion": [1.0, 1.1], "adamw": [2.0, 2.05], "muon": [2.1, 2.0], "soap": [], "galore": [2.5],
    }  # fmt: skip
    verdicts = {
        "lion": "better", "adamw": "baseline", "muon": "inside the spread", "soap": "diverged",
        "galore": "one seed only",
    }  # fmt: skip
    contestants, trials = [], []
    for name, values in losses.items():
        pairs = [own - other for own, other in zip(values, losses["adamw"], strict=False)]
        is_base = name == "adamw" or not pairs
        contestants.append(
            Contestant(
                method=name, lr=0.03, step_ms=20.0, state_bytes=2**20, trials=3, steps=100, tokens=6400,
                losses=values, verdict=verdicts[name], weight_decay=0.1,
                options={"period": 50} if name == "galore" else {},
                difference=None if is_base else sum(pairs) / len(pairs),
                difference_spread=None if is_base else max(pairs) - min(pairs),
            )
        )  # fmt: skip
        for seed, loss in enumerate(values or [None]):
            curve = [
                CurvePoint(step=10 * k, seconds=0.2 * k, tokens=640 * k, loss=(loss or 9) + 3 / k)
                for k in range(1, 11)
            ]
            trials.append(
                Trial(
                    method=name, options=contestants[-1].options, lr=0.03, seed=seed,
                    role="final" if seed else "search", status="done" if loss else "diverged",
                    steps=100, seconds=2.0, tokens=6400, loss=loss, curve=curve if loss else [],
                )
            )  # fmt: skip
    return Race(
        baseline="adamw", metric="held-out loss", minutes=20, spent_seconds=900, horizon_seconds=2.0,
        device="cpu", precision="fp32", batch_size=8, seeds=[0, 1], fallback_lr=0.03,
        contestants=contestants, trials=trials, accumulate=2, target_sha256="9f" * 32, interrupted=True,
        left_out=[LeftOut(method="dlrt", reason="no layer that dlrt could replace")],
    )  # fmt: skip
