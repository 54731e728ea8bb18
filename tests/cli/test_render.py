"""Renderers turn hand-built records into text that reads well at any width, with and without colours."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from rich.console import Console

from subopt.findings.answer import in_claimed_order
from subopt.findings.common import captured_share, measured_layers, short_side
from subopt.findings.summary import profile_summary
from subopt.optimizers import METHODS
from subopt.optimizers.state import low_bit
from subopt.recipes.advice.advisor import recommend
from subopt.recipes.prior.rates import heavy_decay
from subopt.recipes.run_folder.result import Figures, Result
from subopt.recipes.training.events import Evaluated, RunPlan, Stepped
from subopt.terminal.details.advice import SHOWN, advice_report
from subopt.terminal.details.blocks import block_table
from subopt.terminal.details.decompositions import decomposition_tables, spike_table
from subopt.terminal.details.layers import layer_table
from subopt.terminal.details.memory import METHODS_SHOWN, memory_tables
from subopt.terminal.details.profile import profile_report, spent_text
from subopt.terminal.details.subspaces import subspace_tables
from subopt.terminal.methods import fits_text, method_legend, method_list, method_table
from subopt.terminal.table import FittingTable, TerminalColumn, columns_that_fit, shorten
from subopt.terminal.training import (
    evaluation_line,
    plan_facts,
    relative_text,
    result_report,
    step_line,
)
from subopt.text import count, percent, ratio, times
from subopt.units import format_bytes, format_ms

from ..recipes.advice_profile import contestant, race
from .full_profile import full_profile

WIDTHS = [40, 80, 200]
FULL_TITLES = (
    "What was measured", "Layers", "Subspaces", "Blocks and inputs", "Methods", "Memory by phase", "SVD against",
    "Refresh spikes", "Where this profile's own time went", "How to", "In short",
)  # fmt: skip


@pytest.fixture(scope="module")
def full():
    return full_profile(14)


def row_of(text: str, beginning: str) -> str:
    """The first line that begins so."""
    return next(line for line in text.splitlines() if line.startswith(beginning))


def text_of(*renderables, width=80, terminal=False, environ=None) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=terminal,
        markup=False,
        highlight=False,
        _environ={"TERM": "xterm-256color"} | (environ or {}),
    )
    for renderable in renderables:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


@pytest.mark.parametrize("width", WIDTHS)
def test_profile_report_fits_the_width(profile, width):
    text = text_of(*profile_report(profile, usable_bytes=2**30), width=width)
    assert max(map(len, text.splitlines())) <= width
    for title in ("What was measured", "Layers", "Methods", "SVD against", "How to", "In short"):
        assert f"\n{title}" in f"\n{text}"
    assert "and 2 more" in text


def test_profile_report_keeps_the_columns_that_matter_most(profile):
    narrow, wide = (text_of(*profile_report(profile), width=width) for width in (40, 200))
    assert "layer " in narrow
    assert " spread " in narrow
    assert "(no room here for: shape, stable rank" in narrow
    assert "unbiased one side" in " ".join(narrow.split())
    assert "no room here" not in wide
    assert "unbiased" in wide


def test_layers_come_widest_spread_first(profile):
    shares = [layer.spectrum.effective_rank.mean for layer in measured_layers(profile)]
    assert shares == sorted(shares, reverse=True)
    text = text_of(*profile_report(profile), width=80)
    rows = [line.split()[0] for line in text.splitlines() if line.startswith("blocks.")]
    assert rows[0] == "blocks.6.attention.q_proj"
    assert len(rows) == 12


def test_a_profile_of_shapes_alone_has_no_empty_sections(profile):
    layers = [
        layer.model_copy(update={"spectrum": None, "diagonality": None}) for layer in profile.layers
    ]
    settings = profile.settings.model_copy(update={"simulate": True})
    bare = profile.model_copy(
        update={
            "layers": layers,
            "decompositions": [],
            "settings": settings,
            "missing": ["a", "b", "c"],
        }
    )
    text = text_of(*profile_report(bare))
    assert "nothing was run" in text
    assert "Layers, widest" not in text
    assert "SVD" not in text
    assert "a; b; and 1 more" in text
    assert len(profile_summary(bare)) == 1


def test_sentences_say_what_the_numbers_say(profile):
    rank, rotation, cost = profile_summary(profile)
    assert "50% of the typical layer's directions hold 95% of its gradient, 25% hold 90%" in rank
    assert "so a low rank loses some of it, and rank 25% keeps 42%" in rank
    # two sides were judged on the gradients they were fitted to, and do not count
    assert "pays in 14 of 14 layers" in rotation
    assert (
        "sees 2% of the second moment as is (pure noise: 0.1%), 2.0x that rotated on one"
        in rotation
    )
    assert "part of plain AdamW's 100 MiB peak (backward, simulated) is activations (90%)" in cost
    assert "optimizer state 8%; another optimizer frees 3 MiB at most" in cost
    assert "cost 0.84 ms a step by svd, thin at its period, 7 ms by online PCA" in cost


def test_a_share_and_a_count_of_rank_mean_different_things(profile):
    layer = profile.layers[0]
    assert captured_share(layer, 0.25) == 0.42
    assert captured_share(layer, 0.5) == captured_share(layer, 32) == 0.7
    assert captured_share(layer, 1) == 0.1
    assert [short_side(shape) for shape in ([32, 3, 5, 5], [80, 3, 5, 5], [7])] == [32, 75, 1]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_full_profile_fits_the_width(full, width):
    text = text_of(*profile_report(full, usable_bytes=2**33), width=width)
    assert max(map(len, text.splitlines())) <= width
    for title in FULL_TITLES:
        assert f"\n{title}" in f"\n{text}"


def test_gradients_were_measured_after_warm_up_and_run(full):
    assert "after 70 training steps" in text_of(*profile_report(full), width=200)
    settings = full.settings.model_copy(update={"warmup_steps": 0})
    run_only = full.model_copy(update={"settings": settings})
    assert "after 20 training steps" in text_of(*profile_report(run_only), width=200)


def test_layer_table_shows_summed_and_stale_bases(full):
    layer = measured_layers(full)[0]
    line = row_of(text_of(layer_table(full), width=200), layer.name.removesuffix(".weight"))
    diagonality = layer.diagonality
    for value in (diagonality.covariance, diagonality.stale["20"]):
        assert percent(value.ratio) in line
    text = text_of(layer_table(full), width=200)
    assert "20" in text.splitlines()[0].split()
    assert "sums" in text.splitlines()[1].split()


def test_columns_that_nobody_fills_are_not_there(profile):
    text = text_of(layer_table(profile), width=200)
    assert "sums" not in text
    assert "old" not in text
    assert subspace_tables(profile) == []
    assert block_table(profile) is None
    assert spike_table(profile) is None
    assert spent_text(profile) is None


def test_subspaces_by_source_and_by_layer(full):
    text = text_of(*subspace_tables(full), width=200)
    layers = measured_layers(full)
    for source in ("gradient", "momentum", "covariance"):
        frozen = median(layer.subspace[source].frozen[-1] for layer in layers)
        tracked = median(layer.subspace[source].tracked[-1] for layer in layers)
        assert percent(frozen) in row_of(text, source).split()
        assert percent(tracked) in row_of(text, source).split()
    assert row_of(text, "covariance").endswith("over 20")
    first = layers[0]
    line = row_of(text, first.name.removesuffix(".weight")).split()
    life = first.subspace["gradient"]
    expected = [life.own, life.frozen[0], life.frozen[-1], life.tracked[-1], life.chance]
    assert line[2:7] == [percent(value) for value in expected]
    assert line[7] == ("noise" if life.is_noise else str(life.period))
    assert line[-2] == percent(first.noise.signal_share)


def test_a_noisy_basis_is_called_noise(full):
    def noisy(layer):
        if not layer.subspace:
            return layer
        lives = {
            source: life.model_copy(update={"is_noise": True, "tracked": None})
            for source, life in layer.subspace.items()
        }
        return layer.model_copy(update={"subspace": lives})

    changed = full.model_copy(update={"layers": [noisy(layer) for layer in full.layers]})
    text = text_of(*subspace_tables(changed), width=200)
    assert row_of(text, "momentum").endswith("noise")
    assert "followed" not in text


def test_blocks_are_set_against_noise(full):
    layer = measured_layers(full)[0]
    line = row_of(text_of(block_table(full), width=200), layer.name.removesuffix(".weight"))
    cells, blocks = line.split(), layer.blocks
    assert cells[2:4] == [
        percent(blocks.by_output),
        times(blocks.by_output / blocks.by_output_noise),
    ]
    assert percent(blocks.shared["16"]) in cells
    assert percent(blocks.own["32"]) in cells
    assert cells[-1] == percent(layer.activations.effective_rank / layer.activations.width)


def test_memory_by_phase_marks_the_peak_and_begins_with_the_least(full):
    text = text_of(*memory_tables(full), width=120)
    rows = [line for line in text.splitlines() if " <" in line]
    assert len(rows) == METHODS_SHOWN + 1  # and plain AdamW
    shown = {line.split()[0] for line in rows}
    least = sorted(full.methods, key=lambda cost: cost.peak.bytes)[:METHODS_SHOWN]
    assert shown == {"adamw", *(cost.method for cost in least)}
    backward = format_bytes(least[0].peak.by_phase.backward)
    assert f"{backward} <" in rows[0]
    assert f"{len(full.methods) - METHODS_SHOWN - 1} more in the profile file" in text


def test_savings_stand_beside_the_most_that_an_optimizer_could_free(full):
    text = text_of(*memory_tables(full), width=120)
    least = min(full.methods, key=lambda cost: cost.peak.bytes)
    most = format_bytes(full.methods[0].peak.bytes - least.peak.bytes)
    assert row_of(text, most).endswith(f"another optimizer, at most ({least.method})")
    for content in full.memory.contents:
        share = percent(content.bytes / full.memory.peak_bytes)
        line = row_of(text, content.name)
        assert line.split()[-3:] == [*format_bytes(content.bytes).split(), share]
    sizes = [line.split()[:2] for line in text.split("change\n")[-1].splitlines()]
    assert sizes[0] == format_bytes(max(saving.bytes for saving in full.memory.savings)).split()


def test_refresh_spikes_leave_out_methods_without_one(full):
    text = text_of(spike_table(full), width=120)
    assert "adamw" not in text
    dearest = max(full.methods, key=lambda cost: cost.refresh_ms)
    cells = text.splitlines()[2].split()
    assert cells[0] == dearest.method
    assert times(dearest.refresh_ms / dearest.ordinary_ms) in cells
    assert " ".join(cells[-2:]) == format_ms(dearest.staggered_ms)


def test_decompositions_name_their_driver(full):
    text = text_of(*decomposition_tables(full), width=200)
    assert row_of(text, "eigh of the Gram matrix").split()[5] == "syevd"


def test_where_the_profiles_own_time_went(full):
    total = sum(item.seconds for item in full.spent)
    text = spent_text(full)
    assert f"{full.passes} forward and backward passes" in text
    longest = max(full.spent, key=lambda item: item.seconds)
    assert f": {longest.on} {percent(longest.seconds / total)}, " in text
    rest = sum(sorted((item.seconds for item in full.spent), reverse=True)[5:])
    assert text.endswith(f"the rest {percent(rest / total)}")


def test_method_table_leaves_out_what_nobody_has(profile):
    bare = [
        cost.model_copy(
            update={
                "peak": None,
                "overhead_ms": None,
                "relative_flops": None,
                "bound_relative": None,
            }
        )
        for cost in profile.methods
    ]
    text = text_of(method_table(bare), width=200)
    assert "peak" not in text
    assert "fits" not in text
    assert "2M" in text
    assert "125%" in text


def test_method_table_shows_the_bound_that_the_row_holds(profile):
    changed = [cost.model_copy(update={"bound_relative": 0.037}) for cost in profile.methods]
    assert text_of(method_table(changed), width=200).count("3.7%") == len(changed)


def test_method_table_marks_remarks(profile):
    text = text_of(method_table(profile.methods, remarks={"galore": "by its formula", "x": "y"}))
    assert "galore*" in text
    assert "* galore: by its formula" in text
    assert "* x" not in text


def test_fits_needs_the_whole_interval(profile):
    peak = profile.methods[0].peak
    assert fits_text(peak, peak.high_bytes) == "yes"
    assert fits_text(peak, peak.bytes) == "maybe"
    assert fits_text(peak, peak.low_bytes - 1) == "no"
    assert fits_text(peak, None) == fits_text(None, 1) == "-"


@pytest.mark.parametrize("width", WIDTHS)
def test_method_list_breaks_no_word(width):
    text = text_of(method_list(list(METHODS.values())), width=width)
    assert max(map(len, text.splitlines())) <= width
    words = {word for method in METHODS.values() for word in method.summary.split()}
    assert words <= set(text.split())


@pytest.mark.parametrize("width", WIDTHS)
def test_the_whole_advice_marks_the_chosen_method(profile, width):
    advice = recommend(profile, budget_bytes=24 * 2**30)
    text = text_of(*advice_report(advice, profile, "24G read as 24 GiB"), width=width)
    assert max(map(len, text.splitlines())) <= width
    marked = [line for line in text.splitlines() if line.startswith("> ")]
    assert [line.split()[1] for line in marked] == [advice.chosen.method]
    assert "24G read as 24 GiB" in text


@pytest.fixture
def every_method(profile):
    """A profile with every method of the table, the baseline the dearest."""
    cost = profile.methods[0]
    peak = cost.peak.model_copy(update={"bytes": 2**30, "low_bytes": 2**30, "high_bytes": 2**30})
    rows = [
        cost.model_copy(update={"method": name, "options": {}, "peak": peak, "overhead_ms": 0.0})
        for name in METHODS
        if name != "adamw"
    ]
    rows.append(cost.model_copy(update={"method": "adamw", "options": {}, "overhead_ms": 0.0}))
    return profile.model_copy(update={"methods": rows})


@pytest.mark.parametrize("width", WIDTHS)
def test_the_whole_advice_shows_the_best_and_says_how_many_more(every_method, width):
    advice = recommend(every_method, budget_bytes=24 * 2**30)
    short = text_of(*advice_report(advice, every_method, ""), width=width)
    whole = text_of(*advice_report(advice, every_method, "", everything=True), width=width)
    ordered = in_claimed_order(advice)
    hidden = [row.method for row in ordered[SHOWN:] if row.method != "adamw"]
    assert f"... and {len(hidden)} methods below these: --all" in short
    assert "below these" not in whole
    table = short[: short.index("\nWhat the rows rest on")]
    begins = {line.removeprefix("> ").split()[0] for line in table.splitlines() if line.strip()}
    assert not set(hidden) & begins
    assert {row.method for row in ordered[:SHOWN]} | {"adamw"} <= begins
    assert {row.method for row in advice.rows} <= {
        word for line in whole.splitlines() for word in line.split()[:2]
    }
    for text in (short, whole):
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_the_whole_advice_shows_each_type_of_evidence_that_says_something(full, width):
    raced = full.model_copy(update={"race": race(contestant("soap", (1.8, 1.9)))})
    full = full.model_copy(update={"race": None})
    texts = [
        text_of(*advice_report(recommend(found, budget_bytes=80 * 2**30), found, ""), width=width)
        for found in (full, raced)
    ]
    for text in texts:
        assert max(map(len, text.splitlines())) <= width
        words = " ".join(text.split())
        assert "counted predicted: " in words
        assert "left after doubts and time" in words
    tables = [" ".join(text[: text.index("\nWhat the rows rest on")].split()) for text in texts]
    # By its heading or, where it was dropped, among those there was no room for.
    assert "raced" not in tables[0].replace("decided by", "")
    assert "raced" in tables[1]
    assert "the race had another precision (fp32)" in " ".join(texts[1].split())


@pytest.fixture
def costs(profile):
    """A row for every method; dlrt's layers save 3 MiB of weights."""
    row = profile.methods[0]
    rows = [row.model_copy(update={"method": name, "options": {}}) for name in METHODS]
    saving = {"weight_bytes_saved": 3 * 2**20}
    return [row.model_copy(update=saving) if row.method == "dlrt" else row for row in rows]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_method_has_a_line_in_a_profiles_table(costs, width):
    text = text_of(method_table(costs, usable_bytes=2**30), width=width)
    first_words = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert [word for word in first_words if word in METHODS] == list(METHODS)
    assert max(map(len, text.splitlines())) <= width
    is_shown = "weights" in text.split("(no room")[0]
    assert (f"-{format_bytes(3 * 2**20)}" in text) is is_shown


