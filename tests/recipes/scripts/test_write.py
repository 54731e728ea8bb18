"""Exported scripts train as `subopt train` does, bit for bit, and nothing in a recipe becomes code."""

import ast
import runpy
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from subopt.errors import RenamedWarning, UsageError
from subopt.optimizers import get_method
from subopt.recipes.recipe.load import load_recipe, with_settings
from subopt.recipes.scripts.write import left_out, literal, training_script
from subopt.recipes.training.trainer import train

SETTINGS = (
    "optimizer.method=adadiag", "optimizer.options={period: 2}", "optimizer.weight_decay=0.1",
    "optimizer.fallback={lr: 0.003}",
    "optimizer.overrides=[{pattern: outer, method: lion, lr: 0.002, options: {betas: [0.8, 0.9]}}]",
    "data.accumulate=2", "clip_norm=0.05", "schedule.name=linear",
)  # fmt: skip
# With dropout, a loader of theirs, which draws a number from the same generator, would change the masks.
NO_DROPOUT = "model.kwargs.dropout=0.0"
OLD_SCRIPTS = Path(__file__).parents[2] / "assets/old_scripts"

FILES_MODEL = """
from torch import nn


def build_model():
    return nn.Sequential(nn.Embedding(256, 4), nn.Linear(4, 6), nn.Linear(6, 256))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["input_ids"]).transpose(1, 2), batch["labels"])
"""

BLOCKS_MODEL = FILES_MODEL.replace(
    "nn.Linear(4, 6), nn.Linear(6, 256)",
    "nn.Sequential(nn.Linear(4, 6)), nn.Sequential(nn.Linear(6, 256))",
)


@pytest.fixture
def exported(recipe_path, monkeypatch):
    """Export a recipe with overrides as a script and return what it defines."""
    monkeypatch.chdir(recipe_path.parent)

    def export(framework, *overrides):
        folder = recipe_path.parent / "scripts"
        folder.mkdir(exist_ok=True)
        recipe = with_settings(load_recipe(recipe_path), overrides)
        text = training_script(recipe, framework, base=recipe_path.parent, folder=folder)
        script = folder / f"train_{framework}.py"
        script.write_text(text)
        return runpy.run_path(str(script), run_name="exported")

    return export


def by_subopt(recipe_path, *overrides):
    recipe = with_settings(load_recipe(recipe_path), overrides)
    folder = recipe_path.parent / "run"
    train(recipe, recipe_path=recipe_path, output=folder, device="cpu", force=True)
    return load_file(folder / "model.safetensors")


def assert_same(model, saved, method="adamw"):
    assert_same_state(get_method(method).dense_state_dict(model), saved)


def assert_same_state(state, wanted):
    assert wanted
    for name, tensor in wanted.items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("overrides", [(), SETTINGS], ids=["defaults", "settings"])
def test_the_loop_takes_the_steps_of_subopt_train(exported, recipe_path, overrides, capsys):
    model = exported("loop", *overrides)["train"]()
    assert_same(model, by_subopt(recipe_path, *overrides))
    assert "step 6  loss" in capsys.readouterr().out


def test_the_loop_gives_a_method_that_needs_one_its_closure(exported, recipe_path):
    dlrt = ("optimizer.method=dlrt", "optimizer.options={tau: 0.3}", "data.accumulate=2")
    model = exported("loop", *dlrt, "model.kwargs.width=16")["train"]()
    assert_same(model, by_subopt(recipe_path, *dlrt, "model.kwargs.width=16"), "dlrt")


def test_the_loop_takes_batches_from_files(exported, recipe_path):
    (recipe_path.parent / "text.txt").write_text("abcdefghij\n" * 40)
    model = recipe_path.parent / "model.py"
    model.write_text(FILES_MODEL)
    files = "data.files={train: [text.txt], sequence_length: 8}"
    trained = exported("loop", files)["train"]()
    assert_same(trained, by_subopt(recipe_path, files))


def test_the_loop_trains_in_bfloat16(exported, recipe_path):
    weights = exported("loop", "precision=bf16")["train"](2).state_dict()
    assert weights["inner.weight"].dtype == torch.bfloat16
    mixed = exported("loop", "precision=bf16-mixed")["train"](2).state_dict()
    full = exported("loop")["train"](2).state_dict()
    assert mixed["inner.weight"].dtype == torch.float32
    assert not torch.equal(mixed["inner.weight"], full["inner.weight"])
    assert torch.allclose(mixed["inner.weight"], full["inner.weight"], atol=0.05)


# -- scripts of earlier versions ----------------------------------------------------------------------------------


@pytest.fixture
def old_script(recipe_path, monkeypatch):
    """Return a function that runs a script exported by an earlier version, and gives what it defines."""
    monkeypatch.chdir(recipe_path.parent)

    def run(name):
        (recipe_path.parent / "scripts").mkdir()
        script = recipe_path.parent / "scripts" / name
        script.write_text((OLD_SCRIPTS / f"{name}.txt").read_text())
        return runpy.run_path(str(script), run_name="exported")

    return run


def test_a_loop_exported_earlier_still_takes_the_same_steps(old_script, recipe_path):
    script = old_script("loop.py")
    with pytest.warns(RenamedWarning, match="rules"):
        model = script["train"]()
    assert_same(model, by_subopt(recipe_path, *SETTINGS))
    assert next(iter(script["target"].batches(5))).shape == (5,)


