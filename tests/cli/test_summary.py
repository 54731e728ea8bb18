"""The last three sentences of a profile say what its numbers say, and less where numbers are missing."""

from __future__ import annotations

import pytest

from subopt.findings.common import measured_layers, role
from subopt.findings.rotation import gain, gain_of, verdict, whole_roles
from subopt.findings.subspaces import typical_life
from subopt.findings.summary import profile_summary
from subopt.profilers.record.profile import Content, Ratio

from .full_profile import full_profile

WORDS = 70


@pytest.fixture(scope="module")
def full():
    return full_profile(14)


def with_layers(profile, change):
    """The profile, its measured layers changed: `change(layer, index)` returns the fields to replace."""
    measured = iter(range(len(profile.layers)))
    layers = [
        layer.model_copy(update=change(layer, next(measured))) if layer.spectrum else layer
        for layer in profile.layers
    ]
    return profile.model_copy(update={"layers": layers})


def with_settings(profile, **settings):
    return profile.model_copy(update={"settings": profile.settings.model_copy(update=settings)})


def needing(share_90, share_95):
    def change(layer, _):
        m = min(layer.shape)
        needed = {
            key: value.model_copy(update={"mean": share * m})
            for (key, value), share in zip(
                layer.spectrum.rank_at_energy.items(), (share_90, share_95, 1.0), strict=True
            )
        }
        return {"spectrum": layer.spectrum.model_copy(update={"rank_at_energy": needed})}

    return change


def living(**by_source):
    """Replaces the lives: by source (frozen after the longest lag, tracked after it, period, is_noise)."""

    def change(layer, _):
        lives = {}
        for source, (frozen, tracked, period, is_noise) in by_source.items():
            life = layer.subspace[source]
            lives[source] = life.model_copy(
                update={
                    "frozen": [0.9, 0.85, 0.8, 0.7, frozen],
                    "tracked": None if tracked is None else [tracked] * 5,
                    "period": period,
                    "is_noise": is_noise,
                }
            )
        return {"subspace": lives}

    return change


def signalling(share):
    def change(layer, _):
        needed = (1 - share) / share
        noise = layer.noise.model_copy(update={"signal_share": share, "batches_needed": needed})
        return {"noise": noise}

    return change


def judged(share):
    return {"ratio": share, "unbiased": 2 * share, "in_sample": False}


def diagonal(raw, rotated, *, paying=lambda layer: True, white_noise=1e-4):
    """Sets `raw` everywhere, and `rotated` on both sides where `paying`; the other bases are left out."""

    def change(layer, _):
        ratio = layer.diagonality.raw
        two = rotated if paying(layer) else raw
        update = {
            "raw": ratio.model_copy(update=judged(raw)),
            "one_sided": None,
            "two_sided": ratio.model_copy(update=judged(two)),
            "covariance": None,
            "white_noise": {"raw": white_noise, "two_sided": white_noise},
        }
        return {"diagonality": layer.diagonality.model_copy(update=update)}

    return change


@pytest.mark.parametrize("seed", range(6))
def test_there_are_three_and_they_are_short(seed):
    told = profile_summary(full_profile(21, seed))
    assert [sentence.split()[0] for sentence in told] == ["Rank", "Rotation", "Memory"]
    assert max(len(sentence.split()) for sentence in told) <= WORDS


def test_the_caveat_names_batches_step_and_made_up_data(full):
    assert "(as far as 8 made-up batches at step 70 can tell)" in profile_summary(full)[0]
    real = full.model_copy(
        update={"target": full.target.model_copy(update={"synthetic_data": False})}
    )
    untrained = with_settings(real, warmup_steps=0, steps=0)
    assert "(as far as 8 batches before any training can tell)" in profile_summary(untrained)[0]
    assert "made-up" not in " ".join(profile_summary(real))
    assert "(before any training)" in profile_summary(untrained)[1]


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.125, "so a rank of about 12% (64 of 512) makes sense"),
        (0.5, "so a low rank loses some of it"),
        (0.75, "so no low rank holds it"),
    ],
)
def test_which_rank(full, share, said):
    text = profile_summary(with_layers(full, needing(share / 2, share)))[0]
    assert said in text
    assert "directions hold 95% of its gradient" in text