def test_weights_have_a_column_only_where_a_method_holds_them_otherwise(costs):
    assert "weights" in text_of(method_table(costs), width=200)
    assert "weights" in dict(method_legend(costs))
    plain = [cost for cost in costs if not cost.weight_bytes_saved]
    assert "weights" not in text_of(method_table(plain), width=200)
    assert "weights" not in dict(method_legend(plain))


@pytest.mark.slow
def test_methods_that_are_not_installed_are_listed_and_cost_nothing(subopt, monkeypatch):
    monkeypatch.setattr(low_bit, "is_installed", lambda: False)
    listed = subopt("methods")
    said = "not installed: adamw-8bit, galore-8bit, osd-8bit (pip install 'subopt[lowbit]')"
    assert said in " ".join(listed.out.split())
    assert "adamw-8bit " in listed.out
    costs = subopt("methods", "--shape", "4x8")
    assert said in " ".join(costs.out.split())
    first_words = {line.split()[0] for line in costs.out.splitlines() if line.strip()}
    assert first_words & set(METHODS) == {name for name in METHODS if not name.endswith("8bit")}
    document = json.loads(subopt("methods", "--json").out)
    missing = {row["name"]: row["missing_extra"] for row in document["methods"]}
    assert {name for name, extra in missing.items() if extra == "lowbit"} == {
        name for name in METHODS if name.endswith("8bit")
    }


