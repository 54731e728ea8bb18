"""Two profiles side by side: what differs, what changed beyond the batches' spread, and what only seems to."""

from __future__ import annotations

import io
import json
from statistics import median

import pytest
from rich.console import Console

from subopt.findings.comparison import comparison_summary
from subopt.profilers.compare.compare import compare
from subopt.profilers.record.profile import Spread
from subopt.terminal.comparison import comparison_report

from .full_profile import full_profile

LAYERS = 8


@pytest.fixture(scope="module")
def a():
    return full_profile(LAYERS)


def text_of(found, width=200) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    for part in comparison_report(found, "before.json", "after.json"):
        console.print(part)
    return console.file.getvalue()


def measured(profile):
    return [layer for layer in profile.layers if layer.spectrum]


def changed(profile, change):
    """The profile with `change(layer, index)` in the place of every measured layer."""
    index = iter(range(len(profile.layers)))
    layers = [change(layer, next(index)) if layer.spectrum else layer for layer in profile.layers]
    return profile.model_copy(update={"layers": layers})


def with_effective_rank(layer, mean, half_width):
    spread = Spread(mean=mean, min=mean - half_width, max=mean + half_width)
    spectrum = layer.spectrum.model_copy(update={"effective_rank": spread})
    return layer.model_copy(update={"spectrum": spectrum})


def test_a_profile_beside_itself_has_not_changed(a):
    found = compare(a, a)
    assert found.differences == ()
    assert (found.unmatched_a, found.unmatched_b, found.only_a, found.only_b) == ((), (), (), ())
    assert all(not layer.effective_rank.beyond_spread for layer in found.layers)
    assert all(trend.up == trend.down == 0 for trend in found.trends.values())
    text = text_of(found)
    assert f"no change beyond what the batches vary by, in all of {LAYERS} layers" in text
    assert "in nothing that was asked for" in text
    assert "Methods that cost something else" not in text


@pytest.mark.parametrize(("half_width", "is_clear"), [(9.9, True), (10.0, False), (25.0, False)])
def test_a_difference_within_the_spread_is_no_change(a, half_width, is_clear):
    left = changed(a, lambda layer, _: with_effective_rank(layer, 30.0, half_width))
    right = changed(a, lambda layer, _: with_effective_rank(layer, 50.0, half_width))
    there, back = compare(left, right), compare(right, left)
    assert {layer.effective_rank.beyond_spread for layer in there.layers} == {is_clear}
    clear = LAYERS if is_clear else 0
    assert (there.trends["effective_rank"].up, there.trends["effective_rank"].down) == (clear, 0)
    assert (back.trends["effective_rank"].up, back.trends["effective_rank"].down) == (0, clear)
    said = f"less low-rank in {LAYERS} of {LAYERS} layers" if is_clear else "no change beyond"
    assert comparison_summary(there)[0].startswith(f"Spectrum: {said}")


def test_one_batch_has_no_spread_to_be_beyond(a):
    left = changed(a, lambda layer, _: with_effective_rank(layer, 30.0, 0.0))
    right = changed(
        a, lambda layer, index: with_effective_rank(layer, 20.0 + 20.0 * (index % 2), 0.0)
    )
    for found in (compare(left, right), compare(a, right)):
        assert {layer.effective_rank.beyond_spread for layer in found.layers} == {None}
        assert {layer.rank_95.beyond_spread for layer in found.layers} == {None}
    said = comparison_summary(compare(left, right))[0]
    assert said.startswith(
        f"Spectrum: lower in {LAYERS // 2} and higher in {LAYERS // 2} of {LAYERS} layers, by chance or not"
    )
    assert comparison_summary(compare(left, left))[0].startswith("Spectrum: no change, in all of")
    assert "yes" not in text_of(compare(left, right))


def test_layers_that_moved_both_ways_are_counted_apart(a):
    means = [30.0, 60.0, 15.0, 31.0, 60.0, 30.0, 30.0, 60.0]
    left = changed(a, lambda layer, _: with_effective_rank(layer, 30.0, 2.0))
    right = changed(a, lambda layer, index: with_effective_rank(layer, means[index], 2.0))
    found = compare(left, right)
    assert (found.trends["effective_rank"].down, found.trends["effective_rank"].up) == (1, 3)
    assert (
        "more low-rank in 1 and less in 3 of 8 layers, beyond what the batches vary by (4 within"
        in (comparison_summary(found)[0])
    )


