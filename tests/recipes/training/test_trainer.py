"""Training from a recipe: what a run leaves behind, how it resumes, and how each ending is told."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from subopt.errors import (
    DoesNotFitError,
    FileFormatError,
    NonFiniteLossError,
    PreflightError,
    TargetError,
    UsageError,
    UserCodeError,
)
from subopt.optimizers import METHODS
from subopt.recipes.plan.budget import read_budget
from subopt.recipes.prior.rates import HeavyDecay
from subopt.recipes.recipe.load import load_recipe, with_settings
from subopt.recipes.training import events, session, trainable
from subopt.recipes.training.metrics import read_metrics
from subopt.recipes.training.trainer import plan, train

from ..running import Run, same_weights


@pytest.fixture
def run(recipe_path):
    return Run(recipe_path)


def test_a_run_leaves_everything_in_its_folder(run, tmp_path):
    result = run("run", "checkpoint.every=2", "eval.every=3")
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        "recipe.yaml", "metrics.jsonl", "checkpoints", "model.safetensors", "result.json"
    }  # fmt: skip
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step-4", "step-6"}
    entries = list(read_metrics(folder / "metrics.jsonl"))
    steps = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6]
    assert [entry["tokens"] for entry in steps] == [8, 16, 24, 32, 40, 48]
    assert [entry["lr"] for entry in steps[:2]] == pytest.approx([0.005, 0.01])
    assert [entry["step"] for entry in entries if "eval_loss" in entry] == [3, 6]
    assert steps[0].keys() == {
        "step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "step_ms", "memory_bytes"
    }  # fmt: skip
    written = json.loads((folder / "result.json").read_text())
    assert written["step"] == result.step == 6
    assert written["eval_loss"] == entries[-1]["eval_loss"]
    assert written["predicted"]["state_bytes"] == written["actual"]["state_bytes"] > 0
    assert written["diagnostics"].keys() >= {"refreshes", "nonfinite_gradients", "kept_bases"}


def test_the_recipe_in_the_folder_trains_the_same_again(run, tmp_path):
    first = run("run", "optimizer.lr=0.02")
    again = Run(tmp_path / "run" / "recipe.yaml")("../again")
    assert same_weights(first, again)


# What makes something happen at almost every step of a short run.
LIVELY = {"period": 2, "start_step": 2, "tau": 0.0}


# One of each kind of state: that every method's resumes in its own optimizer is tested beside the optimizers.
RESUMED = ["adafactor", "muon", "galore", "osd-two-sided", "soap", "adadiag++", "sketchy", "dlrt"]


@pytest.mark.parametrize("method", RESUMED)
def test_an_interrupted_run_ends_where_the_uninterrupted_one_does(run, method):
    defaults = METHODS[method].defaults
    period = "period" in defaults
    lively = [f"optimizer.options.{key}={LIVELY[key]}" for key in LIVELY if key in defaults]
    overrides = [f"optimizer.method={method}", "schedule.steps=7", "data.batch_size=16", *lively]
    whole = run("whole", *overrides)
    stopped = run("parts", *overrides, interrupt_at=3)
    assert stopped.interrupted
    assert stopped.step == 3
    assert stopped.weights is None
    resumed = run("parts", *overrides, resume=True)
    assert resumed.resumed_from == 3
    assert not resumed.interrupted
    assert same_weights(whole, resumed)
    assert resumed.loss == whole.loss
    if period:
        assert resumed.diagnostics["refreshes"] == whole.diagnostics["refreshes"] > 2


def test_state_in_8_bits_resumes_bit_for_bit_and_is_as_small_as_predicted(run):
    pytest.importorskip("torchao", reason="needs the extra 'lowbit'")
    wide = ["optimizer.method=adamw-8bit", "model.kwargs={width: 1024}", "schedule.steps=4"]
    whole = run("whole", *wide)
    run("parts", *wide, interrupt_at=2)
    resumed = run("parts", *wide, resume=True)
    assert same_weights(whole, resumed)
    assert whole.actual.state_bytes == whole.predicted.state_bytes
    # Four in five of the numbers are in matrices, whose moments take a quarter of the bytes.
    plain = run("plain", "optimizer.method=adamw", *wide[1:])
    assert 0.25 < whole.actual.state_bytes / plain.actual.state_bytes < 0.5
    state = torch.load(f"{whole.checkpoint}/optimizer.pt", map_location="cpu", weights_only=True)[
        "state"
    ]
    kinds = {type(value).__name__ for kept in state.values() for value in kept.values()}
    assert kinds == {"Tensor", "OptimState8bit"}


def test_bf16_weights_and_accumulation_resume_bit_for_bit(run):
    overrides = ["precision=bf16", "data.accumulate=2", "optimizer.method=adadiag++"]
    whole = run("whole", *overrides)
    run("parts", *overrides, interrupt_at=4)
    assert same_weights(whole, run("parts", *overrides, resume=True))
    assert load_file(whole.weights)["inner.weight"].dtype == torch.bfloat16


def test_an_interrupt_says_so_and_saves_the_step_it_was_in(run, tmp_path):
    run("run", interrupt_at=2)
    kinds = [type(event) for event in run.events]
    assert kinds[-2:] == [events.Interrupting, events.Saved]
    assert (tmp_path / "run" / "checkpoints" / "step-2").is_dir()
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_second_interrupt_ends_at_once_and_the_handler_is_put_back(run):
    before = signal.getsignal(signal.SIGINT)

    def on_event(event):
        if isinstance(event, events.Stepped):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(
            load_recipe(run.recipe_path),
            recipe_path=run.recipe_path,
            output=run.recipe_path.parent / "run",
            device="cpu",
            on_event=on_event,
        )
    assert signal.getsignal(signal.SIGINT) is before


def test_resume_without_a_checkpoint_starts_at_the_beginning_and_says_so(run):
    fresh = run("fresh")
    resumed = run("new", resume=True)
    assert run.of(events.Resumed) == [events.Resumed(0, None)]
    assert same_weights(fresh, resumed)


def test_metrics_of_a_resumed_run_list_each_step_once(run, tmp_path):
    run("run", interrupt_at=3)
    metrics = tmp_path / "run" / "metrics.jsonl"
    # what a kill leaves: steps after the checkpoint, the last one cut short
    with metrics.open("a") as file:
        file.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    run("run", resume=True)
    assert [e["step"] for e in read_metrics(metrics) if "loss" in e] == [1, 2, 3, 4, 5, 6]


def test_resuming_a_complete_run_changes_nothing(run, tmp_path):
    first = run("run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert run("run", resume=True) == first
    assert "already complete" in run.of(events.Warned)[0].message
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_an_existing_folder_needs_resume_or_force(run, tmp_path):
    run("run")
    with pytest.raises(UsageError, match="already exists") as caught:
        run("run")
    assert "--resume" in caught.value.hint
    (tmp_path / "run" / "mine.txt").write_text("keep")
    run("run", "schedule.steps=3", force=True)
    assert (tmp_path / "run" / "mine.txt").read_text() == "keep"
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-3"]


def test_folders_that_are_not_runs_are_left_alone(run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="no run to resume"):
        run("other", resume=True)
    with pytest.raises(UsageError, match="is a file"):
        run("model.py")
    with pytest.raises(UsageError, match="own folder"):
        run(".", force=True)


def test_a_resumed_run_must_be_the_same_run(run):
    run("run", interrupt_at=2)
    with pytest.raises(UsageError, match=r"started with optimizer.lr: 0.01, .* says 0.5"):
        run("run", "optimizer.lr=0.5", resume=True)
    # how often it looks and saves may change, and anything may with --force
    run("run", "eval.every=1", "checkpoint.every=1", resume=True, interrupt_at=4)
    longer = run("run", "schedule.steps=8", resume=True, force=True)
    assert longer.step == 8


def test_a_forced_resume_follows_the_new_recipe(run, tmp_path):
    constant = ["schedule.name=constant", "optimizer.method=adadiag"]
    run("run", *constant, interrupt_at=3)
    changed = ["optimizer.lr=0.5", "optimizer.weight_decay=0.25", "optimizer.options.period=3"]
    run("run", *constant, *changed, resume=True, force=True)
    assert run.of(events.Stepped)[-1].lr == 0.5
    path = tmp_path / "run" / "checkpoints" / "step-6" / "optimizer.pt"
    groups = torch.load(path, weights_only=True)["param_groups"]
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(0.5, 0.25)}
    assert groups[-1]["period"] == 3


@pytest.mark.parametrize(
    ("method", "change", "state"),
    [
        ("galore", "options.rank=4", "basis_left"),
        ("galore", "options.moments=adafactor", "exp_avg_sq"),
        ("adadiag", "options.state_dtype=bf16", "exp_avg"),
        ("adadiag", "options.source=covariance", "covariance_left"),
        ("adadiag", "method=adadiag++", "basis_right"),
        ("adadiag++", "method=adadiag", "basis_right"),
        ("lion", "method=galore", "basis_left"),
    ],
)
def test_a_forced_resume_under_options_with_another_state_is_told(
    run, tmp_path, method, change, state
):
    before = [f"optimizer.method={method}"]
    before += ["optimizer.options.rank=2"] if method == "galore" else []
    run("run", *before, interrupt_at=3)
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    pattern = rf"step-3.optimizer.pt does not fit this optimizer: .*\b{state}\b"
    with pytest.raises(FileFormatError, match=pattern) as caught:
        run("run", *before, f"optimizer.{change}", resume=True, force=True)
    assert "saved under" in caught.value.hint
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == files


def test_a_changed_model_file_is_refused(run):
    run("run", interrupt_at=2)
    recorded = run.recipe_path.parent / "run" / "recipe.yaml"
    run.edit_model("torch.tanh", "torch.sin")
    with pytest.raises(UsageError, match="model file has changed"):
        run("run", resume=True)
    with pytest.raises(TargetError, match=r"model.py has changed since the recipe was made"):
        Run(recorded)("../again")
    forced = Run(recorded)
    forced("../again", force=True)
    assert "has changed" in forced.of(events.Warned)[0].message


def test_a_loss_that_becomes_nan_keeps_the_last_good_checkpoint(run, tmp_path):
    run.edit_model(
        "def loss(model, batch):", "calls = [0]\n\n\ndef loss(model, batch):\n    calls[0] += 1"
    )
    run.edit_model("cross_entropy(", "cross_entropy((1 if calls[0] < 6 else float('nan')) * ")
    with pytest.raises(NonFiniteLossError, match=r"the loss became nan at step \d") as caught:
        run("run", "checkpoint.every=1", "schedule.steps=20")
    saved = run.of(events.Saved)[-1]
    assert str(saved.path) in caught.value.hint
    assert caught.value.exit_status == 4
    weights = load_file(saved.path / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_gradients_that_are_not_finite_are_left_out_and_told(run):
    # at 0 the root has the value 0 and an infinite gradient, times 0: NaN
    run.edit_model(
        "return self.head(self.outer(hidden))",
        "return self.head(self.outer(hidden)) + (self.inner.weight.sum() * 0).abs().sqrt() * 0",
    )
    result = run("run", "clip_norm=1.0")
    assert result.diagnostics["nonfinite_gradients"] == 6  # one weight of six, in each step
    assert "NaN or infinite" in run.of(events.Warned)[-1].message
    assert run.of(events.Stepped)[0].grad_norm is None
    weights = load_file(result.weights)
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_accumulation_averages_the_micro_batches(run):
    run.edit_model("order = torch.randperm(len(ids))", "order = torch.arange(len(ids))")
    run.edit_model("self.norm = nn.BatchNorm1d(width)", "self.norm = nn.LayerNorm(width)")
    keys = ["model.kwargs.dropout=0.0", "schedule.steps=1", "schedule.warmup_steps=0"]
    whole = run("whole", *keys, "data.batch_size=8", "data.accumulate=1")
    norm = run.of(events.Stepped)[0].grad_norm
    parts = run("parts", *keys, "data.batch_size=4", "data.accumulate=2")
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert run.of(events.Stepped)[0].grad_norm == pytest.approx(norm, rel=1e-5)
    assert parts.tokens == whole.tokens == 8


def test_evaluation_does_not_change_the_training(run):
    assert same_weights(run("rare"), run("often", "eval.every=1"))


def test_evaluation_goes_once_through_a_short_held_out_set(run):
    run("run", "eval.batches=100")
    assert run.of(events.Evaluated)[0].batches == 3


def test_a_short_last_batch_counts_as_what_it_holds(run):
    run.edit_model(
        "    for _ in range(3):\n        yield torch.randint(0, 11, (batch_size,))",
        "    yield torch.full((batch_size,), 4)\n    yield torch.full((2,), 7)",
    )
    run.edit_model("def loss(model, batch):\n", "def loss(model, batch):\n"
                   "    if not model.training:\n        return batch.float().mean()\n")  # fmt: skip
    # the mean of eight fours and two sevens, not of 4 and 7
    assert run("run").eval_loss == pytest.approx((8 * 4 + 2 * 7) / 10, rel=1e-6)


def test_a_run_that_goes_on_past_its_end_has_no_result_meanwhile(run, tmp_path):
    result = tmp_path / "run" / "result.json"
    run("run")
    assert result.exists()
    run("run", "schedule.steps=12", resume=True, force=True, interrupt_at=8)
    assert not result.exists()
    assert run("run", "schedule.steps=12", resume=True).step == 12
    assert result.exists()


LAST_EVALUATION_FAILS = """
calls = [0]