def test_colours_only_where_they_are_wanted(profile):
    parts = profile_report(profile)
    assert "\x1b[" in text_of(*parts, terminal=True)
    assert "\x1b[" not in text_of(*parts, terminal=False)
    no_color = text_of(*parts, terminal=True, environ={"NO_COLOR": "1"})
    assert "\x1b[1m" in no_color  # bold is no colour
    assert "\x1b[1;36m" not in no_color


PLAN = RunPlan(
    target="model.py: function build_model",
    method="adadiag",
    device="cpu",
    precision="fp32",
    parameters=1_870_000,
    matrix_parameters=1_770_000,
    steps=100,
    batch_size=8,
    accumulate=2,
    output=Path("runs/recipe"),
    start_step=0,
    predicted_state_bytes=18 * 2**20,
    predicted_peak_bytes=166 * 2**20,
    predicted_step_ms=12.0,
    free_bytes=20 * 2**30,
    checks=(("loss", "5.5: a scalar"),),
    has_eval=False,
    wall_time_s=75.0,
)
RESULT = Result(
    target="model.py",
    method="adadiag",
    device="cpu",
    precision="fp32",
    steps=100,
    step=40,
    resumed_from=0,
    interrupted=True,
    tokens=123_456,
    loss=3.25,
    eval_loss=None,
    wall_s=9.0,
    predicted=Figures(1000, 200 * 2**20, 10.0),
    actual=Figures(1000, 210 * 2**20, None),
    peak_source="process",
    output="runs/recipe",
    checkpoint="runs/recipe/checkpoints/step-40",
    weights=None,
)


