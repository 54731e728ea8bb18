"""Models trained on files: which losses can take their batches, and what is said where one cannot."""

import json

import pytest
import torch
from torch.nn import functional as F

from subopt.errors import PreflightError
from subopt.profilers.target.batches import BatchStream
from subopt.profilers.target.load import load_target
from subopt.recipes.data import with_files

from .conftest import files_of
from .test_order import MODEL

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture
def load(tmp_path, texts):
    """Return a function that loads a model file, or a config, with the texts as its data."""

    def load(source, **options):
        if isinstance(source, dict):
            (tmp_path / "config.json").write_text(json.dumps(source))
            target = load_target("hf:config.json", base=tmp_path)
        else:
            (tmp_path / "model.py").write_text(source)
            target = load_target("model.py", base=tmp_path)
        return with_files(target, files_of(texts, **options), tmp_path)

    return load


def first_loss(target):
    torch.manual_seed(0)
    model = target.build_model()
    batch = next(BatchStream(target.data, 4, seed=0))
    return model, batch, target.data.loss(model, batch)


def complaint(target):
    with pytest.raises(PreflightError) as caught:
        first_loss(target)
    return caught.value


def test_a_model_that_gives_scores_is_scored_on_the_next_token(load):
    model, batch, loss = first_loss(load(MODEL))
    ids = batch["input_ids"]
    scores = model(ids)
    slow = [
        F.cross_entropy(scores[row, at], ids[row, at + 1]) for row in range(4) for at in range(31)
    ]
    torch.testing.assert_close(loss, torch.stack(slow).mean())


def test_a_hugging_face_model_shifts_the_labels_itself(load):
    target = load(LLAMA)
    assert not target.record.synthetic_data
    assert target.record.is_hf
    model, batch, loss = first_loss(target)
    scores = model(input_ids=batch["input_ids"]).logits[:, :-1]
    slow = F.cross_entropy(scores.flatten(0, 1), batch["input_ids"][:, 1:].flatten())
    torch.testing.assert_close(loss, slow)


def test_a_loss_of_the_users_gets_the_dict(load):
    own = "\ndef loss(model, batch):\n    return model(batch['input_ids']).mean() + batch['labels'].shape[1]\n"
    model, batch, loss = first_loss(load(MODEL + own))
    torch.testing.assert_close(loss, model(batch["input_ids"]).mean() + 32)


def test_data_of_the_users_is_not_used(load):
    own = "\ndef batches(n):\n    raise ValueError\n\ndef eval_batches(n):\n    raise ValueError\n"
    assert not load(MODEL + own).data.has_eval
    target = load(MODEL + own, eval=["texts/0000.txt"], length=16)
    assert target.data.has_eval
    assert next(iter(target.data.eval_batches(2)))["labels"].shape == (2, 16)
    assert next(BatchStream(target.data, 2, seed=0))["labels"].shape == (2, 16)


@pytest.mark.parametrize(
    "own",
    [
        "def loss(model, batch):\n    return model(batch[:, :-1]).mean()",
        "def loss(model, batch):\n    ids, labels = batch\n    return model(ids).mean()",
        "def loss(model, batch):\n    return model(batch.long()).mean()",
    ],
)
def test_a_loss_that_takes_something_else_is_told_what_a_batch_is(load, own):
    error = complaint(load(f"{MODEL}\n{own}\n"))
    assert error.message.startswith("loss(model, batch) failed")
    assert "model.py:1" in error.message
    assert "dict of input_ids and labels, both int64 of shape (batch, 32)" in error.hint


def test_a_model_that_gives_no_scores(load):
    error = complaint(load(MODEL.replace("self.head(self.embed(ids))", "self.embed(ids).mean(1)")))
    assert error.message == "Net gives [4, 8] for [4, 32] tokens, not scores of every next token"


def test_a_vocabulary_that_is_larger_than_the_embedding(load):
    for source in (MODEL.replace("(256, 8)", "(200, 8)"), {**LLAMA, "vocab_size": 200}):
        error = complaint(load(source))
        assert error.message == "the tokenizer bytes has 256 tokens and the model's embedding 200"


def test_a_window_that_is_longer_than_the_model_reads(load):
    error = complaint(load(LLAMA, length=65))
    assert error.message == "data.files.sequence_length is 65 and the model has 64 positions"


def test_an_architecture_that_is_not_trained_on_the_next_token(load):
    bert = {**LLAMA, "model_type": "bert", "architectures": ["BertForMaskedLM"]}
    assert "BertForMaskedLM is not trained on the next token" in complaint(load(bert)).message


def test_another_process_gets_inputs_of_the_same_shape(load):
    target = load(MODEL)
    again = load_target(**target.load_arguments())
    batch = next(BatchStream(again.data, 4, seed=0))
    assert {name: tensor.shape for name, tensor in batch.items()} == {
        "input_ids": (4, 32),
        "labels": (4, 32),
    }
    assert again.loss(again.build_model(), batch).isfinite()


@pytest.mark.parametrize("form", ["texts", "zstd", "parquet_file", "data_set"])
def test_a_project_may_own_the_names_of_the_libraries_that_read(
    form, tmp_path, request, tokenizer_file
):
    place = request.getfixturevalue(form)
    project = tmp_path / "project"
    for name in ("datasets", "pyarrow", "tokenizers", "gzip", "huggingface_hub"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("mine = True\n")
    (project / "model.py").write_text(
        "import datasets, pyarrow, tokenizers\nassert datasets.mine and pyarrow.mine and tokenizers.mine\n"
        + MODEL.replace("(256, 8)", "(300, 8)").replace("(8, 256)", "(8, 300)")
    )
    target = load_target("project/model.py", base=tmp_path)
    files = files_of(place, eval=[place] if form == "zstd" else [], tokenizer=tokenizer_file)
    if form == "zstd":
        files = files.model_copy(update={"train": [request.getfixturevalue("texts")]})
    target = with_files(target, files, tmp_path)
    _, batch, loss = first_loss(target)
    assert loss.isfinite()
    if form == "zstd":
        with target.code.running("iterating"):
            assert next(iter(target.data.eval_batches(4)))["labels"].shape == batch["labels"].shape
