"""The bundled recipes against the papers' numbers, and each of them trained on a model of the user's."""

import re

import pytest
from typer.testing import CliRunner

from subopt.app import app
from subopt.errors import FileFormatError, UsageError
from subopt.optimizers import get_method
from subopt.recipes.recipe.bundled import (
    NO_MODEL,
    bundled_names,
    load_bundled,
    open_recipe,
    require_model,
)
from subopt.recipes.recipe.load import with_settings
from subopt.recipes.training.trainer import train

# Nguyen et al. 2025, table 7: steps, warm-up steps, learning rate.
TABLE_7 = {
    "60m": (10_000, 1_000, 0.003),
    "130m": (20_000, 2_000, 0.001),
    "350m": (60_000, 6_000, 0.001),
    "1b": (100_000, 10_000, 0.001),
}
# Tables 2 and 5 have these on all four sizes.
TABLES_2_AND_5 = ("adamw", "adadiag", "adafacdiag", "adafacdiag-nomom", "hfacdiag")

# Nguyen et al. 2025, section 5.1 (epochs, batch) and appendix D (learning rate, decay 0.1, T = 500); ImageNet1k has
# 1,281,167 training images.
IMAGES = {"resnet50": (90, 1024, 0.001), "vit": (300, 4096, 0.0003)}
IMAGENET = 1_281_167

# Liang et al. 2024, section 5.3: 0.001 for the larger models, ten times that for the small one; table 1: rank 512,
# 10K steps; appendix A.1: batch 512, warm-up a tenth, clipping at 1.
LIANG_RATES = {"60m": 0.01, "350m": 0.001, "1b": 0.001}

# Yen et al. 2023, sections 3 and 3.1.
AUTOENCODER = {
    "shared-basis": {"rank": 32, "graft": "rmsprop-normalized"},
    "shampoo": {"block_size": 1000, "start_step": 101, "period": 10, "graft": "rmsprop-normalized"},
    "sketchy": {"rank": 256, "block_size": 1024},
    "block-adam": {"block_size": 10},
}


def settled(name):
    recipe = load_bundled(name).recipe
    own = get_method(recipe.optimizer.method)
    return recipe, own.resolve(recipe.optimizer.options)


def test_these_are_bundled():
    expected = {f"{method}-llama-{size}" for method in TABLES_2_AND_5 for size in TABLE_7}
    expected |= {f"{method}-{kind}" for method in ("adadiag", "adadiag++") for kind in IMAGES}
    expected |= {
        f"{method}-llama-{s}" for method in ("osd-8bit", "galore-8bit") for s in LIANG_RATES
    }
    expected |= {f"{method}-autoencoder" for method in AUTOENCODER}
    assert set(bundled_names()) == expected


@pytest.mark.parametrize("size", TABLE_7)
@pytest.mark.parametrize("method", TABLES_2_AND_5)
def test_language_models_as_in_table_7_and_appendix_d(method, size):
    recipe, options = settled(f"{method}-llama-{size}")
    steps, warmup_steps, lr = TABLE_7[size]
    assert recipe.optimizer.method == method
    assert (recipe.schedule.steps, recipe.schedule.warmup_steps, recipe.optimizer.lr) == (
        steps,
        warmup_steps,
        lr,
    )
    assert (recipe.schedule.name, recipe.schedule.final_ratio) == ("cosine", 0.1)
    assert recipe.data.batch_size * recipe.data.accumulate == 512
    assert options["betas"] == (0.9, 0.999)
    # Appendix D has 1e-8 for all; algorithms 2 and 3 add 1e-30 to the squares that they factor.
    assert options["eps"] == (1e-8 if method in {"adamw", "adadiag"} else 1e-30)
    if method != "adamw":
        assert (options["period"], options["early_refresh"], options["on_refresh"]) == (
            200,
            False,
            "keep",
        )


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("method", ["adadiag", "adadiag++"])
def test_image_models_as_in_section_5_1_and_appendix_d(method, kind):
    recipe, options = settled(f"{method}-{kind}")
    epochs, batch, lr = IMAGES[kind]
    assert recipe.schedule.steps == epochs * IMAGENET // batch
    assert recipe.schedule.warmup_steps == recipe.schedule.steps // 10
    assert (recipe.data.batch_size, recipe.optimizer.lr, recipe.optimizer.weight_decay) == (
        batch,
        lr,
        0.1,
    )
    assert (options["period"], options["betas"], options["eps"]) == (500, (0.9, 0.999), 1e-8)


@pytest.mark.parametrize("size", LIANG_RATES)
@pytest.mark.parametrize("method", ["osd-8bit", "galore-8bit"])
def test_subspaces_as_in_table_1_and_appendix_a(method, size):
    recipe, options = settled(f"{method}-llama-{size}")
    assert (recipe.optimizer.lr, options["rank"], options["state_dtype"]) == (
        LIANG_RATES[size],
        512,
        "8bit",
    )
    assert (recipe.schedule.steps, recipe.schedule.warmup_steps) == (10_000, 1_000)
    assert (recipe.data.batch_size * recipe.data.accumulate, recipe.clip_norm) == (512, 1.0)
    if method == "osd-8bit":
        assert (options["basis_lr_ratio"], options["ortho_weight"]) == (5, 0.1)
        assert options["basis_optimizer"] == "adam"
    else:
        assert options["period"] == 200