def test_period_and_tracking(full):
    lives = {"gradient": (0.4, 0.72, 10, False)}
    text = profile_summary(with_layers(full, living(**lives)))[0]
    assert (
        "the gradient's rank 25% basis holds 40% after 20 steps: refresh every 10, or follow it by PCA (72%)"
        in text
    )
    text = profile_summary(with_layers(full, living(gradient=(0.4, 0.8, 10, False))))[0]
    assert "refresh every 10, or better follow it by PCA (80%)" in text
    text = profile_summary(with_layers(full, living(gradient=(0.65, 0.5, None, False))))[0]
    assert "refresh after 20 or more rather than follow it by PCA (50%)" in text
    text = profile_summary(with_layers(full, living(gradient=(0.65, None, 5, False))))[0]
    assert "refresh every 5;" in text
    assert "PCA" not in text


def test_another_source_is_named_where_it_holds_clearly_more(full):
    near = living(gradient=(0.6, None, 20, False), momentum=(0.62, None, 20, False))
    assert "the gradient's rank 25% basis" in profile_summary(with_layers(full, near))[0]
    clear = living(gradient=(0.5, None, 5, False), momentum=(0.62, None, 10, False))
    text = profile_summary(with_layers(full, clear))[0]
    assert (
        "the steadier momentum's rank 25% basis holds 62% after 20 steps: refresh every 10" in text
    )


def test_noise_is_called_noise(full):
    gone = with_layers(full, living(gradient=(0.2, None, 1, True)))
    assert "no basis at rank 25% outlives its own batch" in profile_summary(gone)[0]
    noisy = profile_summary(with_layers(full, signalling(0.2)))[0]
    assert "one batch is 80% noise, the mean of 4 half" in noisy
    assert (
        "62% noise, the mean of 2 half" in profile_summary(with_layers(full, signalling(0.38)))[0]
    )
    assert "noise" not in profile_summary(with_layers(full, signalling(0.6)))[0]


def test_without_lives_the_rank_asked_for_is_judged(full):
    bare = with_layers(full, lambda *_: {"subspace": None, "noise": None})
    assert "and rank 25% keeps" in profile_summary(bare)[0]
    assert "refresh" not in profile_summary(bare)[0]


def test_a_run_that_some_layers_outlast_has_a_median_period(full):
    def change(layer, index):
        life = layer.subspace["gradient"].model_copy(
            update={"period": None if index % 3 else 5, "is_noise": False}
        )
        return {"subspace": {"gradient": life}}

    assert typical_life(with_layers(full, change), "gradient").period is None


def test_rotation_pays_everywhere(full):
    text = profile_summary(with_layers(full, diagonal(0.02, 0.09)))[1]
    assert text.startswith("Rotation pays in 14 of 14 layers: a diagonal method sees 2% of the")
    assert "2% of the second moment as is (pure noise: 0.01%), 4.5x that rotated on both" in text


def test_rotation_pays_in_named_parts(full):
    change = diagonal(
        0.02, 0.09, paying=lambda layer: "q_proj" in layer.name or "down" in layer.name
    )
    text = profile_summary(with_layers(full, change))[1]
    assert (
        "Rotation pays in 4 of 14 layers (all down_proj, q_proj): there a diagonal method sees 2% of"
        in text
    )
    assert "4.5x that rotated on both" in text


def test_harm_in_some_layers_is_told(full):
    def change(layer, index):
        of = diagonal(0.02, 0.09) if index % 2 else diagonal(0.2, 0.05)
        return of(layer, index)

    text = profile_summary(with_layers(full, change))[1]
    assert (
        "Rotation pays in 7 of 14 layers, does harm in 7: there a diagonal method sees 2%" in text
    )


def test_a_part_of_which_one_layer_does_not_pay_is_not_named(full):
    change = diagonal(0.02, 0.09, paying=lambda layer: ".0.self_attn.q_proj" in layer.name)
    assert "Rotation pays in 1 of 14 layers:" in profile_summary(with_layers(full, change))[1]


@pytest.mark.parametrize(
    ("raw", "rotated", "white_noise", "said"),
    [
        (0.02, 0.025, 1e-4, "Rotation changes little"),
        (0.2, 0.05, 1e-4, "Rotation does harm"),
        (0.02, 0.025, 0.03, "Rotation cannot be judged, both are near pure noise (more --batches)"),
    ],
)
def test_rotation_that_does_not_pay(full, raw, rotated, white_noise, said):
    change = diagonal(raw, rotated, white_noise=white_noise)
    assert profile_summary(with_layers(full, change))[1].startswith(said)