def test_a_decay_that_eats_the_weights_is_marked():
    plan = replace(PLAN, heavy_decay=heavy_decay(0.1, 0.1))
    text = " ".join(text_of(plan_facts(plan)).split())
    assert "weight decay: 0.1 takes 1.0% off the weights in every step at a rate of 0.1" in text
    assert "try 0.01 or less" in text
    assert "weight decay" not in text_of(plan_facts(PLAN))


@pytest.mark.parametrize("width", WIDTHS)
def test_training_plan_and_result(width):
    text = text_of(plan_facts(PLAN), *result_report(RESULT), width=width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    assert "100 steps of 8 examples" in flat
    assert "no eval_batches" in flat
    assert "40 of 100" in flat
    assert "--resume" in flat
    assert "predicted" in flat


@pytest.mark.parametrize("source", ["process", "allocator"])
def test_a_peak_of_tensors_is_compared_with_one_of_tensors_alone(source):
    text = text_of(*result_report(replace(RESULT, peak_source=source)))
    if source == "allocator":
        assert row_of(text, "peak of tensors").split()[3:] == ["200", "MiB", "210", "MiB", "+5.0%"]
        assert "process" not in text
    else:
        assert row_of(text, "peak of tensors").split()[3:] == ["200", "MiB", "-", "-"]
        assert row_of(text, "growth of the process").split()[4:] == ["-", "210", "MiB", "-"]


def test_predictions_are_compared():
    assert relative_text(1000, 1000) == "exact"
    assert relative_text(200, 210) == "+5.0%"
    assert relative_text(200, 190) == "-5.0%"
    assert relative_text(None, 5) == relative_text(5, None) == "-"


def test_step_line_drops_what_has_no_room():
    event = Stepped(
        step=20, steps=100, loss=3.2123, lr=0.001, grad_norm=1.0, tokens=2048, tokens_per_s=5230.0,
        step_ms=391.0, memory_bytes=120 * 2**20, time_left_s=31.0,
    )  # fmt: skip
    assert step_line(event, 80) == (
        "step 20/100  loss 3.212  31.0 s left  lr 0.001  5230 tokens/s  120 MiB"
    )
    assert step_line(event, 30) == "step 20/100  loss 3.212"
    assert step_line(event, 30, with_step=False) == "loss 3.212  lr 0.001"
    assert evaluation_line(Evaluated(20, 3.0, 1)) == "step 20: held-out loss 3.0000 over 1 batch"


def test_columns_go_by_priority_and_names_are_shortened_in_the_middle():
    assert columns_that_fit([0, 2, 1], [10, 10, 10], 34) == [0, 1, 2]
    assert columns_that_fit([0, 2, 1], [10, 10, 10], 33) == [0, 2]
    assert columns_that_fit([0, 0], [10, 10], 5) == [0, 1]
    assert shorten("layers.3.attention.k_proj", 20) == "layers.3...on.k_proj"
    table = FittingTable(
        (
            TerminalColumn("name", is_text=True),
            TerminalColumn("a\nb"),
            TerminalColumn("c", priority=1),
        ),
        [["x" * 30, "1", "22"]],
    )
    assert text_of(table, width=26).splitlines() == [
        "                         a",
        "name                     b",
        "xxxxxxxxxx..xxxxxxxxxxx  1",
        "(no room here for: c)",
    ]
    assert "no room" not in text_of(table, width=29)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.00656), "0.66%"),
        (percent(0.00656, digits=3), "0.656%"),
        (percent(0.0525, digits=3), "5.25%"),
        (percent(0.0525), "5.2%"),
        (percent(0.63), "63%"),
        (percent(0.0), "0%"),
        (percent(0.00001), "<0.01%"),
        (percent(None), "-"),
        (ratio(0.273), "0.27"),
        (ratio(0.00004), "4e-05"),
        (times(7.46), "7.5x"),
        (count(3_300_000), "3.3M"),
        (count(950), "950"),
        (count(12_300), "12.3k"),
    ],
)
def test_numbers_have_two_digits_that_count(text, expected):
    assert text == expected


