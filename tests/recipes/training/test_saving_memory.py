"""Recomputed activations, updates in the backward pass, compiled code: the same run in less memory, or a clear no."""

import pytest
import torch
from safetensors.torch import load_file

from subopt.errors import FileFormatError, OptionError, PreflightError, UsageError
from subopt.optimizers import METHODS
from subopt.recipes.recipe.load import dump_recipe, load_recipe, parse_recipe, with_settings
from subopt.recipes.training import compilation, events
from subopt.recipes.training.device_memory import less_memory
from subopt.recipes.training.trainable import make_trainable, training_target
from subopt.recipes.training.trainer import plan

from ..running import Run, same_weights

BLOCKS = """
class Block(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.up, self.norm = nn.Linear(6, width), nn.BatchNorm1d(width)
        self.drop, self.down = nn.Dropout(dropout), nn.Linear(width, 6)

    def forward(self, x):
        return x + self.down(self.drop(torch.tanh(self.norm(self.up(x)))))


class Net(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(3))
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def build_model"""


@pytest.fixture
def run(recipe_path):
    run = Run(recipe_path)
    text = (recipe_path.parent / "model.py").read_text()
    start, end = text.index("class Net"), text.index("def build_model")
    blocks = BLOCKS.strip().removesuffix("def build_model")
    (recipe_path.parent / "model.py").write_text(text[:start] + blocks + text[end:])
    return run


FUSED = ("fused_backward=true", "clip_norm=null")


@pytest.mark.parametrize(
    ("method", "switches"),
    [("adamw", ("recompute=true",)), ("adadiag", FUSED), ("galore", ("recompute=true", *FUSED))],
    ids=["recompute", "fused", "both"],
)
def test_the_switches_change_no_bit_and_resume_bit_for_bit(run, method, switches):
    common = [f"optimizer.method={method}", "clip_norm=null", "data.batch_size=11"]
    plain = run("plain", *common)
    losses = [event.loss for event in run.of(events.Stepped)]
    norms = [event.grad_norm for event in run.of(events.Stepped)]
    run("parts", *common, *switches, interrupt_at=3)
    resumed = run("parts", *common, *switches, resume=True)
    assert resumed.resumed_from == 3
    assert same_weights(plain, resumed)
    assert [event.loss for event in run.of(events.Stepped)] == losses[3:]
    assert [e.grad_norm for e in run.of(events.Stepped)] == pytest.approx(norms[3:], rel=1e-5)
    # and they may be switched on for the rest of a run that was started without
    run("later", *common, interrupt_at=3)
    assert same_weights(plain, run("later", *common, *switches, resume=True))


@pytest.mark.parametrize("precision", ["bf16", "bf16-mixed"])
def test_fused_updates_change_no_bit_in_bf16(run, precision):
    common = [f"precision={precision}", "clip_norm=null", "data.batch_size=11"]
    assert same_weights(run("plain", *common), run("fused", *common, *FUSED))


def test_a_replaced_layer_can_be_recomputed(run):
    common = ["optimizer.method=dlrt", "data.batch_size=16", "clip_norm=null"]
    plain = run("plain", *common)
    assert same_weights(plain, run("recomputed", *common, "recompute=true"))


def test_rules_and_8_bit_state_go_with_fused_updates(run):
    pytest.importorskip("torchao", reason="needs the extra 'lowbit'")
    common = [
        "clip_norm=null", "model.kwargs={width: 1024}", "schedule.steps=4", "data.batch_size=11",
        "optimizer.overrides=[{pattern: up, method: adamw-8bit}, {pattern: down, method: galore}]",
    ]  # fmt: skip
    plain = run("plain", *common)
    run("parts", *common, *FUSED, interrupt_at=2)
    resumed = run("parts", *common, *FUSED, resume=True)
    assert same_weights(plain, resumed)
    assert resumed.actual.state_bytes == resumed.predicted.state_bytes


def test_a_model_without_blocks_is_refused_with_the_key(run):
    run.edit_model("for _ in range(3)", "for _ in range(1)")
    with pytest.raises(UsageError, match="no repeated blocks"):
        run("run", "recompute=true")


def test_the_plan_names_what_is_switched_on(run, tmp_path):
    recipe = with_settings(load_recipe(run.recipe_path), ["recompute=true", *FUSED])
    planned = plan(recipe, recipe_path=run.recipe_path, output=tmp_path / "run", device="cpu")
    assert planned.switches == ("recompute", "fused_backward")
    assert ("recomputed", "3 blocks, blocks.0 the first") in planned.checks


CONTRADICTIONS = [
    (["fused_backward=true"], "fused_backward", "clip_norm: null", "norm of all"),
    ([*FUSED, "data.accumulate=4"], "fused_backward", "data.accumulate: 1", "data.accumulate: 4"),
    ([*FUSED, "optimizer.method=dlrt"], "fused_backward", "another method", "twice a step"),
    ([*FUSED, "compile=true"], "fused_backward", "compile: false", "would free none"),
    (["compile=true", "optimizer.method=dlrt"], "compile", "compile: false", "sizes"),
    (["checkpoint.best=true"], "best", "eval.every", "once, at the end"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "key", "hint", "message"), CONTRADICTIONS)
