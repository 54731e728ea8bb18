"""Every format gives the windows of the slow way: read all, tokenise, put a separator after each, cut."""

import numpy as np
import pytest
import torch

from subopt.errors import UsageError

from .conftest import DOCUMENTS, files_of, open_files, reference_windows, windows_of

FORMATS = ["texts", "json_lines", "zipped", "zstd", "parquet_file", "data_set"]


@pytest.mark.parametrize("form", FORMATS)
def test_windows_equal_the_slow_way(form, tmp_path, request):
    expected = reference_windows(DOCUMENTS, 32)
    files = files_of(request.getfixturevalue(form), shuffle=False)
    found = windows_of(files, tmp_path, len(expected), batch_size=7)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("form", ["json_lines", "parquet_file"])
def test_a_tokenizer_gives_the_slow_way_too(
    form, tmp_path, request, tokenizer_file, trained_tokenizer
):
    encode = lambda text: trained_tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    end = trained_tokenizer.token_to_id("</s>")
    expected = reference_windows(DOCUMENTS, 32, encode, end)
    files = files_of(request.getfixturevalue(form), shuffle=False, tokenizer=tokenizer_file)
    np.testing.assert_array_equal(windows_of(files, tmp_path, len(expected)), expected)


def test_batches_are_dicts_of_equal_int64_tokens(tmp_path, texts):
    batch = next(open_files(files_of(texts), tmp_path, 3, split="train"))
    assert list(batch) == ["input_ids", "labels"]
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
    assert batch["input_ids"].shape == (3, 32)
    assert torch.equal(batch["input_ids"], batch["labels"])
    assert batch["input_ids"].data_ptr() != batch["labels"].data_ptr()


def test_held_out_batches_are_in_order_and_the_last_is_what_is_left(tmp_path, texts, json_lines):
    expected = reference_windows(DOCUMENTS, 32)
    files = files_of(texts, eval=[json_lines])
    batches = list(open_files(files, tmp_path, 8, split="eval"))
    assert len(batches[-1]["input_ids"]) == len(expected) % 8 != 0
    found = np.concatenate([batch["input_ids"].numpy() for batch in batches])
    np.testing.assert_array_equal(found, expected)


def test_what_is_held_out_is_not_trained_on(tmp_path, texts):
    files = files_of(texts, eval=["texts/0000.txt", "texts/0149.txt"], shuffle=False)
    expected = reference_windows(DOCUMENTS[1:-1], 32)
    np.testing.assert_array_equal(windows_of(files, tmp_path, len(expected)), expected)


def test_a_share_can_be_held_out(tmp_path, texts):
    files = files_of(texts, held_out=0.02, shuffle=False)
    held = [DOCUMENTS[49], DOCUMENTS[99], DOCUMENTS[149]]  # one in fifty
    trained = [text for text in DOCUMENTS if text not in held]
    expected = reference_windows(trained, 32)
    np.testing.assert_array_equal(windows_of(files, tmp_path, len(expected)), expected)
    (batch,) = open_files(files, tmp_path, 100, split="eval")
    np.testing.assert_array_equal(batch["input_ids"].numpy(), reference_windows(held, 32))


def test_splits_of_a_data_set(tmp_path, data_set):
    both = files_of(f"{data_set}:train", eval=[data_set])
    (batch,) = open_files(both, tmp_path, 100, split="eval")
    assert bytes(batch["input_ids"][0].tolist()) == (b"held out " * 40)[:32]
    swapped = files_of(f"{data_set}:validation", shuffle=False)
    assert bytes(windows_of(swapped, tmp_path, 1)[0].tolist()) == (b"held out " * 40)[:32]


def test_a_data_set_may_be_named_for_both_parts(tmp_path, data_set):
    files = files_of(data_set, eval=[data_set], shuffle=False)
    (batch,) = open_files(files, tmp_path, 100, split="eval")
    assert bytes(batch["input_ids"][0].tolist()) == (b"held out " * 40)[:32]
    expected = reference_windows(DOCUMENTS, 32)
    np.testing.assert_array_equal(windows_of(files, tmp_path, len(expected)), expected)


def test_a_split_that_is_held_out_under_another_name_is_not_trained_on(tmp_path, data_set):
    held = f"{data_set}:train"
    with pytest.raises(UsageError, match=r"is in data\.files\.eval too"):
        open_files(files_of(data_set, eval=[held]), tmp_path, 1, split="train")
    files = files_of(f"{data_set}:validation", data_set, eval=[held], shuffle=False)
    expected = reference_windows(["held out " * 40], 32)
    np.testing.assert_array_equal(
        windows_of(files, tmp_path, 2 * len(expected)), np.concatenate([expected] * 2)
    )


def test_formats_may_be_mixed_and_a_file_named_twice_counts_once(tmp_path, texts, parquet_file):
    files = files_of("texts/0003.txt", parquet_file, "texts/000[3-4].txt", shuffle=False)
    expected = reference_windows([DOCUMENTS[3], *DOCUMENTS, DOCUMENTS[4]], 32)
    np.testing.assert_array_equal(windows_of(files, tmp_path, len(expected)), expected)


def test_format_and_field_can_be_named(tmp_path):
    (tmp_path / "rows.dat").write_text('{"body": "one"}\n{"body": "two"}\n')
    files = files_of("rows.dat", format="jsonl", field="body", length=4, shuffle=False)
    assert windows_of(files, tmp_path, 2).tolist() == [[*b"one", 0], [*b"two", 0]]


def test_a_separator_can_be_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    files = files_of("rows.jsonl", separator="\n", length=8, shuffle=False)
    assert bytes(windows_of(files, tmp_path, 1)[0].tolist()) == b"one\ntwo\n"


def test_names_with_brackets_and_a_mark_at_the_start(tmp_path):
    folder = tmp_path / "a[1]"
    folder.mkdir()
    (folder / "b[2].txt").write_bytes(b"\xef\xbb\xbfab\r\nc")
    files = files_of("b[2].txt", length=6, shuffle=False)
    assert bytes(windows_of(files, folder, 1)[0].tolist()) == b"ab\r\nc\0"