def test_a_loop_over_files_exported_earlier_still_takes_the_same_steps(old_script, recipe_path):
    (recipe_path.parent / "text.txt").write_text("abcdefghij\n" * 40)
    (recipe_path.parent / "model.py").write_text(BLOCKS_MODEL)
    trained = old_script("loop_of_files.py")["train"]()
    files = "data.files={train: [text.txt], sequence_length: 8}"
    assert_same(trained, by_subopt(recipe_path, files, "recompute=true"))


# -- other frameworks ---------------------------------------------------------------------------------------------


def test_lightning_takes_the_steps_of_subopt_train(exported, recipe_path):
    with quiet_lightning():
        model = exported("lightning", *SETTINGS, NO_DROPOUT)["train"]()
    assert_same(model, by_subopt(recipe_path, *SETTINGS, NO_DROPOUT))


def test_lightning_gives_a_method_that_needs_one_its_closure(exported, recipe_path):
    dlrt = ("optimizer.method=dlrt", "optimizer.options={tau: 0.3}", NO_DROPOUT)
    with quiet_lightning():
        model = exported("lightning", *dlrt, "model.kwargs.width=16")["train"]()
    assert_same(model, by_subopt(recipe_path, *dlrt, "model.kwargs.width=16"), "dlrt")


def test_a_trainer_takes_the_steps_of_subopt_train(exported, recipe_path):
    settings = (*SETTINGS, NO_DROPOUT, "clip_norm=null")
    model = exported("trainer", *settings)["train"]()
    assert_same(model, by_subopt(recipe_path, *settings))


def test_a_trainer_clips_as_subopt_train_does(exported, recipe_path):
    settings = (*SETTINGS, NO_DROPOUT)  # whose clip_norm shortens every step's gradient
    model = exported("trainer", *settings)["train"]().state_dict()
    unclipped = exported("trainer", *settings, "clip_norm=null")["train"]().state_dict()
    for name, tensor in by_subopt(recipe_path, *settings).items():
        # a Trainer adds up the norm over the parameters in another order
        assert torch.allclose(model[name], tensor, rtol=1e-4, atol=1e-6), name
    assert not torch.allclose(model["inner.weight"], unclipped["inner.weight"], rtol=1e-3)


def untied(recipe_path):
    """Let the head have weights of its own: a Trainer writes no checkpoint of a plain module with tied ones."""
    model = recipe_path.parent / "model.py"
    model.write_text(model.read_text().replace("self.head.weight = self.embed.weight", "pass"))


def test_a_resumed_trainer_ends_with_the_same_weights(exported, recipe_path):
    untied(recipe_path)
    train_there = exported("trainer", *SETTINGS, NO_DROPOUT)["train"]
    train_there(3)
    resumed = train_there(6, resume_from="trainer/checkpoint-3").state_dict()
    assert_same_state(resumed, exported("trainer", *SETTINGS, NO_DROPOUT)["train"](6).state_dict())


def test_resumed_lightning_ends_with_the_same_weights(exported):
    settings = (*SETTINGS, NO_DROPOUT)
    with quiet_lightning():
        train_there = exported("lightning", *settings)["train"]
        train_there(3)
        (saved,) = Path("checkpoints").glob("*step=3*.ckpt")
        resumed = train_there(6, resume_from=str(saved)).state_dict()
        whole = exported("lightning", *settings)["train"](6).state_dict()
    assert_same_state(resumed, whole)


@pytest.mark.parametrize(
    ("framework", "overrides"), [("trainer", ()), ("lightning", ("data.accumulate=2",))]
)
def test_what_cannot_call_the_closure_again_is_refused(exported, framework, overrides):
    with pytest.raises(UsageError, match="more than once a step") as refused:
        exported(framework, "optimizer.method=dlrt", *overrides)
    assert "--to loop" in refused.value.hint


def test_what_is_left_out_is_said(recipe_path):
    recipe = load_recipe(recipe_path)
    assert len(left_out(recipe)) == 1
    fused = with_settings(recipe, ["fused_backward=true", "clip_norm=null"])
    assert any("fused_backward" in part for part in left_out(fused))


def test_recomputed_blocks_and_data_files_are_written(recipe_path):
    overrides = ["recompute=true", "data.files={train: ['a.txt'], sequence_length: 16}"]
    recipe = with_settings(load_recipe(recipe_path), overrides)
    text = training_script(recipe, "loop", base=recipe_path.parent, folder=recipe_path.parent)
    assert "    recompute_blocks(model)\n" in text
    assert 'with_files(target, Files(train=["a.txt"]' in text
    compile(text, "train.py", "exec")


def test_text_of_a_recipe_stays_text(recipe_path):
    evil = "\"); import os; os.system(\"true\") # \n'''\\"
    assert ast.literal_eval(literal({evil: [evil, None, 1.5, True]})) == {
        evil: [evil, None, 1.5, True]
    }
    recipe = load_recipe(recipe_path)
    recipe = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"target": evil, "kwargs": {evil: evil}})}
    )
    text = training_script(recipe, "loop", base=recipe_path.parent, folder=recipe_path.parent)
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    names = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)}
    assert "system" not in names
    assert any(
        isinstance(node, ast.Constant) and node.value == evil for node in ast.walk(ast.parse(text))
    )


class quiet_lightning(warnings.catch_warnings):
    """Lightning warns of what these tests do on purpose: no logger, few steps, one worker."""

    def __enter__(self):
        super().__enter__()
        warnings.simplefilter("ignore")
