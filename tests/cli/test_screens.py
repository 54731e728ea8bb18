"""The first screens: short, the verdict first, sorted by what they claim, and no number contradicts another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from subopt.commands._advice import train_command
from subopt.findings.answer import answer_of, in_claimed_order
from subopt.recipes.advice.advisor import recommend
from subopt.recipes.plan.solving import PlanRequest
from subopt.terminal.advice import advice_screen, that_fit
from subopt.terminal.answer import lengths_of
from subopt.terminal.profile import profile_screen
from subopt.units import format_bytes

from ..recipes.advice_profile import contestant, race
from .full_profile import full_profile
from .test_render import text_of

LINES, WIDTH, BEGINNING = 40, 80, 10
GIB = 2**30
NEXT = "subopt train recipe.yaml --race"
MORE = [("why", "subopt recommend --explain soap"), ("more", "--details, or subopt report")]
# What somebody knows who has read the first lines: which method, which rate, how much better and how surely, whether it
# fits, what it costs, what to do next.
KNOWN = ("ANSWER ", "confidence: ", "gain ", "rate ", "step time ", "memory ", "next ")
ROW = re.compile(
    r"^[> ] (\S+) +(yes|maybe|no) +(\S+ \S+) +(\S+) +(unknown|0|\S+ \+-\S+) ", re.MULTILINE
)


@pytest.fixture(scope="module")
def full():
    return full_profile(14)


QUESTIONS = {
    "plain": {},
    "speed": {"objective": "speed"},
    "memory": {"objective": "memory"},
    "tight": {"budget_bytes": 6 * GIB},
    "tighter": {"budget_bytes": 3 * GIB},
    "nothing fits": {"budget_bytes": GIB},
    "the largest batch": {"request": PlanRequest(batch_size="auto")},
    "few": {"methods": ["adamw", "momentum"]},
}


def screen_of(profile, advice, width=WIDTH):
    answer = answer_of(advice, profile, NEXT)
    return text_of(*spaced(advice_screen(advice, profile, answer, MORE)), width=width)


def spaced(parts):
    """The parts with the empty lines between them that `Output.show` prints."""
    return [line for part in parts for line in ("", part)][1:]


def asked(profile, name):
    return recommend(profile, **({"budget_bytes": 24 * GIB} | QUESTIONS[name]))


@pytest.mark.parametrize("is_raced", [False, True])
@pytest.mark.parametrize("name", QUESTIONS)
def test_the_screens_are_short_and_begin_with_the_answer(full, name, is_raced):
    result = race(contestant("soap", (1.8, 1.9))) if is_raced else None
    profile = full.model_copy(update={"race": result})
    advice = asked(profile, name)
    for text, first in (
        (screen_of(profile, advice), 0),
        (text_of(*spaced(profile_screen(profile, advice, "subopt recommend"))), 4),
    ):
        lines = text.splitlines()
        assert len(lines) <= LINES, text
        assert max(map(len, lines)) <= WIDTH
        beginning = "\n".join(lines[: BEGINNING + first])
        if advice.chosen is None:
            assert "ANSWER nothing fits" in beginning
            assert "too much" in beginning
        else:
            assert [word for word in KNOWN if word not in beginning] == []
            assert f"ANSWER {advice.chosen.method}, " in beginning
        assert "\n  adamw " in text or "\n> adamw " in text


@pytest.mark.parametrize("width", [40, 60, 120])
def test_the_screens_fit_any_width(full, width):
    advice = asked(full, "plain")
    parts = profile_screen(full, advice, "subopt recommend")
    for text in (screen_of(full, advice, width), text_of(*parts, width=width)):
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plain", lambda row: 0.0 if row.is_baseline else -row.expected.gain),
        ("speed", lambda row: row.overhead.share),
        ("memory", lambda row: row.peak.bytes),
    ],
)
def test_rows_are_sorted_by_what_the_heading_claims(full, name, value):
    advice = asked(full.model_copy(update={"race": None}), name)
    rows = [
        row
        for row in in_claimed_order(advice)
        if row.expected or row.is_baseline or name != "plain"
    ]
    fitting = [value(row) for row in rows if row.fit is rows[0].fit]
    assert len(fitting) > 10
    assert fitting == sorted(fitting)


def test_the_least_memory_is_recommended_where_it_was_asked_for(full):
    advice = asked(full, "memory")
    assert advice.chosen.peak.bytes == min(row.peak.bytes for row in advice.rows)
    assert in_claimed_order(advice)[0] is advice.chosen


def test_a_gain_no_larger_than_its_error_is_marked(full):
    profile = full.model_copy(update={"race": None})
    advice = asked(profile, "plain")
    rows = {row.method: row for row in advice.rows}
    everything = advice_screen(
        advice, profile, answer_of(advice, profile, NEXT), MORE, everything=True
    )
    lines = [line for line in text_of(*everything, width=120).splitlines() if ROW.match(line)]
    assert len(lines) == len(rows)
    assert 5 < sum(line.endswith(" ~") for line in lines) < len(rows) - 1
    for line in lines:
        expected = rows[ROW.match(line)[1]].expected
        is_small = expected is not None and abs(expected.gain) <= expected.error
        assert line.endswith(" ~") == is_small


def test_what_no_training_produced_is_predicted(full):
    without = full.model_copy(update={"race": None})
    text = screen_of(without, asked(without, "plain"))
    assert "predicted, not raced" in text
    assert " raced\n" not in text.replace("not raced", "")
    differs = race(contestant("soap", (1.8, 1.9)), precision=full.settings.dtype)
    same = full.model_copy(update={"race": replace_batch(differs, full)})
    found = screen_of(same, asked(same, "plain"))
    row = next(row for row in asked(same, "plain").rows if row.method == "soap")
    assert row.is_raced
    assert re.search(r"soap .* raced", found)


def replace_batch(found, profile):
    """The race, at the settings of the profile."""
    return found.model_copy(
        update={
            "batch_size": profile.settings.batch_size,
            "accumulate": 1,
            "target_sha256": profile.target.sha256,
            "precision": profile.settings.dtype,
            "device": profile.environment.device,
        }
    )


def test_more_reasons_than_there_is_room_for_are_counted():
    assert that_fit(["one", "two"], 6) == ["one", "two"]
    assert that_fit(["one", "two", "three"], 5) == ["one", "2 more remarks: --details"]


@pytest.mark.parametrize("sizes", [[5, 3, 1], [1, 1, 1], [0, 7], [1000, 1, 1]])
def test_the_parts_of_the_bar_sum_to_its_length(sizes):
    lengths = lengths_of(sizes, 40)
    assert sum(lengths) == 40
    assert all(abs(n - 40 * size / sum(sizes)) < 1 for n, size in zip(lengths, sizes, strict=True))


# ---- the commands


@pytest.fixture
def folder(folder):
    """The user's folder, in which no recipe has been written yet."""
    (folder / "recipe.yaml").unlink()
    return folder


