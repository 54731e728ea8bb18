"""Tokenizers: bytes, a file, a folder; which token ends a document; and what is refused."""

import json

import pytest
from transformers import PreTrainedTokenizerFast

from subopt.errors import FileFormatError, UsageError
from subopt.recipes.data.tokenizer import load_tokenizer

TEXT = "number 7: żółw, 東京\n"


def test_bytes_come_back(tmp_path):
    tokenizer = load_tokenizer("bytes", None, tmp_path)
    (tokens,) = tokenizer.encode([TEXT])
    assert bytes(tokens.tolist()).decode() == TEXT
    assert (tokenizer.vocabulary, tokenizer.separator) == (256, 0)


@pytest.mark.parametrize("separator", ["ab", "é", ""])
def test_a_separator_of_bytes_is_one(tmp_path, separator):
    with pytest.raises(UsageError, match="not one byte"):
        load_tokenizer("bytes", separator, tmp_path)


def test_a_file_comes_back_without_truncation(tmp_path, tokenizer_file, trained_tokenizer):
    tokenizer = load_tokenizer(tokenizer_file, None, tmp_path)
    (tokens,) = tokenizer.encode([TEXT])
    assert len(tokens) > 5
    assert tokens.tolist() == trained_tokenizer.encode(TEXT).ids
    assert tokenizer.vocabulary == trained_tokenizer.get_vocab_size()
    assert tokenizer.separator == trained_tokenizer.token_to_id("</s>")


def test_a_folder_says_which_token_ends_a_text(tmp_path, trained_tokenizer):
    fast = PreTrainedTokenizerFast(tokenizer_object=trained_tokenizer, eos_token="number")
    fast.save_pretrained(tmp_path / "folder")
    plain = load_tokenizer("folder", None, tmp_path)
    assert plain.separator == fast.convert_tokens_to_ids("number")
    named = load_tokenizer("folder", "</s>", tmp_path)
    assert named.separator == trained_tokenizer.token_to_id("</s>")


def test_a_folder_without_tokenizer_json(tmp_path, trained_tokenizer):
    folder = tmp_path / "gpt2"
    folder.mkdir()
    content = json.loads(trained_tokenizer.to_str())
    (folder / "vocab.json").write_text(
        json.dumps(content["model"]["vocab"] | {"<|endoftext|>": 400})
    )
    merges = content["model"]["merges"]
    lines = [" ".join(pair) if isinstance(pair, list) else pair for pair in merges]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    tokenizer = load_tokenizer("gpt2", None, tmp_path)
    assert tokenizer.separator == 400
    assert tokenizer.vocabulary == 401
    assert tokenizer.encode([TEXT])[0].tolist() == trained_tokenizer.encode(TEXT).ids


def test_code_in_a_folder_is_not_run(tmp_path):
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["code.Mine", null]}}'
    )
    (folder / "config.json").write_text('{"auto_map": {"AutoTokenizer": ["code.Mine", null]}}')
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(UsageError, match="no tokenizer hostile in that folder"):
        load_tokenizer("hostile", None, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(FileFormatError, match=r"tokenizer\.json is not a tokenizer"):
        load_tokenizer("tokenizer.json", None, tmp_path)
    with pytest.raises(UsageError, match=r"no tokenizer byte in .*; did you mean 'bytes'"):
        load_tokenizer("byte", None, tmp_path)


def test_an_end_of_text_must_be_known(tmp_path, tokenizer_file):
    path = tmp_path / tokenizer_file
    path.write_text(path.read_text().replace("</s>", "<end>"))
    with pytest.raises(UsageError, match="does not say which token ends a text") as caught:
        load_tokenizer(tokenizer_file, None, tmp_path)
    assert caught.value.hint == "set data.files.separator to a token of it"
    load_tokenizer(tokenizer_file, "<end>", tmp_path)
    with pytest.raises(UsageError, match="has no token '<edn>'; did you mean '<end>'"):
        load_tokenizer(tokenizer_file, "<edn>", tmp_path)
