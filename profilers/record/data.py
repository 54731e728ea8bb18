"""Which files training data comes from: written into recipes, and into the profile of a model measured on them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from .base import Record

FileFormat = Literal["text", "jsonl", "parquet", "dataset"]


class Files(Record):
    """Text, JSON Lines or Parquet files, or a Hugging Face data set, cut into windows of `sequence_length` tokens.

    Paths are relative to the recipe, and may be patterns such as `texts/*.txt`; what `eval` names is left out of
    `train`. A data set is a folder that `save_to_disk` wrote, `FOLDER` or `FOLDER:SPLIT`, or one of the hub: `hf:NAME`,
    `hf:NAME:SPLIT` or `hf:NAME:CONFIG:SPLIT`, where a split may be a slice, `train[:95%]`. Batches are dicts of
    `input_ids` and `labels`, both the same int64 tokens, which is what Hugging Face language models take: they shift
    the labels themselves.

    Attributes:
        train: Files to train on.
        eval: Held-out files, in this order at every evaluation.
        held_out: Share of the training data that is held out instead, where `eval` is empty; never trained on.
        format: What the files are; None goes by their names.
        field: Where the text is in a JSON object, a Parquet file or a data set.
        tokenizer: `bytes`, a tokenizer.json, a folder with a Hugging Face tokenizer, or one of the hub: `hf:NAME`.
        separator: The token between two documents; None is the tokenizer's end of text, and of bytes the byte 0.
        sequence_length: Tokens of one example. Its loss has one term less.
        shuffle: Whether the training examples come in an order that the seed and the epoch decide.
    """

    model_config = ConfigDict(strict=True)

    train: list[str] = Field(min_length=1)
    eval: list[str] = []
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    format: FileFormat | None = None
    field: str = "text"
    tokenizer: str = "bytes"
    separator: str | None = None
    sequence_length: Annotated[int, Field(ge=2, le=2**24)] = 256
    shuffle: bool = True