def numbers(text):
    """What a screen says: the lines of the answer by name, the rows of its table, the parts of the peak."""
    answer = dict(
        re.findall(r"^  (gain|rate|step time|memory) +(.*(?:\n {13}.*)*)", text, re.MULTILINE)
    )
    rows = {row[0]: row[1:] for row in ROW.findall(text)}
    memory = text[text.index("MEMORY") :].split("\n\n")[0]
    return {name: " ".join(words.split()) for name, words in answer.items()}, rows, memory


def saved(full, folder):
    full.model_copy(update={"race": None}).save(folder / ".subopt" / "profile.json")


def check_agreement(subopt, folder, target, *words):
    profiled = subopt("profile", target, *words)
    assert profiled.status == 0, profiled.err
    advised = subopt("recommend")
    assert advised.status == 0, advised.err
    for text in (profiled.out, advised.out):
        assert len(text.splitlines()) <= LINES
    (answer, rows, memory), (answer_2, rows_2, memory_2) = map(numbers, (profiled.out, advised.out))
    assert answer == answer_2
    assert memory == memory_2
    shared = rows.keys() & rows_2.keys()
    assert len(shared) >= 2
    assert [rows[name] for name in shared] == [rows_2[name] for name in shared]

    # within one screen
    method = re.search(r"ANSWER (\S+),", advised.out)[1]
    _, peak, step, gain = rows[method]
    assert f"peak {peak} (" in answer["memory"]
    assert f"AdamW's peak of {rows['adamw'][1]} " in memory
    if method != "adamw":
        assert answer["step time"].startswith(f"{step}: ")
        assert answer["gain"].startswith(gain.lstrip("+-"))

    # with the files, and with what the other commands say
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert float(answer["rate"].split(",")[0]) == recipe["optimizer"]["lr"]
    assert format_bytes(recipe["why"]["predicted_peak_bytes"]) == peak
    dry = subopt("train", "recipe.yaml", "--dry-run")
    assert dry.status == 0, dry.err
    assert f"{peak} predicted at the peak" in " ".join((dry.out + dry.err).split())
    explained = subopt("recommend", "--explain", method)
    words_of = " ".join(explained.out.split())
    assert f"peak {peak} in the" in words_of
    assert f"rate {answer['rate']}" in words_of
    if method != "adamw":
        assert f"{gain} to expect" in words_of


