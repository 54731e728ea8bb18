"""Methods that evaluate the loss themselves and replace layers: what the trainer gives them, and what it keeps."""

import signal

import pytest
import torch
from safetensors.torch import load_file

from subopt.errors import OptionError, PreflightError
from subopt.optimizers import METHODS
from subopt.optimizers.low_rank.convert import to_dense
from subopt.profilers.target.batches import BatchStream
from subopt.recipes.recipe.load import load_recipe, with_settings
from subopt.recipes.training import events, trainable
from subopt.recipes.training.session import open_session
from subopt.recipes.training.stepper import Stepper
from subopt.recipes.training.trainer import train


@pytest.fixture
def run(recipe_path):
    """Trains with dlrt into a folder of its own."""

    def trained(name, *overrides, interrupt_at=None, **keys):
        def on_event(event):
            if isinstance(event, events.Stepped) and event.step == interrupt_at:
                signal.raise_signal(signal.SIGINT)

        recipe = with_settings(
            load_recipe(recipe_path), ["optimizer.method=dlrt", "data.batch_size=16", *overrides]
        )
        folder = recipe_path.parent / name
        return train(
            recipe,
            recipe_path=recipe_path,
            output=folder,
            device="cpu",
            on_event=on_event,
            **keys,
        )

    return trained


@pytest.fixture
def opened(recipe_path):
    """A session that is ready to step, and its stepper."""

    def open_one(*overrides):
        recipe = with_settings(load_recipe(recipe_path), overrides)
        ready = open_session(
            recipe, recipe_path=recipe_path, output=recipe_path.parent / "run", device="cpu"
        )
        stream = BatchStream(ready.target.data, ready.recipe.data.batch_size, seed=0)
        return ready, Stepper(ready, stream)

    return open_one


def ranks(path):
    return {name: len(value) for name, value in load_file(path).items() if name.endswith(".S")}


def test_ranks_that_have_changed_resume_bit_for_bit(run):
    grow = ["optimizer.options.rank=1", "optimizer.options.max_rank=5", "optimizer.options.tau=0.0"]
    whole = run("whole", *grow, "checkpoint.every=1", "checkpoint.keep=9")
    first = ranks(f"{whole.output}/checkpoints/step-1/model.safetensors")
    last = ranks(f"{whole.checkpoint}/model.safetensors")
    assert all(last[name] > first[name] for name in last)
    run("parts", *grow, interrupt_at=3)
    resumed = run("parts", *grow, resume=True)
    assert resumed.resumed_from == 3
    assert resumed.loss == whole.loss
    a, b = load_file(whole.weights), load_file(resumed.weights)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def watched(opened, monkeypatch):
    """A stepper whose batches and losses are noted, one (batch, loss) for each evaluation of a micro-batch."""

    def open_one(*overrides):
        ready, stepper = opened(*overrides)
        seen, data_type = [], type(ready.target.data)
        loss_of = data_type.loss

        def loss(data, model, batch):
            value = loss_of(data, model, batch)
            seen.append((batch.tolist(), value.item()))
            return value

        monkeypatch.setattr(data_type, "loss", loss)
        return stepper, seen

    return open_one


def test_every_evaluation_sees_the_same_batches_and_tokens_count_once(watched):
    stepper, seen = watched("optimizer.method=dlrt", "data.accumulate=2")
    for step in (1, 2):
        seen.clear()
        done = stepper.take(step)
        one, two, again, and_two = [batch for batch, _ in seen]
        assert (one, two) == (again, and_two)
        assert one != two
        assert done.tokens == 2 * 8
        # The first evaluation's, as every other method's; at an adaptive rank the second one is of the same point.
        assert done.loss == pytest.approx((seen[0][1] + seen[1][1]) / 2)


def test_the_loss_reported_is_that_of_the_weights_the_step_began_with(watched):
    fixed = ["optimizer.options.rank_mode=fixed", "optimizer.options.rank=2", "optimizer.lr=1"]
    stepper, seen = watched("optimizer.method=dlrt", *fixed)
    done = stepper.take(1)
    (_, first), (_, second) = seen
    assert done.loss == pytest.approx(first)
    assert abs(first - second) > 1e-3


def test_clipping_reaches_every_evaluation(opened):
    """With gradients clipped to nothing, SGD moves nothing, neither bases nor cores nor the rest."""
    ready, stepper = opened(
        "optimizer.method=dlrt", "optimizer.options.integrator=sgd", "clip_norm=1e-12",
        "optimizer.lr=1.0", "optimizer.options.rank_mode=fixed",
    )  # fmt: skip
    weights = METHODS["dlrt"].dense_state_dict(ready.model)["inner.weight"].clone()
    done = stepper.take(1)
    assert done.grad_norm > 1e-3
    moved = METHODS["dlrt"].dense_state_dict(ready.model)["inner.weight"]
    torch.testing.assert_close(moved, weights, rtol=0, atol=1e-6)


def test_the_run_folder_holds_dense_weights_that_compute_the_same(run, recipe_path):
    result = run("run", "optimizer.options.rank=3", "schedule.steps=3")
    namespace = {}
    exec((recipe_path.parent / "model.py").read_text(), namespace)
    plain = namespace["build_model"]()
    weights = load_file(result.weights)
    plain.load_state_dict(weights, strict=False)  # tied: the head is stored as the embedding
    trained = namespace["build_model"]()
    METHODS["dlrt"].replace(
        trained, {f"{n}.weight": METHODS["dlrt"].resolve() for n in ("inner", "outer")}
    )
    factors = load_file(f"{result.checkpoint}/model.safetensors")
    trained.load_state_dict(factors, strict=False)
    ids = torch.arange(11)
    plain.eval(), trained.eval()
    torch.testing.assert_close(plain(ids), trained(ids), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(to_dense(trained)(ids), plain(ids), rtol=1e-5, atol=1e-6)


def test_the_prediction_is_of_the_largest_ranks_and_exact_where_they_are_fixed(run):
    fixed = run("fixed", "optimizer.options.rank_mode=fixed", "optimizer.options.rank=2")
    assert fixed.predicted.state_bytes == fixed.actual.state_bytes > 0
    adaptive = run("adaptive", "optimizer.options.tau=0.9", "optimizer.options.max_rank=1.0")
    assert adaptive.actual.state_bytes < adaptive.predicted.state_bytes
    assert adaptive.diagnostics["max_rank"] < 6


def test_loss_scaling_is_refused_before_training(recipe_path, monkeypatch):
    real = trainable.make_accelerator

    def scaling(recipe, device):
        accelerator = real(recipe, device)
        accelerator.scaler = torch.amp.GradScaler("cpu")
        return accelerator

    monkeypatch.setattr(trainable, "make_accelerator", scaling)
    recipe = with_settings(load_recipe(recipe_path), ["optimizer.method=dlrt"])
    with pytest.raises(
        PreflightError, match="dlrt evaluates the loss more than once a step"
    ) as caught:
        open_session(
            recipe, recipe_path=recipe_path, output=recipe_path.parent / "run", device="cpu"
        )
    assert "bf16-mixed" in caught.value.hint
    assert caught.value.exit_status == 2


def test_a_rule_in_the_recipe_cannot_replace_layers(recipe_path):
    recipe = with_settings(
        load_recipe(recipe_path), ["optimizer.overrides=[{pattern: inner, method: dlrt}]"]
    )
    with pytest.raises(OptionError, match="cannot name 'dlrt'"):
        open_session(
            recipe, recipe_path=recipe_path, output=recipe_path.parent / "run", device="cpu"
        )
