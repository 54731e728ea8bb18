"""The recipe file: what loads, what it is written back as, and what each mistake is told."""

import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subopt.app import main
from subopt.errors import AdjustedWarning, FileFormatError, UsageError
from subopt.optimizers import METHODS
from subopt.recipes.recipe.load import dump_recipe, load_recipe, parse_recipe, with_settings
from subopt.recipes.schema import Recipe

GOOD = """\
model:
  target: model.py
optimizer:
  method: galore
  lr: 1e-3
  options: {rank: 4}
schedule:
  steps: 10
"""


def line_replaced(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


MISTAKES = {
    "tab": ("model:\n\ttarget: m.py\n", r"r.yaml:2: a tab cannot indent YAML"),
    "not yaml": ("model: {target: [}\n", r"r.yaml:1: not YAML: "),
    "empty": ("", r"r.yaml:1: a recipe is a mapping of keys, this is empty"),
    "list": ("- a\n", r"r.yaml:1: a recipe is a mapping of keys, this is a list"),
    "unknown section": (GOOD + "shedule: 1\n", r"r.yaml:9: shedule: unknown key.*mean 'schedule'"),
    "unknown key": (
        line_replaced("steps: 10", "steps: 10\n  step: 3"),
        r"r.yaml:9: schedule.step: unknown key 'step'; did you mean 'steps'",
    ),
    "unknown for missing key": (
        line_replaced("lr: 1e-3", "lrr: 1e-3"),
        r"r.yaml:5: optimizer.lrr: unknown key 'lrr'; did you mean 'lr'\?",
    ),
    "unknown for missing section": (
        line_replaced("schedule:", "shedule:"),
        r"r.yaml:7: shedule: unknown key.*mean 'schedule'",
    ),
    "missing key": (line_replaced("  lr: 1e-3\n", ""), r"r.yaml:3: optimizer.lr: this key is req"),
    "text for number": (
        line_replaced("steps: 10", "steps: ten"),
        r"r.yaml:8: schedule.steps: must be a whole number, not 'ten'",
    ),
    "true for number": (
        line_replaced("steps: 10", "steps: true"),
        r"r.yaml:8: schedule.steps: must be a whole number, not True",
    ),
    "out of range": (
        line_replaced("lr: 1e-3", "lr: -1"),
        r"r.yaml:5: optimizer.lr: must be greater than 0, not -1",
    ),
    "not finite": (line_replaced("1e-3", ".inf"), r"r.yaml:5: optimizer.lr: must be .*not inf"),
    "wrong choice": (GOOD + "precision: fp8\n", r"r.yaml:9: precision: must be 'fp32', .*'fp8'"),
    "given twice": (
        line_replaced("lr: 1e-3", "lr: 1e-3\n  lr: 1e-4"),
        r"r.yaml:6: optimizer.lr: given twice; first on line 5",
    ),
    "section is a scalar": (GOOD + "data: 8\n", r"r.yaml:9: data: must be a .*mapping.*, not 8"),
    "alias": ("a: &x [1]\nb: *x\n", r"r.yaml:1: anchors and aliases"),
    "tag": ("a: !!python/object/apply:os.system ['true']\n", r"r.yaml:1: tags such as .* not supp"),
    "deep": ("a: " + "[" * 5000, r"r.yaml:1: nested more than 20 levels deep"),
    "two documents": ("a: 1\n---\nb: 2\n", r"r.yaml:2: a second document"),
    "impossible date": (
        line_replaced("steps: 10", "steps: 2026-13-45"),
        r"r.yaml:8: schedule.steps",
    ),
    "control character": ("a: \0\n", r"r.yaml: not YAML"),
    "warm-up too long": (
        line_replaced("steps: 10", "steps: 10\n  warmup_steps: 10"),
        r"r.yaml:7: schedule: warmup_steps \(10\) must be below steps \(10\)",
    ),
    "unknown method": (
        line_replaced("method: galore", "method: galor"),
        r"r.yaml:4: optimizer.method: .*'galor'.*did you mean 'galore'",
    ),
    "unknown option": (
        line_replaced("{rank: 4}", "\n    rank: 4\n    perod: 3"),
        r"r.yaml:8: optimizer.options.perod: .*no option 'perod'; did you mean 'period'",
    ),
    "option out of range": (
        line_replaced("{rank: 4}", "\n    period: 3\n    rank: -4"),
        r"r.yaml:8: optimizer.options.rank: ",
    ),
    "override's method": (
        line_replaced("schedule:", "  overrides:\n  - pattern: x\n    method: soup\nschedule:"),
        r"r.yaml:9: optimizer.overrides.0.method: .*'soup'",
    ),
    "override's pattern": (
        line_replaced("schedule:", "  overrides:\n  - pattern: '('\nschedule:"),
        r"r.yaml:8: optimizer.overrides.0.pattern: '\(' is not a regular expression",
    ),
    "key is a list": ("? [a]\n: 1\n", r"r.yaml:1: a key must be a word"),
    "future version": (GOOD + "schema_version: 2\n", r"r.yaml:9: schema_version: must be 1, not 2"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_file_line_and_key(tmp_path, monkeypatch, name):
    text, pattern = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(FileFormatError, match=pattern) as caught:
        load_recipe(Path("r.yaml"))
    assert len(caught.value.message.splitlines()) == 1


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileFormatError, match="there is no recipe at"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(FileFormatError, match="cannot be read"):
        load_recipe(tmp_path)
    (tmp_path / "latin").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(FileFormatError, match=r"latin:2: not UTF-8"):
        load_recipe(tmp_path / "latin")
    (tmp_path / "huge").write_bytes(b"#" * 1_000_001)
    with pytest.raises(FileFormatError, match="too large"):
        load_recipe(tmp_path / "huge")


def test_numbers_with_an_exponent_are_numbers_and_quoted_ones_text():
    recipe = parse_recipe(
        GOOD.replace("target: model.py", "target: model.py\n  kwargs: {a: '1e-3', b: 2E5}")
    )
    assert recipe.optimizer.lr == 1e-3
    assert recipe.model.kwargs == {"a": "1e-3", "b": 2e5}


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_recipe(tmp_path / "r.yaml").schedule.steps == 10


scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.text(max_size=12),
    st.floats(allow_nan=False, allow_infinity=False),
)


@settings(max_examples=60)
@given(
    kwargs=st.dictionaries(st.text(min_size=1, max_size=8), scalars, max_size=3),
    target=st.text(min_size=1, max_size=20),
    lr=st.floats(1e-12, 100),
    evidence=st.lists(st.text(max_size=90), max_size=3),
    clip=st.none() | st.floats(1e-3, 10),
)
def test_what_is_written_loads_back_equal(kwargs, target, lr, evidence, clip):
    recipe = Recipe.model_validate({
        "model": {"target": target, "kwargs": kwargs},
        "optimizer": {
            "method": "galore",
            "lr": lr,
            "options": {"rank": 0.5, "betas": [0.9, 0.95]},
            "overrides": [{"pattern": "head", "method": "lion"}],
        },
        "schedule": {"steps": 5},
        "clip_norm": clip,
        "why": {"evidence": evidence},
    })
    text = dump_recipe(recipe)
    assert parse_recipe(text) == recipe
    # and a person can read it
    assert "# peak learning rate of the matrices" in text


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_valid_recipe_with_its_options_written_out(method):
    options = {
        k: list(v) if isinstance(v, tuple) else v for k, v in METHODS[method].defaults.items()
    }
    recipe = Recipe.model_validate({
        "model": {"target": "m.py"},
        "optimizer": {"method": method, "lr": 1e-3, "options": options},
        "schedule": {"steps": 1},
    })
    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_a_run_made_shorter_than_its_warm_up_gets_a_shorter_one_in_proportion():
    recipe = parse_recipe(GOOD.replace("steps: 10", "steps: 1000\n  warmup_steps: 100"))
    with pytest.warns(AdjustedWarning, match=r"warmup_steps is 10 and not 100.*steps=99"):
        found = with_settings(recipe, ["schedule.steps=100", "schedule.steps=99"]).schedule
    assert (found.steps, found.warmup_steps) == (99, 10)
    with pytest.warns(AdjustedWarning):
        assert with_settings(recipe, ["schedule.steps=1"]).schedule.warmup_steps == 0


def test_a_shorter_warm_up_is_said_in_one_line(recipe_path, monkeypatch, capsys):
    monkeypatch.chdir(recipe_path.parent)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["train", "recipe.yaml", "schedule.steps=2", "--dry-run"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "warmup_steps" in line]
    assert said == [
        "warning: schedule.warmup_steps is 1 and not 2, in proportion to schedule.steps=2"
    ]


def test_a_warm_up_that_fits_or_is_given_stays():
    recipe = parse_recipe(GOOD.replace("steps: 10", "steps: 1000\n  warmup_steps: 100"))
    assert with_settings(recipe, ["schedule.steps=101"]).schedule.warmup_steps == 100
    for by_hand in ("schedule.warmup_steps=50", "schedule.warmup_steps=100"):
        with pytest.raises(UsageError, match="must be below steps") as caught:
            with_settings(recipe, ["schedule.steps=12", by_hand])
        advised = caught.value.hint.split()[-1]
        assert advised == "schedule.warmup_steps=1"
        assert with_settings(recipe, ["schedule.steps=12", advised]).schedule.warmup_steps == 1


@pytest.mark.parametrize("steps", ["0", "-3", "twelve", "true", "1.5"])
def test_a_length_that_is_none_is_refused_as_such(steps):
    recipe = parse_recipe(GOOD.replace("steps: 10", "steps: 1000\n  warmup_steps: 100"))
    with pytest.raises(UsageError, match=r"schedule\.steps"):
        with_settings(recipe, [f"schedule.steps={steps}"])


def test_overrides_replace_dotted_keys():
    recipe = with_settings(
        parse_recipe(GOOD),
        [
            "schedule.steps=200",
            "optimizer.options.period=50",
            "clip_norm=null",
            "model.kwargs.size=60m",
        ],
    )
    assert recipe.schedule.steps == 200
    assert recipe.optimizer.options == {"rank": 4, "period": 50}
    assert recipe.clip_norm is None
    assert recipe.model.kwargs == {"size": "60m"}


def test_an_override_drops_only_predictions_it_makes_stale():
    text = (
        GOOD + "why: {predicted_peak_bytes: 5, predicted_step_ms: 2.5, predicted_state_bytes: 3}\n"
    )
    longer = with_settings(parse_recipe(text), ["schedule.steps=20"])
    assert longer.why.predicted_peak_bytes == 5
    other = with_settings(parse_recipe(text), ["optimizer.method=adamw", "optimizer.options={}"])
    assert other.why == Recipe.model_fields["why"].default


@pytest.mark.parametrize(
    ("override", "pattern"),
    [
        ("schedule.steps", "is not key=value"),
        ("=3", "is not key=value"),
        ("schedule.stops=3", "schedule.stops: unknown key 'stops'; did you mean 'steps'"),
        ("shedule.steps=3", "there is no section 'shedule'; did you mean 'schedule'"),
        ("schedule.steps.a=3", "there is no section 'schedule.steps'"),
        ("schedule.steps=0", "schedule.steps: must be greater than or equal to 1, not 0"),
        ("schedule.steps=[", "not YAML"),
        ("optimizer.method=adamv", "unknown method 'adamv'"),
        ("optimizer.options.scael=3", "no option 'scael'; did you mean 'scale'"),
    ],
)
def test_a_bad_override_is_a_usage_error(override, pattern):
    with pytest.raises(UsageError, match=pattern):
        with_settings(parse_recipe(GOOD), [override])
