"""The code of the page on use elsewhere runs as it stands there, and what the page says of it is true."""

import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from subopt.optimizers import METHODS, create

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "elsewhere.md").read_text(encoding="utf-8")
LENGTH = 8


def snippet(heading):
    """The page's code below a heading."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def build_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=17, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=LENGTH,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def examples(count):
    ids = torch.randint(17, (count, LENGTH), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in ids]


def compute_loss(model, batch):
    logits = model(input_ids=batch["input_ids"]).logits.float()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the snippets take as given."""
    monkeypatch.chdir(tmp_path)
    loader = torch.utils.data.DataLoader(examples(16), batch_size=2)
    return {
        "build_model": build_model, "model": build_model(), "compute_loss": compute_loss,
        "batches": loader, "loader": loader, "dataset": examples(16), "ACCUMULATE": 2,
    }  # fmt: skip


# Lightning's about few steps and one worker, and a loader's that pins memory without a GPU
pytestmark = pytest.mark.filterwarnings("ignore")


def run(heading, names):
    exec(compile(snippet(heading), heading, "exec"), names)


def assert_trained(model, optimizer, steps):
    before = build_model().state_dict()
    assert all(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    counts = {int(state["step"]) for state in optimizer.state.values()}
    assert counts == {steps}


def test_the_loop_trains(names):
    run("A plain loop", names)
    assert_trained(names["model"], names["optimizer"], steps=4)
    run("What to look at while it trains", names)


def test_lightning_trains(names):
    run("Lightning", names)
    trainer = names["trainer"]
    assert_trained(trainer.lightning_module.model, trainer.optimizers[0], steps=4)


def test_a_trainer_trains_and_resumes(names):
    run("A Hugging Face Trainer", names)
    trainer = names["trainer"]
    assert_trained(names["model"], names["optimizer"], steps=4)
    saved = torch.load("out/checkpoint-4/optimizer.pt", weights_only=True)
    assert saved["state"].keys() == names["optimizer"].state_dict()["state"].keys()
    trainer.args.max_steps = 6
    trainer.train(resume_from_checkpoint="out/checkpoint-4")
    assert_trained(names["model"], names["optimizer"], steps=6)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dlrt"])
def test_every_method_takes_lightnings_kind_of_closure(name):
    """It clears the gradients, computes the loss, goes backward and returns it, and is called within step."""
    models = [torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    inputs = torch.randn(7, 6)
    for model, is_closure in zip(models, (True, False), strict=True):
        optimizer = create(name, model, lr=1e-2)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(inputs).square().mean()
            loss.backward()
            return loss

        for _ in range(2):
            if is_closure:
                assert optimizer.step(closure) > 0
            else:
                closure()
                optimizer.step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