def test_numbers_are_those_of_the_profiles(a):
    b = full_profile(LAYERS, seed=1)
    found = compare(a, b)
    for change, left, right in zip(found.layers, measured(a), measured(b), strict=True):
        m = min(left.shape)
        assert change.effective_rank.a == pytest.approx(left.spectrum.effective_rank.mean / m)
        assert change.effective_rank.b == pytest.approx(right.spectrum.effective_rank.mean / m)
        assert change.rank_95.b == pytest.approx(right.spectrum.rank_at_energy["0.95"].mean / m)
        assert change.diagonality["raw"].b == right.diagonality.raw.ratio
        assert change.diagonality["raw"].beyond_spread is None
        assert change.period.a == left.subspace["gradient"].period
        assert change.signal.b == right.noise.signal_share
    adamw = next(method for method in found.methods if method.method == "adamw")
    assert adamw.state_bytes.a == a.methods[0].state_bytes
    assert adamw.step_ms.b == b.methods[0].step_ms
    assert found.memory["peak_bytes"].b == b.memory.peak_bytes


def test_a_period_that_outlasts_the_run_counts_as_the_run(a):
    def lasting(layer, _):
        life = layer.subspace["gradient"].model_copy(update={"period": None})
        return layer.model_copy(update={"subspace": {"gradient": life}})

    assert {layer.period.b for layer in compare(a, changed(a, lasting)).layers} == {20.0}


def test_different_numbers_of_batches_compare_unbiased_estimates(a):
    settings = a.settings.model_copy(update={"batches": 32})
    found = compare(a, a.model_copy(update={"settings": settings}))
    first = measured(a)[0]
    assert found.uses_unbiased
    assert found.layers[0].diagonality["raw"].a == first.diagonality.raw.unbiased
    assert "unbiased estimates" in text_of(found)


def test_a_basis_judged_on_its_own_gradients_is_not_compared(a):
    def in_sample(layer, _):
        one = layer.diagonality.one_sided.model_copy(update={"in_sample": True})
        diagonality = layer.diagonality.model_copy(update={"one_sided": one})
        return layer.model_copy(update={"diagonality": diagonality})

    found = compare(a, changed(a, in_sample))
    assert all("one_sided" not in layer.diagonality for layer in found.layers)
    assert "diagonality.one_sided" not in found.trends


def test_what_differs_is_listed_by_name(a):
    target = a.target.model_copy(update={"kwargs": {"size": "130m"}, "sha256": None})
    environment = a.environment.model_copy(update={"device": "cpu", "gpu": None})
    b = a.model_copy(update={"target": target, "environment": environment})
    found = compare(a, b).differences
    assert len(found) == len(set(found))
    listed = {item.what: (item.a, item.b) for item in found}
    assert listed["kwargs.size"] == ("60m", "130m")
    assert listed["kwargs.layers"] == (str(LAYERS), "")
    assert listed["device"] == ("cuda", "cpu")
    assert listed["sha256"] == (a.target.sha256, "")
    assert "batch_size" not in listed
    assert not any("free_bytes" in what for what in listed)
    assert "times do not compare: device" in text_of(compare(a, b))


def test_layers_of_other_names_are_matched_by_shape_in_order(a):
    renamed = changed(a, lambda layer, index: layer.model_copy(update={"name": f"h.{index}.w"}))
    found = compare(a, renamed)
    assert [layer.b for layer in found.layers] == [f"h.{k}.w" for k in (0, 1, 2, 3, 4, 5, 6, 7)]
    assert {layer.matched_by for layer in found.layers} == {"shape"}
    assert f"{LAYERS} of them by shape and kind in their order" in text_of(found)


def test_a_name_wins_over_a_shape_and_the_rest_is_left_over(a):
    layers = measured(a)
    last = layers[-1].model_copy(update={"name": layers[0].name})  # 512 x 512 as well
    other = layers[1].model_copy(update={"name": "new", "shape": [7, 9]})
    found = compare(a, a.model_copy(update={"layers": [other, last, layers[1]]}))
    assert [(layer.a, layer.b) for layer in found.layers] == [
        (layers[0].name, layers[0].name),
        (layers[1].name, layers[1].name),
    ]
    assert found.unmatched_b == ("new",)
    assert set(found.unmatched_a) == {layer.name for layer in layers[2:]}