def test_a_basis_judged_on_its_own_gradients_says_nothing(full):
    def change(layer, _):
        fitted = {
            name: getattr(layer.diagonality, name).model_copy(update={"in_sample": True})
            for name in ("one_sided", "two_sided", "covariance")
        }
        return {"diagonality": layer.diagonality.model_copy(update=fitted)}

    changed = with_layers(full, change)
    assert gain_of(measured_layers(changed)[0], "one_sided") is None
    assert [sentence.split()[0] for sentence in profile_summary(changed)] == ["Rank", "Memory"]


def test_a_stale_basis_and_the_steps_agreement_are_told(full):
    def change(layer, _):
        raw = layer.diagonality.raw
        stale = {"20": raw.model_copy(update={"unbiased": 1.7 * raw.unbiased})}
        cosine = {"raw": 0.61, "two_sided": 0.52, "one_sided": 0.5, "covariance": 0.52}
        return {
            "diagonality": layer.diagonality.model_copy(update={"stale": stale}),
            "agreement": layer.agreement.model_copy(update={"in_span": cosine}),
        }

    text = profile_summary(with_layers(full, change))[1]
    assert "1.7x in a one-sided basis 20 steps old" in text
    assert (
        "but within what the batches span its step's cosine with the full one's goes from 0.61 to 0.52"
        in text
    )
    assert text.startswith("Rotation may pay in ")


def test_a_gain_compares_what_was_judged_on_as_many_batches():
    raw, rotated = Ratio(ratio=0.1, unbiased=0.2), Ratio(ratio=0.1, unbiased=0.4)
    assert gain(raw, rotated) == gain(raw, rotated, same_batches=False) == 2.0
    few = rotated.model_copy(update={"ratio": 0.3, "unbiased": None})
    assert gain(raw, few) == pytest.approx(3.0)
    assert gain(raw, few, same_batches=False) is None
    assert gain(None, rotated) is gain(raw, None) is None
    assert gain(Ratio(ratio=0.0, unbiased=0.0), few) is None


def test_roles_need_names(full):
    layers = measured_layers(full)
    assert role(layers[0]) == layers[0].name.split(".")[-2]
    numbered = [layer.model_copy(update={"name": f"{i}.weight"}) for i, layer in enumerate(layers)]
    assert whole_roles(numbered, numbered) == []
    assert verdict(layers[0].model_copy(update={"diagonality": None}), "one_sided") is None


def test_what_fills_the_memory_and_what_would_free_it(full):
    memory = full.memory.model_copy(update={"peak_bytes": 8 * 2**30})
    text = profile_summary(full.model_copy(update={"memory": memory}))[2]
    largest = max(memory.contents, key=lambda content: content.bytes)
    assert f"8 GiB peak (backward, simulated) is {largest.name} (" in text
    assert "), optimizer state " in text
    best = max(memory.savings, key=lambda saving: saving.bytes)
    assert f"{best.change}: 3 GiB less; another optimizer frees" in text
    small = [best.model_copy(update={"bytes": 1024})]
    text = profile_summary(
        full.model_copy(update={"memory": memory.model_copy(update={"savings": small})})
    )[2]
    leanest = min(full.methods, key=lambda cost: cost.peak.bytes).method
    assert f" at most ({leanest}); {best.change}: 1 KiB less" in text


def test_state_that_fills_the_memory_is_named_once(full):
    state = Content(name="optimizer state", category="state", bytes=full.memory.peak_bytes // 2)
    memory = full.memory.model_copy(update={"contents": [state]})
    text = profile_summary(full.model_copy(update={"memory": memory}))[2]
    assert "is optimizer state (50%); " in text
    assert text.count("optimizer state") == 1


def test_costs_of_bases_are_told(full):
    text = profile_summary(full)[2]
    assert "randomized svd at its period" in text


def test_memory_without_contents_names_the_largest_category(full):
    bare = full.memory.model_copy(update={"contents": [], "savings": []})
    text = profile_summary(full.model_copy(update={"memory": bare}))[2]
    assert "is activations (" in text
    assert "another optimizer frees" in text
    unknown = bare.model_copy(update={"peak_bytes": None})
    text = profile_summary(full.model_copy(update={"memory": unknown}))[2]
    assert "AdamW keeps" in text
    assert "osd-8bit the least" in text or "galore-8bit the least" in text


def test_quick_says_on_how_many_batches_it_looked_at_a_layer(full):
    layers = [
        layer.model_copy(update={"spectrum": layer.spectrum.model_copy(update={"batches": 2})})
        if layer.spectrum
        else layer
        for layer in full.layers
    ]
    quick = full.model_copy(update={"layers": layers})
    assert "(as far as 2 made-up batches at step 70 can tell)" in profile_summary(quick)[0]