def test_json_is_one_document_and_nothing_else(subopt):
    methods = ["methods", "--methods", "adamw,adadiag", "--shape", "1024x4096"]
    ended = subopt(*methods, "--tokens", "130000", "--json")
    document = json.loads(ended.out)
    adadiag = next(row for row in document["methods"] if row["method"] == "adadiag")
    assert ended.status == 0
    assert ended.err == ""
    assert adadiag["state_bytes"] > 4 * (1024**2 + 2 * 1024 * 4096)
    assert round(100 * adadiag["bound_relative"], 3) == 0.656


@pytest.mark.parametrize("which", ["profile", "recipe"])
def test_schema_describes_the_file_format(subopt, which):
    document = json.loads(subopt("schema", which).out)
    assert document["additionalProperties"] is False
    assert "schema_version" in document["properties"]


def test_what_the_users_code_prints_stays_off_stdout(subopt, folder, two_methods):
    path = folder / "model.py"
    path.write_text(path.read_text() + "\nprint('hello from the model')\n")
    words = ["--detail", "quick", "--batches", "2", "--batch-size", "2", "--json"]
    ended = subopt("profile", "model.py", *words)
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["target"]["spec"] == "model.py"
    assert "hello from the model" in ended.err
    assert (folder / ".subopt" / "profile.json").exists()


