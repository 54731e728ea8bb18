"""Turning text into tokens: bytes, or a Hugging Face tokenizer. Nothing in a tokenizer's files is ever executed."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subopt.errors import FileFormatError, UsageError, suggestion
from subopt.profilers.target.hf_config import in_short

from .hub import cache_alone_unless_it_answers
from .paths import BYTES, HUB, existing, needing

Tokens = NDArray[np.int32]

_BYTE_VALUES = 256
_MOST_CONFIG_BYTES = 2**24
# How the families of models call the end of a text, in the files that do not say which token it is.
_END_NAMES = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]")
_SET_SEPARATOR = "set data.files.separator to a token of it"


@dataclass(frozen=True)
class Tokenizer(ABC):
    """What turns texts into tokens.

    Attributes:
        separator: The token that follows every document.
        vocabulary: One more than the largest token.
        digest: Changes when the tokenizer does.
    """

    separator: int
    vocabulary: int
    digest: str

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of each text, without a separator."""


@dataclass(frozen=True)
class ByteTokenizer(Tokenizer):
    """The bytes of a text's UTF-8 form, and a byte that follows every document: 0, which a text hardly ever holds.

    A 0 that is in a text reads like the end of a document, as does a line end where that is the separator.
    """

    separator: int = 0
    vocabulary: int = _BYTE_VALUES
    digest: str = BYTES

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the bytes of each text."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]


@dataclass(frozen=True)
class FastTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` package, without its special tokens, truncation and padding."""

    _tokenizer: Any

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of each text."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in found]


def load_tokenizer(name: str, separator: str | None, base: Path) -> Tokenizer:
    """Load a tokenizer.

    Args:
        name: `bytes`, a tokenizer.json, a folder with a tokenizer, or `hf:` and a name of the Hugging Face hub.
        separator: The token between documents, or None for the tokenizer's end of text.
        base: What a relative path starts from.

    Raises:
        UsageError: There is no such tokenizer or separator, or a package is missing.
        FileFormatError: The file is no tokenizer.
    """
    if name == BYTES:
        return ByteTokenizer(_byte(separator))
    path = existing(name, base)
    if path is None and not name.startswith(HUB):
        raise UsageError(
            f"there is no tokenizer {name} in {base.resolve()}{suggestion(name, [BYTES])}",
            "name a tokenizer.json, a folder with one, bytes, or one of the Hugging Face hub: hf:ORG/NAME",
        )
    file = path / "tokenizer.json" if path is not None and path.is_dir() else path
    if file is not None and file.is_file():
        tokenizer, end = _from_file(file), _end_in_config(file.with_name("tokenizer_config.json"))
    else:
        tokenizer, end = _from_transformers(path, name.removeprefix(HUB))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    return FastTokenizer(
        separator=_separator(separator, end, vocabulary, name),
        vocabulary=max(vocabulary.values(), default=-1) + 1,
        digest=hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
        _tokenizer=tokenizer,
    )


def _byte(separator: str | None) -> int:
    if separator is None:
        return 0
    if len(separator.encode()) != 1:
        raise UsageError(
            f"the separator {separator!r} is not one byte",
            'with bytes as tokens leave data.files.separator out, or make it one byte such as "\\n"',
        )
    return separator.encode()[0]


def _from_file(file: Path) -> Any:
    with needing("the tokenizers package", "hf", file):
        from tokenizers import Tokenizer as Fast
    try:
        return Fast.from_file(str(file))
    except Exception as error:  # the package raises bare Exceptions
        raise FileFormatError(
            f"{file} is not a tokenizer: {in_short(error)}", "name a tokenizer.json"
        ) from None


def _from_transformers(folder: Path | None, name: str) -> tuple[Any, str | None]:
    """Load a tokenizer of a folder without a tokenizer.json, or of the hub, and return it with its end of text."""
    with needing("the transformers package", "hf", name):
        from transformers import AutoTokenizer
    try:
        with nullcontext() if folder else cache_alone_unless_it_answers():
            loaded = AutoTokenizer.from_pretrained(
                str(folder or name), trust_remote_code=False, local_files_only=folder is not None
            )
    except Exception as error:  # a wrong name, the network, or any file of a foreign folder
        where = "in the Hugging Face cache or on the hub" if folder is None else "in that folder"
        raise UsageError(
            f"no tokenizer {name} {where} can be loaded: {in_short(error)}",
            "name a tokenizer.json, or a folder with one",
        ) from None
    fast = getattr(loaded, "backend_tokenizer", None)
    if fast is None:
        raise UsageError(
            f"the tokenizer {name} has no fast form",
            "convert it to a tokenizer.json, and name that",
        )
    return fast, loaded.eos_token


def _end_in_config(file: Path) -> str | None:
    """Return the end-of-text token that a tokenizer_config.json names, if there is one."""
    try:
        if file.stat().st_size > _MOST_CONFIG_BYTES:
            return None
        token = json.loads(file.read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _separator(asked: str | None, end: str | None, vocabulary: dict[str, int], name: str) -> int:
    if asked is not None:
        if asked not in vocabulary:
            near = suggestion(asked, vocabulary)
            raise UsageError(f"the tokenizer {name} has no token {asked!r}{near}", _SET_SEPARATOR)
        return vocabulary[asked]
    known = [token for token in (end, *_END_NAMES) if token in vocabulary]
    if not known:
        raise UsageError(
            f"the tokenizer {name} does not say which token ends a text", _SET_SEPARATOR
        )
    return vocabulary[known[0]]
