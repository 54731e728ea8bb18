"""Files of version 0.1, written by it and kept in `assets/version_0_1`: profiles, recipes and runs go on being read."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file

from subopt.app import main
from subopt.errors import RenamedWarning
from subopt.optimizers import create
from subopt.profilers import Profile, load_target
from subopt.profilers.record.layer import Noise
from subopt.recipes.recipe.load import load_recipe, parse_recipe

OLD = Path(__file__).parent / "assets" / "version_0_1"


def test_a_profile_is_read_with_its_renamed_fields() -> None:
    written = json.loads((OLD / "profile.json").read_text(encoding="utf-8"))
    profile = Profile.load(OLD / "profile.json")
    assert [layer.role for layer in profile.layers] == [
        layer["treatment"] for layer in written["layers"]
    ]
    assert [layer.module_type for layer in profile.layers] == ["Linear"] * 4
    assert [layer.layer_type for layer in profile.layers] == ["linear", None, "linear", None]
    points = [point.retained_bytes for point in profile.memory.by_batch]
    assert points == [point["kept_bytes"] for point in written["memory"]["by_batch"]] != []


def test_a_noise_record_is_read_with_its_renamed_field() -> None:
    written = {"signal_share": 0.5, "batches_needed": 1.0, "kept": {"1": 0.25}}
    assert Noise.model_validate(written).captured == {"1": 0.25}
    with pytest.raises(ValidationError, match="kept"):
        Noise.model_validate({**written, "captured": {}})


def test_what_is_read_is_written_under_the_names_of_now(tmp_path: Path) -> None:
    profile = Profile.load(OLD / "profile.json")
    profile.save(tmp_path / "p.json")
    text = (tmp_path / "p.json").read_text(encoding="utf-8")
    assert '"treatment"' not in text
    assert '"role"' in text
    assert Profile.load(tmp_path / "p.json") == profile


def test_a_recipe_is_read_and_each_old_name_warned_of_once() -> None:
    with pytest.warns(
        RenamedWarning, match=r"recipe.yaml:8: optimizer.rules is called overrides now"
    ) as said:
        recipe = load_recipe(OLD / "recipe.yaml")
    assert len(said) == 1
    (override,) = recipe.optimizer.overrides
    assert (override.pattern, override.method, override.options) == ("^2", "soap", {"period": 2})


def test_a_mistake_under_an_old_name_is_found_on_its_line() -> None:
    text = (OLD / "recipe.yaml").read_text(encoding="utf-8").replace("soap", "soup")
    with (
        pytest.warns(RenamedWarning),
        pytest.raises(Exception, match=r"r.yaml:9: optimizer.overrides.0.method: .*'soup'"),
    ):
        parse_recipe(text, "r.yaml")


def test_the_old_argument_of_create_is_read() -> None:
    model = load_target(str(OLD / "model.py")).build_model()
    rules = [{"pattern": "^2", "method": "soap", "options": {"period": 2}}]
    with pytest.warns(RenamedWarning, match="rules is called overrides"):
        old = create("galore", model, rank=2, rules=rules)
    new = create("galore", model, rank=2, overrides=rules)
    assert repr(old) == repr(new)


def test_a_run_goes_on_to_the_weights_that_version_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    recipe, run = str(tmp_path / "recipe.yaml"), tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["train", recipe, "--output", str(run), "--resume"]) == 0
    assert "warning: " in (said := capsys.readouterr().err)
    assert "optimizer.rules is called overrides now" in said
    assert "Traceback" not in said
    trained, expected = load_file(run / "model.safetensors"), load_file(OLD / "trained.safetensors")
    assert trained.keys() == expected.keys()
    for name, tensor in trained.items():
        # Equal to the bit on the processor that wrote them; other kernels round otherwise.
        assert tensor.numpy() == pytest.approx(expected[name].numpy(), rel=1e-4, abs=1e-6)
