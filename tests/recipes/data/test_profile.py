"""`subopt profile --data`: measured on real text, and the recipe trains on the same files."""

import json
from pathlib import Path

import pytest

from subopt.app import main
from subopt.errors import PreflightError
from subopt.optimizers import METHODS
from subopt.profilers.record.profile import Profile
from subopt.recipes.recipe.load import load_recipe

from .test_order import MODEL
from .test_source import LLAMA


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {name: METHODS[name] for name in ("adamw", "galore")}
    monkeypatch.setattr("subopt.profilers.profile.METHODS", few)
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "vocab_size": 300}))
    inner = MODEL.replace("self.head =", "self.inner = nn.Linear(8, 8)\n        self.head =")
    inner = inner.replace("self.head(self.embed(ids))", "self.head(self.inner(self.embed(ids)))")
    (tmp_path / "model.py").write_text(inner)
    return tmp_path


def profiled(*words):
    assert (
        main(["profile", *words, "--detail", "quick", "--batches", "2", "-o", "made/p.json"]) == 0
    )
    return Profile.load(Path("made/p.json"))


@pytest.mark.slow
def test_from_text_to_a_trained_model(folder, texts, tokenizer_file, capsys):
    found = profiled(
        "hf:config.json", "--data", texts, "--tokenizer", tokenizer_file, "--sequence-length", "16"
    )
    assert not found.target.synthetic_data
    assert found.target.picked.endswith("sequence_length 16)")
    assert found.target.files.train == [str(folder / texts)]
    assert found.settings.tokens_per_batch == 8 * 16
    shown = "".join(capsys.readouterr().out.split())  # a path may be broken over lines
    assert f"of{folder / texts}" in shown
    assert "SYNTHETIC" not in shown

    words = ["--gpu-mem", "8G", "--profile", "made/p.json", "--methods", "adamw"]
    assert main(["recommend", *words, "-o", "made/recipe.yaml"]) == 0
    recipe = load_recipe(folder / "made/recipe.yaml")
    assert recipe.data.files.train == ["../texts/*.txt"]
    assert recipe.data.files.tokenizer == "../tokenizer.json"
    assert recipe.data.files.sequence_length == 16
    assert "sequence_length" not in recipe.model.kwargs
    assert "synthetic" not in (folder / "made/recipe.yaml").read_text()

    steps = ["schedule.steps=3", "schedule.warmup_steps=1"]
    capsys.readouterr()
    assert main(["train", "made/recipe.yaml", *steps, "--output", "run", "--device", "cpu"]) == 0
    assert "SYNTHETIC" not in capsys.readouterr().err
    assert (folder / "run/model.safetensors").is_file()


def test_a_model_file_without_batches(texts):
    found = profiled("model.py", "--data", texts)
    assert found.settings.tokens_per_batch == 8 * 256
    assert [layer.name for layer in found.layers if layer.spectrum] == ["inner.weight"]


def test_the_length_may_be_given_as_for_synthetic_batches(texts, monkeypatch):
    seen = []

    def stop(target, *_, **__):
        seen.append(target)
        raise PreflightError("seen")

    monkeypatch.setattr("subopt.profilers.profile.run_profile", stop)
    assert main(["profile", "hf:config.json", "sequence_length=24", "--data", texts]) == 2
    (target,) = seen
    assert target.record.files.sequence_length == 24
    assert next(target.data.batches(2))["labels"].shape == (2, 24)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokenizer", "bytes"], "--tokenizer says how to read files"),
        (["--data", "*.txt"], "no file matches *.txt"),
        (
            ["--data", "a.txt", "--input", "int64[8,4]<9"],
            "--input and --data are two kinds of data",
        ),
        (
            ["--data", "a.txt", "--sequence-length", str(10**12)],
            "--sequence-length: Input should be",
        ),
    ],
)
def test_mistakes(words, message, capsys):
    assert main(["profile", "model.py", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