@pytest.mark.parametrize("method", AUTOENCODER)
def test_the_autoencoder_as_in_section_3(method):
    recipe, options = settled(f"{method}-autoencoder")
    assert {key: options[key] for key in AUTOENCODER[method]} == AUTOENCODER[method]
    steps_per_epoch = 60_000 // 1000
    assert recipe.data.batch_size == 1000
    assert (recipe.schedule.steps, recipe.schedule.warmup_steps) == (
        100 * steps_per_epoch,
        5 * steps_per_epoch,
    )
    assert (recipe.schedule.name, recipe.schedule.final_ratio) == ("linear", 0)


@pytest.mark.parametrize("name", bundled_names())
def test_each_says_what_it_was_made_for_where_from_and_what_is_ours(name):
    bundled = load_bundled(name)
    assert bundled.recipe.model.target == NO_MODEL
    assert bundled.made_for
    assert re.match(
        r"(Nguyen|Liang|Yen) et al\. 20\d\d, .*: .*(table|section|appendix)", bundled.source
    )
    assert f"subopt train {name} model.target=my_model.py" in bundled.text
    numbers = [line for line in bundled.text.splitlines() if re.search(r":\s+[\d.\[-]", line)]
    assert all("#" in line for line in numbers if "accumulate" not in line)


@pytest.mark.parametrize("name", bundled_names())
def test_each_trains_a_model_of_the_users(name, recipe_path, monkeypatch):
    if "8bit" in name:
        pytest.importorskip("torchao", reason="needs the extra 'lowbit'")
    monkeypatch.chdir(recipe_path.parent)
    found, path = open_recipe(name)
    overrides = [
        "model.target=model.py",
        "data.batch_size=8",
        "schedule.warmup_steps=1",
        "schedule.steps=2",
    ]
    recipe = with_settings(found, overrides)
    require_model(recipe, name)
    output = recipe_path.parent / "run"
    result = train(
        recipe, recipe_path=path, output=output, device="cpu", on_event=lambda event: None
    )
    assert (result.step, result.method) == (2, found.optimizer.method)
    assert result.predicted.state_bytes == result.actual.state_bytes


# ---- on the command line


@pytest.fixture
def subopt(recipe_path, monkeypatch):
    monkeypatch.chdir(recipe_path.parent)
    return lambda *words: CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


def test_the_list_has_every_name_with_its_source(subopt):
    shown = subopt("train", "--list").stdout
    for name in bundled_names():
        (line,) = [line for line in shown.splitlines() if line.startswith(f"{name} ")]
        assert "et al. 20" in line


def test_one_is_printed_as_it_is_and_trains_from_a_file(subopt, recipe_path):
    text = subopt("train", "--list", "adadiag-llama-60m").stdout
    assert text == load_bundled("adadiag-llama-60m").text
    copy = recipe_path.parent / "copy.yaml"
    copy.write_text(text.replace(NO_MODEL, "model.py"))
    ended = subopt("train", "copy.yaml", "data.batch_size=8", "--dry-run")
    assert ended.exit_code == 0, ended.output
    assert "10,000 steps of 8 examples" in ended.stdout


@pytest.mark.parametrize("spec", ["adadiag-llama-60m", "bundled:adadiag-llama-60m"])
def test_a_name_is_enough_beside_a_model(subopt, spec):
    ended = subopt("train", spec, "model.target=model.py", "data.batch_size=8", "--dry-run")
    assert ended.exit_code == 0, ended.output
    assert "runs/adadiag-llama-60m" in ended.stdout


def test_a_file_of_that_name_comes_first(recipe_path, monkeypatch):
    monkeypatch.chdir(recipe_path.parent)
    (recipe_path.parent / "adadiag-llama-60m").write_text(recipe_path.read_text())
    found, path = open_recipe("adadiag-llama-60m")
    assert (found.optimizer.method, str(path)) == ("adamw", "adadiag-llama-60m")
    assert open_recipe("bundled:adadiag-llama-60m")[0].optimizer.method == "adadiag"


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("adadiag-lama-60m", UsageError, "did you mean 'adadiag-llama-60m'"),
        ("bundled:../evidence", UsageError, "no bundled recipe '../evidence'"),
        ("nothing.yaml", FileFormatError, "there is no recipe at nothing.yaml"),
        ("folder/nothing", FileFormatError, "there is no recipe at folder/nothing"),
    ],
)
def test_what_is_no_recipe_is_said_to_be_none(spec, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        open_recipe(spec)


def test_without_a_model_it_says_how_to_name_one():
    with pytest.raises(UsageError) as caught:
        require_model(load_bundled("adadiag-vit").recipe, "adadiag-vit")
    assert caught.value.hint == "subopt train adadiag-vit model.target=my_model.py"
