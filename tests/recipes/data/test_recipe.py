"""`data.files` in a recipe: written with comments, read back the same, overridden, refused where it is wrong."""

import os
import re
from pathlib import Path

import pytest

from subopt.errors import FileFormatError, UsageError
from subopt.recipes.data.paths import absolute, expand, moved, relative
from subopt.recipes.recipe.load import parse_recipe, with_settings
from subopt.recipes.recipe.write import dump_recipe

RECIPE = """
model: {target: model.py}
data: {files: {train: ["texts/*.txt", "hf:org/name:train"], held_out: 0.01, tokenizer: tok.json, separator: "\\n"}}
optimizer: {method: adamw, lr: 1e-2}
schedule: {steps: 6}
"""


def test_it_is_written_with_comments_and_reads_back():
    recipe = parse_recipe(RECIPE)
    text = dump_recipe(recipe)
    assert parse_recipe(text) == recipe
    assert re.search(r"\n    held_out: 0\.01 +# share of train that is held out", text)


def test_keys_can_be_overridden():
    changed = with_settings(
        parse_recipe(RECIPE), ["data.files.sequence_length=64", "data.files.shuffle=false"]
    )
    assert (changed.data.files.sequence_length, changed.data.files.shuffle) == (64, False)
    with pytest.raises(UsageError, match="unknown key 'sequence'; did you mean 'sequence_length'"):
        with_settings(parse_recipe(RECIPE), ["data.files.sequence=64"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("train: []", "at least 1 item"),
        ("train: a.txt", "must be a list"),
        ("train: [a], sequence_length: 1", "greater than or equal to 2"),
        ("train: [a], sequence_length: 1e99", "must be a whole number"),
        ("train: [a], held_out: 1", "less than 1"),
        ("train: [a], format: csv", "'text', 'jsonl', 'parquet' or 'dataset'"),
        ("train: [a], feild: x", "unknown key 'feild'; did you mean 'field'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(entry, message):
    text = RECIPE.splitlines()
    text[2] = f"data: {{files: {{{entry}}}}}"
    with pytest.raises(FileFormatError, match=message) as caught:
        parse_recipe("\n".join(text))
    assert caught.value.message.startswith("recipe:3: ")


def test_the_same_files_seen_from_elsewhere(tmp_path):
    files = parse_recipe(RECIPE).data.files
    run = tmp_path / "runs" / "one"
    seen = moved(files, tmp_path, run)
    assert seen.train == ["../../texts/*.txt", "hf:org/name:train"]
    assert seen.tokenizer == "../../tok.json"
    assert absolute(seen, run) == absolute(files, tmp_path)
    assert relative(absolute(files, tmp_path), run) == seen
    fixed = files.model_copy(
        update={"train": [os.fspath(Path("/data/*.txt"))], "tokenizer": "bytes"}
    )
    assert moved(fixed, tmp_path, run) == fixed


def test_a_folder_with_brackets_stays_a_folder(tmp_path):
    folder = tmp_path / "a[1]"
    folder.mkdir()
    files = parse_recipe(RECIPE).data.files
    assert absolute(files, folder).train[0] == f"{tmp_path}/a[[]1]/texts/*.txt"
    run = tmp_path / "runs[2]" / "one"
    seen = moved(files, folder, run)
    assert absolute(seen, run) == absolute(files, folder)
    (folder / "texts").mkdir()
    text = folder / "texts" / "x.txt"
    text.write_text("found")
    run.mkdir(parents=True)
    assert [place.path for place in expand(seen.train[:1], run, None)] == [text.resolve()]