def test_keys_that_exclude_each_other_are_told_with_the_line_and_what_to_change(
    recipe, overrides, key, hint, message
):
    with pytest.raises(UsageError, match=message) as caught:
        with_settings(recipe, overrides)
    assert hint in caught.value.hint
    # the same out of a file, with its line
    changed = {}
    for override in overrides:
        path, _, value = override.partition("=")
        changed[path] = value
    text = dump_recipe(recipe)
    for path, value in changed.items():
        section, _, leaf = path.rpartition(".")
        lines = text.splitlines()
        start = next((i for i, line in enumerate(lines) if line.startswith(f"{section}:")), 0)
        at = next(i for i in range(start, len(lines)) if lines[i].strip().startswith(f"{leaf}:"))
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        lines[at] = f"{indent}{leaf}: {value}"
        text = "\n".join(lines) + "\n"
    number = 1 + next(
        i for i, line in enumerate(text.splitlines()) if line.strip().startswith(f"{key}:")
    )
    with pytest.raises(FileFormatError, match=message) as caught:
        parse_recipe(text, "mine.yaml")
    assert f"mine.yaml:{number}: {key}" in caught.value.message.replace("checkpoint.best", "best")


def test_a_recipe_made_in_code_is_checked_too(run, recipe):
    contradictory = recipe.model_copy(update={"fused_backward": True})
    target = training_target(contradictory, run.recipe_path.parent)
    with pytest.raises(UsageError, match=r"fused_backward: .*clip_norm"):
        make_trainable(contradictory, target, torch.device("cpu"))


def test_changing_a_switch_drops_predictions_of_the_other_run(recipe):
    why = recipe.why.model_copy(update={"predicted_peak_bytes": 10, "predicted_step_ms": 2.0})
    predicted = recipe.model_copy(update={"why": why})
    assert with_settings(predicted, ["eval.every=2"]).why.predicted_peak_bytes == 10
    for switch in ("recompute", "compile"):
        assert with_settings(predicted, [f"{switch}=true"]).why.predicted_peak_bytes is None


@pytest.fixture
def aot_eager(monkeypatch):
    """Compile without generating code: the same path through torch, in seconds."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    yield
    torch._dynamo.reset()


def test_a_compiled_run_has_plain_names_and_goes_on_uncompiled(run, aot_eager):
    common = ["data.batch_size=11", "model.kwargs={dropout: 0.0}"]
    plain = run("plain", *common)
    compiled = run("compiled", *common, "compile=true", interrupt_at=3)
    names = load_file(f"{compiled.checkpoint}/model.safetensors").keys()
    assert names == load_file(f"{plain.checkpoint}/model.safetensors").keys()
    finished = run("compiled", *common, resume=True, force=True)
    assert finished.resumed_from == 3
    assert finished.loss == pytest.approx(plain.loss, rel=1e-4)


def test_what_torch_cannot_compile_is_told_before_the_first_step(run, monkeypatch):
    from torch._inductor.exc import InvalidCxxCompiler

    def no_compiler(graph, inputs):
        raise InvalidCxxCompiler

    monkeypatch.setattr(compilation, "BACKEND", no_compiler)
    with pytest.raises(PreflightError, match=r"needs a C\+\+ compiler") as caught:
        run("run", "compile=true")
    assert "compile: false" in caught.value.hint
    torch._dynamo.reset()

    def cannot(graph, inputs):
        raise ValueError("boom")

    monkeypatch.setattr(compilation, "BACKEND", cannot)
    with pytest.raises(PreflightError, match=r"cannot compile this model: .*cannot.*raised"):
        run("run", "compile=true")
    torch._dynamo.reset()
    assert not (run.recipe_path.parent / "run").exists()


def test_methods_without_closure_are_those_that_can_be_fused():
    from torch import nn

    from subopt.optimizers import FusedBackward, create

    for name, method in METHODS.items():
        if method.missing_extra():
            continue
        optimizer = create(name, nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
        assert optimizer.updates_each_alone == ("needs_closure" not in method.capabilities), name
        if not optimizer.updates_each_alone:
            with pytest.raises(OptionError):
                FusedBackward(optimizer)


@pytest.mark.parametrize(
    ("overrides", "told", "not_told"),
    [
        ([], ["data.batch_size=4 data.accumulate=2", "recompute=true"], []),
        (FUSED, ["data.batch_size=4", "recompute=true"], ["accumulate"]),
        (
            ["recompute=true", "data.batch_size=1"],
            ["subopt recommend"],
            ["batch_size", "recompute"],
        ),
    ],
)
def test_what_to_change_for_less_memory_does_not_contradict_the_recipe(
    recipe, overrides, told, not_told
):
    hint = less_memory(with_settings(recipe, overrides))
    assert all(words in hint for words in told)
    assert not any(words in hint for words in not_told)
