"""A made-up race in which every field of its record is filled."""

from __future__ import annotations

from subopt.profilers.record.profile import Contestant, CurvePoint, LeftOut, Race, Trial


def made_up_race() -> Race:
    """A race of four methods, each verdict once."""
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
                method=name, lr=0.03, weight_decay=0.01, step_ms=20.0, state_bytes=2**20, trials=3,
                steps=100, tokens=6400,
                losses=values, verdict=verdicts[name],
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
        baseline="adamw", metric="held-out loss", minutes=20, spent_seconds=900, horizon_seconds=2.0, share=1.0,
        device="cpu", precision="fp32", batch_size=8, seeds=[0, 1], fallback_lr=0.03,
        contestants=contestants, trials=trials, accumulate=2, target_sha256="9f" * 32, interrupted=True,
        left_out=[LeftOut(method="dlrt", reason="no layer that dlrt could replace")],
    )  # fmt: skip
