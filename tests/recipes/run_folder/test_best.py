"""The weights of the lowest held-out loss: kept whole, remembered over a kill, and reported."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model

from subopt.app import main
from subopt.errors import FileFormatError, PreflightError
from subopt.recipes.run_folder import best as module
from subopt.recipes.run_folder.best import Best, load_best, save_best
from subopt.recipes.run_folder.weights import load_weights, save_weights
from subopt.recipes.training import events

from ..running import Run

# A held-out loss that is lowest after the fourth of six steps.
VALLEY = """
evaluations = [0]


def loss(model, batch):
    if model.training:
        return nn.functional.cross_entropy(model(batch), (batch * 3 + 1) % 11)
    return (model.seen - 4.0) ** 2 + 1.0


def """
COUNT = "        self.register_buffer('seen', torch.zeros(()))\n        self.embed ="
BEST = ("checkpoint.best=true", "eval.every=1")


@pytest.fixture
def run(recipe_path):
    run = Run(recipe_path)
    run.edit_model("        self.embed =", COUNT)
    run.edit_model(
        "    def forward(self, ids):\n", "    def forward(self, ids):\n        self.seen += 1\n"
    )
    text = (recipe_path.parent / "model.py").read_text()
    head = text[: text.index("def loss(model, batch)")]
    (recipe_path.parent / "model.py").write_text(head + VALLEY.strip().removesuffix("def") + "\n")
    return run


def content(folder):
    """The best weights and record, bit for bit but for the order of metadata."""
    weights = {
        name: value.tolist() for name, value in load_file(folder / "model.safetensors").items()
    }
    return weights, json.loads((folder / "best.json").read_text())


def test_the_best_weights_are_those_of_the_lowest_loss(run, tmp_path):
    result = run("run", *BEST, "checkpoint.every=1", "checkpoint.keep=9")
    folder = tmp_path / "run" / "best"
    assert result.best == str(folder)
    assert (result.best_step, result.best_eval_loss) == (4, 1.0)
    assert json.loads((folder / "best.json").read_text()) == {
        "step": 4,
        "eval_loss": 1.0,
        "eval_tokens": 24,
    }
    there = load_file(tmp_path / "run" / "checkpoints" / "step-4" / "model.safetensors")
    kept = load_file(folder / "model.safetensors")
    assert kept.keys() == there.keys()
    assert all(torch.equal(kept[name], there[name]) for name in there)
    losses = {e.step: e.loss for e in run.of(events.Evaluated)}
    assert min(losses, key=losses.get) == 4


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_a_resumed_run_remembers_the_best_so_far(run, tmp_path, stop):
    whole = run("whole", *BEST)
    run("parts", *BEST, interrupt_at=stop)
    parts = run("parts", *BEST, resume=True)
    assert (parts.best_step, parts.best_eval_loss) == (whole.best_step, whole.best_eval_loss)
    assert content(tmp_path / "parts" / "best") == content(tmp_path / "whole" / "best")


class KilledError(BaseException):
    """Stands for a kill."""


def killed_at(run, monkeypatch, step):
    def train_until(event):
        run.events.append(event)
        if isinstance(event, events.Stepped) and event.step == step:
            raise KilledError

    monkeypatch.setattr(run, "events", [])
    return train_until


def test_a_kill_after_the_best_step_ends_with_the_same_best(run, tmp_path, monkeypatch):
    from subopt.recipes.recipe.load import load_recipe, with_settings
    from subopt.recipes.training.trainer import train

    run("whole", *BEST)
    recipe = with_settings(load_recipe(run.recipe_path), [*BEST, "checkpoint.every=2"])
    with pytest.raises(KilledError):
        train(
            recipe, recipe_path=run.recipe_path, output=tmp_path / "parts", device="cpu",
            on_event=killed_at(run, monkeypatch, 6),
        )  # fmt: skip
    assert json.loads((tmp_path / "parts" / "best" / "best.json").read_text())["step"] == 4
    # as if the checkpoint of step 4 had been lost: the same steps come again
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-4")
    resumed = run("parts", *BEST, "checkpoint.every=2", resume=True)
    assert resumed.resumed_from == 2
    assert content(tmp_path / "parts" / "best") == content(tmp_path / "whole" / "best")


def test_a_forced_resume_drops_a_best_of_later_steps(run, tmp_path):
    run("run", *BEST, "checkpoint.every=2", "checkpoint.keep=9", interrupt_at=5)
    for name in ("step-4", "step-5"):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / name)
    result = run("run", *BEST, "optimizer.lr=0.5", "schedule.steps=3", resume=True, force=True)
    assert "were of step 4, after the checkpoint of step 2" in run.of(events.Warned)[0].message
    assert result.best_step == 3


def test_losses_of_other_held_out_data_are_not_compared(run, tmp_path):
    run("run", *BEST, interrupt_at=5)
    resumed = run("run", *BEST, "eval.batches=2", resume=True)
    told = [event.message for event in run.of(events.Warned)]
    assert told == [
        "the best weights, of step 4, were chosen on 24 held-out tokens, and now there are 16: "
        "the search for the best begins again at step 6"
    ]
    assert (resumed.best_step, resumed.best_eval_loss) == (6, 5.0)
    assert load_best(tmp_path / "run" / "best") == Best(6, 5.0, 16)


def test_a_best_of_an_earlier_version_still_counts(run, tmp_path):
    run("run", *BEST, interrupt_at=5)
    folder = tmp_path / "run" / "best"
    state = load_file(folder / "model.safetensors")
    save_weights(state, folder / "model.safetensors", {"best": '{"step": 4, "eval_loss": 1.0}'})
    resumed = run("run", *BEST, "eval.batches=2", resume=True)
    assert resumed.best_step == 4
    assert run.of(events.Warned) == []


def test_a_new_run_starts_without_the_old_best(run, tmp_path):
    run("run", *BEST)
    (tmp_path / "run" / "best" / "mine.txt").write_text("keep")
    assert run("run", force=True).best is None
    assert [path.name for path in (tmp_path / "run" / "best").iterdir()] == ["mine.txt"]


def test_a_kill_between_the_two_files_is_put_right(tmp_path, monkeypatch):
    state = {"weight": torch.arange(3.0)}
    save_best(tmp_path / "best", state, Best(1, 2.0))

    def killed(*_):
        raise KilledError

    monkeypatch.setattr(module, "_write_record", killed)
    with pytest.raises(KilledError):
        save_best(tmp_path / "best", {"weight": torch.ones(3)}, Best(2, 1.0))
    monkeypatch.undo()
    assert load_best(tmp_path / "best") == Best(2, 1.0)
    record = json.loads((tmp_path / "best" / "best.json").read_text())
    assert record == {"step": 2, "eval_loss": 1.0, "eval_tokens": None}


@pytest.mark.parametrize("damage", [b"", b"nonsense"])
def test_a_damaged_best_is_told(tmp_path, damage):
    save_best(tmp_path / "best", {"weight": torch.arange(3.0)}, Best(1, 2.0))
    (tmp_path / "best" / "model.safetensors").write_bytes(damage)
    with pytest.raises(FileFormatError, match=r"best.model.safetensors is damaged") as caught:
        load_best(tmp_path / "best")
    assert "delete the folder" in caught.value.hint


def test_notes_that_nest_without_end_are_refused(tmp_path):
    deep = "[" * 10**5
    save_best(tmp_path / "best", {"weight": torch.arange(3.0)}, Best(1, 2.0))
    (tmp_path / "best" / "best.json").write_text(deep)
    assert load_best(tmp_path / "best") == Best(1, 2.0)
    save_weights({"weight": torch.ones(3)}, tmp_path / "best" / "model.safetensors", {"best": deep})
    with pytest.raises(FileFormatError, match=r"best.model.safetensors is damaged"):
        load_best(tmp_path / "best")


def test_without_held_out_data_it_is_refused(recipe_path):
    run = Run(recipe_path)
    run.edit_model("def eval_batches", "def no_eval_batches")
    with pytest.raises(PreflightError, match="there is no held-out data") as caught:
        run("run", *BEST)
    assert "checkpoint.best: false" in caught.value.hint


def test_the_end_names_the_best_and_how_to_load_the_weights(recipe_path, monkeypatch, capsys):
    monkeypatch.chdir(recipe_path.parent)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["train", "recipe.yaml", "--device", "cpu", *BEST]) == 0
    told = capsys.readouterr().out
    assert "after step" in told
    assert "runs/recipe/best" in told
    assert 'load_model(model, "runs/recipe/model.safetensors")' in told


@pytest.mark.parametrize("method", ["adamw", "dlrt"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_final_weights_load_as_the_message_says(recipe_path, method, precision):
    run = Run(recipe_path)
    result = run(
        "run", f"optimizer.method={method}", f"precision={precision}", "data.batch_size=16"
    )
    namespace = {}
    exec((recipe_path.parent / "model.py").read_text(), namespace)
    ours, theirs = namespace["build_model"](), namespace["build_model"]()
    load_weights(ours, result.weights)
    missing, unexpected = load_model(theirs, result.weights)
    assert not missing
    assert not unexpected
    assert theirs.head.weight is theirs.embed.weight
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name])
    assert ours.norm.num_batches_tracked == 6
    with safe_open(result.weights, "pt") as file:
        dtype = file.get_tensor("inner.weight").dtype
    assert dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
