"""Checkpoints: what goes in comes out, and a kill or damage never passes for a checkpoint."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from subopt.errors import FileFormatError
from subopt.optimizers import create
from subopt.profilers.target.random_state import cpu_state
from subopt.recipes.rng import preserved_rng, rng_state, seed_everything, set_rng_state
from subopt.recipes.run_folder import checkpoint as module
from subopt.recipes.run_folder.checkpoint import (
    RunProgress,
    checkpoints_in,
    discard_all,
    load_checkpoint,
    save_checkpoint,
    sweep,
)
from subopt.recipes.run_folder.weights import load_weights, save_weights


def model_of(width=4, dtype=torch.float32):
    model = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Linear(width, 6))
    return model.to(dtype)


def stepped(model, method="adadiag", steps=3, **options):
    optimizer = create(method, model, lr=0.01, **options)
    dtype = next(model.parameters()).dtype
    for _ in range(steps):
        model(torch.randn(8, 6).to(dtype)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def save(folder, model, optimizer, step=3, keep=2, data=None):
    return save_checkpoint(
        folder, model, optimizer, data or {"position": step}, RunProgress(step), keep=keep
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_everything_comes_back_bit_for_bit(tmp_path, dtype):
    model = model_of(dtype=dtype)
    optimizer = stepped(model, period=2)
    progress = RunProgress(step=3, tokens=24, loss=0.5, eval_loss=0.25, eval_step=2)
    path = save_checkpoint(tmp_path, model, optimizer, {"position": 7}, progress, keep=1)
    expected = (torch.rand(3), random.random(), np.random.rand())  # noqa: NPY002

    other = model_of(dtype=dtype)
    fresh = create("adadiag", other, lr=0.01, period=2)
    restored = load_checkpoint(path, other, fresh)
    set_rng_state(restored.rng)
    assert restored.progress == progress
    assert restored.data == {"position": 7}
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    saved, loaded = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    assert saved.keys() == loaded.keys()
    for key in saved:
        for name, value in saved[key].items():
            assert torch.equal(value, loaded[key][name])
            assert value.dtype == loaded[key][name].dtype
    found = (torch.rand(3), random.random(), np.random.rand())  # noqa: NPY002
    assert torch.equal(expected[0], found[0])
    assert expected[1:] == found[1:]


def test_every_file_loads_without_running_code(tmp_path):
    model = model_of()
    path = save(tmp_path, model, stepped(model))
    assert {p.name for p in path.iterdir()} == {
        "model.safetensors", "optimizer.pt", "trainer.pt", "checkpoint.json"
    }  # fmt: skip
    for name in ("optimizer.pt", "trainer.pt"):
        torch.load(path / name, weights_only=True)


def test_the_newest_are_kept_and_ordered_by_number(tmp_path):
    model = model_of()
    optimizer = stepped(model)
    for step in (8, 9, 10, 11):
        save(tmp_path, model, optimizer, step, keep=3)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-9", "step-10", "step-11"]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "trainer.pt", "checkpoint.json"]
)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "emptied"])
def test_damage_is_told_with_the_file_and_the_way_on(tmp_path, name, damage):
    model = model_of()
    optimizer = stepped(model)
    save(tmp_path, model, optimizer, 2)
    path = save(tmp_path, model, optimizer, 3)
    file = path / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
        file.write_bytes(
            {"truncated": content[:middle], "flipped": flipped, "emptied": b""}[damage]
        )
    with pytest.raises(FileFormatError, match=f"{name} is damaged") as caught:
        load_checkpoint(path, model, optimizer)
    assert "to go on from step-2" in caught.value.hint


@pytest.mark.parametrize("random", [{}, {"random": "x"}, {"random": {}}])
def test_generators_of_the_data_are_tried_before_they_are_needed(tmp_path, random):
    model = model_of()
    optimizer = stepped(model)
    data = {"position": 3, "iterable": {"at": 3}}
    good = save(tmp_path, model, optimizer, data={**data, "random": cpu_state()})
    before = torch.get_rng_state()
    assert load_checkpoint(good, model, optimizer).data["iterable"] == {"at": 3}
    assert torch.equal(torch.get_rng_state(), before)
    bad = save(tmp_path, model, optimizer, 4, data={**data, **random})
    with pytest.raises(FileFormatError, match=r"trainer\.pt is damaged"):
        load_checkpoint(bad, model, optimizer)


def test_a_checkpoint_of_another_model_or_method_is_told(tmp_path):
    model = model_of()
    path = save(tmp_path, model, stepped(model))
    wider = model_of(width=5)
    with pytest.raises(FileFormatError, match="does not fit this model"):
        load_checkpoint(path, wider, create("adadiag", wider))
    parts = model_of()
    one_group = torch.optim.SGD(parts.parameters(), lr=0.1)
    with pytest.raises(FileFormatError, match="does not fit this optimizer"):
        load_checkpoint(path, parts, one_group)


class KilledError(BaseException):
    """Stands for a kill at one instant."""


@pytest.mark.parametrize("instant", range(12))
def test_a_kill_between_any_two_writes_leaves_the_last_complete_checkpoint(
    tmp_path, monkeypatch, instant
):
    model = model_of()
    optimizer = stepped(model)
    save(tmp_path, model, optimizer, 2, keep=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    count = 0

    def killed_here(original):
        def wrapper(*args, **keys):
            nonlocal count
            count += 1
            if count > instant:
                raise KilledError
            return original(*args, **keys)

        return wrapper

    import shutil
    from pathlib import Path

    monkeypatch.setattr(module, "sync", killed_here(module.sync))
    monkeypatch.setattr(Path, "rename", killed_here(Path.rename))
    monkeypatch.setattr(shutil, "rmtree", killed_here(shutil.rmtree))
    with torch.no_grad():
        model[0].weight.add_(1)
    after = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        save(tmp_path, model, optimizer, 3, keep=1)
        was_killed = False
    except KilledError:
        was_killed = True
    monkeypatch.undo()

    newest = checkpoints_in(tmp_path)[-1]
    load_checkpoint(newest, model, optimizer)
    expected = before if newest.name == "step-2" else after
    assert all(torch.equal(expected[k], v) for k, v in model.state_dict().items())
    assert was_killed or newest.name == "step-3"
    # and the next run cleans up
    sweep(tmp_path)
    assert all(path.name.startswith("step-") for path in tmp_path.iterdir())


def test_the_instants_above_cover_the_whole_save(tmp_path, monkeypatch):
    calls = []
    model = model_of()
    optimizer = stepped(model)
    save(tmp_path, model, optimizer, 2, keep=1)
    original = module.sync
    monkeypatch.setattr(module, "sync", lambda path: (calls.append(path), original(path)))
    save(tmp_path, model, optimizer, 3, keep=1)
    # optimizer, trainer, manifest, folder, parent; plus two renames and one rmtree
    assert len(calls) + 3 <= 12


def test_discarding_leaves_other_files_alone(tmp_path):
    model = model_of()
    save(tmp_path, model, stepped(model))
    (tmp_path / "notes.txt").write_text("mine")
    discard_all(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


class Tied(nn.Module):
    """Tied, transposed, sliced and empty tensors: everything a file of whole tensors could get wrong."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        base = torch.randn(4, 6)
        self.turned = nn.Parameter(base.t())
        self.register_buffer("part", base[1:3, 2:5])
        self.register_buffer("empty", torch.zeros(0, 2))
        self.register_buffer("none_too", torch.zeros(0, 2))
        self.register_buffer("count", torch.tensor(3))


def test_tied_and_odd_shaped_weights_survive(tmp_path):
    from safetensors.torch import load_file

    model, other = Tied(), Tied()
    save_weights(model.state_dict(), tmp_path / "w.safetensors")
    assert sorted(load_file(tmp_path / "w.safetensors")).count("first.weight") == 1
    assert "second.weight" not in load_file(tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert other.second.weight is other.first.weight


def test_a_model_whose_state_is_no_tensor_is_told(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"version": 1}

    with pytest.raises(FileFormatError, match="_extra_state"):
        save_weights(Odd(2, 2).state_dict(), tmp_path / "w.safetensors")


def test_generators_repeat_after_seeding_and_are_preserved():
    def draws():
        return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002

    seed_everything(2**40 + 3)
    first = draws()
    seed_everything(2**40 + 3)
    assert draws() == first
    state = rng_state()
    with preserved_rng():
        expected = draws()
    assert draws() == expected
    set_rng_state(state)
    random.gauss(0, 1)
    with preserved_rng():
        random.gauss(0, 1)
        seed_everything(0)
    set_rng_state(state)
    assert draws() == expected


def test_weights_are_as_readable_as_other_files(tmp_path):
    save_weights(model_of().state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "other").write_text("")
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