def test_profile_recommend_train_and_explain_agree(subopt, folder):
    check_agreement(subopt, folder, "model.py", "--batches", "2", "--batch-size", "2")


@pytest.mark.slow
def test_they_agree_on_the_example(subopt, folder, example):
    words = ("--detail", "quick", "--batches", "2", "--batch-size", "2")
    check_agreement(subopt, folder, example, *words)


@pytest.fixture
def example(request):
    return str(request.config.rootpath / "examples" / "llama_bytes.py")


def test_explaining_a_method_writes_no_recipe(subopt, folder, full):
    saved(full, folder)
    explained = subopt("recommend", "--gpu-mem", "24G", "--explain", "lion")
    assert explained.status == 0
    assert explained.out.startswith("lion: ")
    assert not (folder / "recipe.yaml").exists()
    unknown = subopt("recommend", "--gpu-mem", "24G", "--explain", "nosuch")
    assert unknown.status == 2
    left_out = subopt(
        "recommend", "--gpu-mem", "24G", "--methods", "adamw,soap", "--explain", "lion"
    )
    assert left_out.status == 2
    assert "they are " in left_out.err


def test_details_come_after_the_screen(subopt, folder, full):
    saved(full, folder)
    short = subopt("recommend", "--gpu-mem", "24G").out
    whole = subopt("recommend", "--gpu-mem", "24G", "--details").out
    assert whole.startswith(short)
    for title in (
        "Memory",
        "Methods, by expected gain",
        "What the rows rest on",
        "How to read",
        "All remarks",
    ):
        assert f"\n{title}" in whole[len(short) :]


@pytest.mark.parametrize(("share", "words"), [(0.3, "(raced, at 30% of"), (1.0, "(raced)")])
def test_a_raced_gain_says_of_how_much_of_the_run_it_is(full, share, words):
    won = contestant("soap", (1.2, 1.2)).model_copy(update={"steps": 1000})
    same = race(
        won,
        share=share,
        precision=full.settings.dtype,
        batch_size=full.settings.batch_size,
        device=full.environment.device,
        target_sha256=full.target.sha256,
    )
    profile = full.model_copy(update={"race": same})
    advice = asked(profile, "plain")
    assert advice.chosen.is_raced
    assert words in screen_of(profile, advice)


def test_a_rate_that_was_measured_is_not_looked_for_again(full):
    advice = asked(full.model_copy(update={"race": None}), "plain")
    assert "--race" in train_command(Path("recipe.yaml"), advice)
    alone = contestant(advice.chosen.method, (1.0,), verdict="baseline")
    rates = race(share=0.02, target_sha256=full.target.sha256).model_copy(
        update={"contestants": [alone], "baseline": alone.method}
    )
    known = asked(full.model_copy(update={"race": rates}), "plain")
    assert known.chosen.method == alone.method
    assert train_command(Path("recipe.yaml"), known) == "subopt train recipe.yaml"