def eval_batches(batch_size):
    calls[0] += 1
    if calls[0] > 1:  # the first call is the check before the run
        raise OSError("the disk is gone")
    yield torch.arange(batch_size)


def loss"""


def test_a_failing_evaluation_does_not_lose_the_run(run, tmp_path):
    whole = run("whole")
    run.edit_model("def loss", LAST_EVALUATION_FAILS)
    with pytest.raises(UserCodeError, match="the disk is gone"):
        run("run")
    folder = tmp_path / "run"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-6"]
    assert not (folder / "result.json").exists()
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in load_file(whole.weights).items())
    run.edit_model("if calls[0] > 1", "if calls[0] > 9")
    finished = run("run", resume=True, force=True)
    assert finished.step == finished.resumed_from == 6
    assert finished.eval_loss is not None
    assert same_weights(whole, finished)


@pytest.mark.parametrize(
    ("body", "error", "pattern"),
    [
        ("yield torch.arnage(batch_size)", UserCodeError, "arnage"),
        ("yield torch.full((batch_size,), 11)", UserCodeError, "out of range"),
        ("return", PreflightError, r"eval_batches\(8\) gives no batches"),
        ("model.bad = 1; yield torch.arange(batch_size)", PreflightError, "held-out batch is nan"),
    ],
)
def test_a_mistake_in_the_held_out_data_shows_before_the_first_step(
    run, tmp_path, body, error, pattern
):
    run.edit_model(
        "    for _ in range(3):\n        yield torch.randint(0, 11, (batch_size,))", f"    {body}"
    )
    if "bad" in body:
        run.edit_model("model.bad = 1; ", "")
        run.edit_model(
            "return nn.functional", "return (1 if model.training else float('nan')) * nn.functional"
        )
    if body == "return":
        run.edit_model("    return\n", "    return\n    yield\n")
    with pytest.raises(error, match=pattern):
        run("run")
    assert not (tmp_path / "run").exists()


def test_held_out_data_may_be_a_loader_without_a_length(run):
    run.edit_model(
        "def eval_batches(batch_size):\n    for _ in range(3):\n        yield torch.randint(0, 11, (batch_size,))",
        "class Stream(torch.utils.data.IterableDataset):\n"
        "    def __iter__(self):\n        return iter(torch.arange(11))\n\n\n"
        "def eval_batches(batch_size):\n    return torch.utils.data.DataLoader(Stream(), batch_size)",
    )
    run("run")
    assert run.of(events.Evaluated)[0].batches == 2


def test_clipping_bounds_the_first_momentum_step(run):
    def moved(name, *overrides):
        result = run(name, "optimizer.method=momentum", "schedule.steps=1", "schedule.warmup_steps=0",
                     "optimizer.fallback.method=same", *overrides)  # fmt: skip
        after = load_file(result.weights)
        initial = run(
            name + "0", "optimizer.lr=1e-30", "schedule.steps=1", "schedule.warmup_steps=0"
        )
        before = load_file(initial.weights)
        names = [n for n in after if n.startswith(("inner.", "outer."))]
        return sum((after[n] - before[n]).square().sum() for n in names).sqrt()

    # momentum's first step is (1 - 0.9) lr G
    assert moved("clipped", "clip_norm=0.001") <= 0.1 * 0.01 * 0.001 * 1.01
    assert moved("free", "clip_norm=null") > 0.1 * 0.01 * 0.001 * 10


def test_bf16_mixed_keeps_float32_weights_and_differs_from_fp32(run):
    full, mixed = run("full"), run("mixed", "precision=bf16-mixed")
    assert load_file(mixed.weights)["inner.weight"].dtype == torch.float32
    assert not same_weights(full, mixed)
    assert mixed.loss == pytest.approx(full.loss, rel=0.1)


def test_a_predicted_peak_beyond_the_free_memory_is_refused_unless_forced(run):
    too_much = "why.predicted_peak_bytes=1000000000000000"
    with pytest.raises(DoesNotFitError, match=r"predicted to need 909 TiB") as caught:
        run("run", too_much)
    assert "data.batch_size=4 data.accumulate=2" in caught.value.hint
    assert run("run", too_much, force=True).predicted.peak_bytes == 10**15


def test_a_gpu_keeps_some_of_its_free_memory_for_itself(run, monkeypatch):
    monkeypatch.setattr(session, "resolve_device", lambda text: torch.device("cuda", 0))
    monkeypatch.setattr(session, "free_bytes", lambda device: 10 * 2**30)
    usable = read_budget(10 * 2**30).usable_bytes
    with pytest.raises(DoesNotFitError, match=r"cuda:0 has 10 GiB free, 8\.\d+ GiB of it usable"):
        run("run", f"why.predicted_peak_bytes={usable + 1}")
    monkeypatch.setattr(trainable, "make_accelerator", pass_the_check)
    with pytest.raises(CheckPassed):
        run("run", f"why.predicted_peak_bytes={usable}")


class CheckPassed(Exception):
    pass


def pass_the_check(*_):
    raise CheckPassed


def test_without_batches_the_hint_is_one_that_training_can_follow(run):
    run.edit_model("def batches", "def no_batches")
    with pytest.raises(PreflightError, match="no data to train on") as caught:
        run("run")
    assert "--input" not in caught.value.hint


def test_running_out_of_memory_is_told_with_the_smallest_change(run):
    run.edit_model(
        "def loss(model, batch):",
        "calls = [0]\n\n\ndef loss(model, batch):\n    calls[0] += 1\n"
        "    if calls[0] > 4:\n        raise torch.OutOfMemoryError('tried to allocate 2 GiB')",
    )
    with pytest.raises(DoesNotFitError, match=r"out of memory at step \d: tried to allocate 2 GiB"):
        run("run")


def test_a_dry_run_tells_the_plan_and_writes_nothing(run, tmp_path):
    recipe = load_recipe(run.recipe_path)
    before = sorted(tmp_path.rglob("*.y*ml"))
    planned = plan(recipe, recipe_path=run.recipe_path, output=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
    assert sorted(tmp_path.rglob("*.y*ml")) == before
    actual = run("run")
    started = run.of(events.Started)[0].plan
    assert replace(planned, free_bytes=None) == replace(started, free_bytes=None)
    assert planned.predicted_state_bytes == actual.actual.state_bytes
    assert planned.matrix_parameters == 2 * 6 * 8
    assert planned.parameters == 66 + 56 + 16 + 48


def test_predicted_state_counts_rules_and_fallback(run):
    result = run("run", "optimizer.overrides=[{pattern: inner, method: galore, options: {rank: 2}}]",
                 "optimizer.fallback.method=adamw-nomom")  # fmt: skip
    assert result.predicted.state_bytes == result.actual.state_bytes


@pytest.mark.parametrize(
    ("old", "new", "error", "pattern"),
    [
        ("def batches", "def no_batches", PreflightError, "no batches"),
        ("torch.tanh(", "torch.tahn(", UserCodeError, "model.py:.*tahn"),
        ("cross_entropy(model(batch)", "cross_entropy(1 / 0 * model(batch)", UserCodeError, "ZeroDivision"),
        (" % 11)\n", " % 11, reduction='none')\n", PreflightError, "not a scalar"),
        ("for _ in range(3):\n        order", "for _ in range(0):\n        order", PreflightError, "no batches"),
        ("for _ in range(3):\n        yield torch.randint", "for _ in range(0):\n        yield torch.randint",
         PreflightError, r"eval_batches\(8\) gives no batches"),
        ("nn.Embedding(11, 6)", "nn.Embedding(11, 6, sparse=True)", PreflightError, "sparse gradients"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_model_file_is_told(run, old, new, error, pattern):
    run.edit_model(old, new)
    if "sparse" in new:
        run.edit_model("self.head.weight = self.embed.weight", "pass")
    with pytest.raises(error, match=pattern):
        run("run")


def test_data_whose_state_cannot_be_saved_is_refused_before_the_first_step(run, tmp_path):
    run.edit_model(
        "def eval_batches",
        STATEFUL.replace("STATE", "{'lock': threading.Lock()}") + "\n\ndef eval_batches",
    )
    run.edit_model("import torch\n", "import threading\nimport torch\n")
    with pytest.raises(PreflightError, match="cannot hold safely"):
        run("run")
    assert not (tmp_path / "run").exists()


def test_data_with_a_state_of_its_own_resumes_by_it(run):
    run.edit_model(
        "def eval_batches", STATEFUL.replace("STATE", "{'at': self.at}") + "\n\ndef eval_batches"
    )
    whole = run("whole")
    run("parts", interrupt_at=2)
    assert same_weights(whole, run("parts", resume=True))


STATEFUL = """
class Numbers:
    def __init__(self, batch_size):
        self.batch_size, self.at = batch_size, 0

    def __iter__(self):
        while True:
            self.at += 1
            yield (torch.arange(self.batch_size) * self.at) % 11

    def state_dict(self):
        return STATE

    def load_state_dict(self, state):
        self.at = state["at"]


batches = Numbers

"""


def test_a_damaged_checkpoint_is_named_and_so_is_the_way_on(run, tmp_path):
    run("run", "checkpoint.every=1", interrupt_at=4)
    file = tmp_path / "run" / "checkpoints" / "step-4" / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(FileFormatError, match=r"step-4.optimizer.pt is damaged") as caught:
        run("run", "checkpoint.every=1", resume=True)
    assert "to go on from step-3" in caught.value.hint


@pytest.mark.parametrize(("decay", "is_heavy"), [(0.1, False), (0.2, True)])
def test_a_plan_says_when_the_decay_eats_the_weights(run, tmp_path, decay, is_heavy):
    recipe = with_settings(
        load_recipe(run.recipe_path), [f"optimizer.weight_decay={decay}", "optimizer.lr=0.01"]
    )
    planned = plan(recipe, recipe_path=run.recipe_path, output=tmp_path / "run", device="cpu")
    expected = HeavyDecay(0.01, decay, pytest.approx(0.002), pytest.approx(0.1))
    assert planned.heavy_decay == (expected if is_heavy else None)