def test_an_interrupted_profile_is_kept_and_says_what_is_missing(
    subopt, folder, monkeypatch, profile
):
    partial = profile.model_copy(
        update={
            "interrupted": True,
            "decompositions": [],
            "missing": ["decompositions: interrupted"],
        }
    )
    monkeypatch.setattr("subopt.profilers.profile.run_profile", lambda *_, **__: partial)
    ended = subopt("profile", "model.py", "-o", "part.json")
    assert ended.status == 130
    assert "Missing: decompositions (why: --details)." in ended.out
    assert "interrupted" in ended.err
    assert json.loads((folder / "part.json").read_text())["interrupted"] is True


@pytest.mark.slow
def test_profile_recommend_train(subopt, folder):
    assert subopt("profile", "model.py", "--detail", "quick", "--batches", "2").status == 0
    advised = subopt("recommend", "--gpu-mem", "24G", "-o", "own.yaml")
    assert advised.status == 0, advised.err
    assert "usable of 24 GiB" in advised.out
    whole = subopt("recommend", "--gpu-mem", "24G", "-o", "own.yaml", "--details").out
    assert "24G read as 24 GiB (25,769,803,776 bytes)" in " ".join(whole.split())
    steps = ["schedule.steps=3", "schedule.warmup_steps=1", "eval.every=0"]
    dry = subopt("train", "own.yaml", *steps, "--dry-run")
    assert dry.status == 0, dry.err
    assert not (folder / "runs").exists()
    assert "ok  loss" in dry.out
    trained = subopt("train", "own.yaml", *steps)
    assert trained.status == 0, trained.err
    assert "3 of 3 steps" in trained.out
    assert "exact" in trained.out
    assert (folder / "runs" / "own" / "model.safetensors").exists()
    again = subopt("train", "runs/own/recipe.yaml", "--resume")
    assert again.status == 0
    assert "already complete" in again.err