def test_sizes_of_one_architecture_compare_as_shares(a):
    def wider(layer, _):
        shape = [2 * side for side in layer.shape]
        rank = layer.spectrum.effective_rank
        return with_effective_rank(layer, 2 * rank.mean, 2 * (rank.max - rank.mean)).model_copy(
            update={"shape": shape}
        )

    found = compare(a, changed(a, wider))
    assert all(layer.effective_rank.difference == pytest.approx(0) for layer in found.layers)
    assert found.trends["effective_rank"].up == found.trends["effective_rank"].down == 0


def test_models_without_a_layer_in_common_still_have_typical_layers(a):
    def other(layer, index):
        return with_effective_rank(layer, 21.0, 1.0).model_copy(
            update={"name": f"h.{index}", "shape": [84, 100]}
        )

    found = compare(a, changed(a, other))
    assert found.layers == ()
    shares = [layer.spectrum.effective_rank.mean / min(layer.shape) for layer in measured(a)]
    assert found.typical["effective_rank"].a == pytest.approx(median(shares))
    assert found.typical["effective_rank"].b == pytest.approx(0.25)
    told = comparison_summary(found)[0]
    assert "no layer of A has a counterpart in B" in told
    assert "25% in B" in told


def test_nothing_in_common_is_said(a):
    bare = changed(a, lambda layer, _: layer.model_copy(update={"spectrum": None}))
    simulated = bare.model_copy(
        update={"methods": [], "memory": bare.memory.model_copy(update={"peak_bytes": None})}
    )
    found = compare(a, simulated)
    assert found.layers == ()
    assert found.only_a == tuple(cost.method for cost in a.methods)
    assert comparison_summary(found) == [
        "The profiles have nothing in common that can be compared."
    ]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_the_report_fits_the_width(a, width):
    b = full_profile(LAYERS + 7, seed=2)
    text = text_of(compare(a, b), width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for title in ("What is compared", "In short", "Layers that changed most", "How to read"):
        assert f"\n{title}" in f"\n{text}"


def test_the_largest_clear_changes_come_first(a):
    means = [31.0, 60.0, 15.0, 120.0, 30.0, 30.0, 30.0, 30.0]
    left = changed(a, lambda layer, _: with_effective_rank(layer, 30.0, 2.0))
    right = changed(a, lambda layer, index: with_effective_rank(layer, means[index], 2.0))
    lines = text_of(compare(left, right)).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("layer "))
    names = [line.split()[0] for line in lines[start + 1 : start + 4]]
    assert names[0] == measured(a)[3].name.removesuffix(".weight")
    assert set(names[1:]) == {measured(a)[k].name.removesuffix(".weight") for k in (1, 2)}


def test_methods_that_cost_something_else_have_ratios(a):
    def cheaper(cost):
        if cost.method != "galore":
            return cost
        return cost.model_copy(update={"state_bytes": cost.state_bytes // 2})

    b = a.model_copy(update={"methods": [cheaper(cost) for cost in a.methods]})
    text = text_of(compare(a, b))
    row = next(line for line in text.splitlines() if line.startswith("galore "))
    assert " 0.5 " in row
    assert not any(line.startswith("adafactor") for line in text.splitlines())


def test_the_command_prints_and_writes_one_document(subopt, folder, a):
    a.save(folder / "a.json")
    full_profile(LAYERS, seed=3).save(folder / "b.json")
    ended = subopt("compare", "a.json", "b.json")
    assert ended.status == 0
    assert "Layers that changed most" in ended.out
    document = json.loads(subopt("compare", "a.json", "b.json", "--json").out)
    assert [item["what"] for item in document["differences"]] == ["seed"]
    assert len(document["layers"]) == LAYERS
    assert document["layers"][0]["effective_rank"].keys() == {"a", "b", "beyond_spread"}


@pytest.mark.parametrize("content", [None, "{", '{"schema_version": 1}', "[]"])
def test_a_bad_file_is_status_2(subopt, folder, a, content):
    a.save(folder / "a.json")
    if content is not None:
        (folder / "b.json").write_text(content)
    for words in (("a.json", "b.json"), ("b.json", "a.json")):
        ended = subopt("compare", *words)
        assert ended.status == 2
        assert ended.out == ""
        assert "b.json" in ended.lines[0]
